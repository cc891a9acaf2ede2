"""How a request came, checked: from its headers and, for events, from its address.

Ray's event export can set neither headers nor credentials, so on its path a query parameter does
what a header would: `?stream=NAME` names the stream, `?cluster_id=prod` is `X-P-cluster_id: prod`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from fastapi import Request

from rayotel.errors import NeverAcceptable
from rayotel.ingest.decode.decoder import CONTENT_TYPES, JSON
from rayotel.ingest.decode.limits.inflate import ENCODINGS
from rayotel.lake.schema import EVENTS, METRICS
from rayotel.model import MAX_STREAM_NAME_CHARACTERS, Arrival, is_stream_name

DEFAULT_STREAMS = {METRICS: "raymetrics", EVENTS: "rayevents"}
MAX_HEADER_COLUMNS = 10
MAX_HEADER_VALUE_BYTES = 100
MAX_USER_AGENT_CHARACTERS = 200
_ROUTING = ("stream", "log-source")


def content_type_of(headers: Mapping[str, str]) -> str:
    """The Content-Type without its parameters, in lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def metrics_arrival(request: Request) -> Arrival:
    """How a metrics request came; raises NeverAcceptable."""
    content_type = content_type_of(request.headers)
    if content_type not in CONTENT_TYPES:
        raise NeverAcceptable(
            415,
            "Content-Type is not one of OTLP's",
            hint=f"send {' or '.join(CONTENT_TYPES)}",
        )
    stream = request.headers.get("x-p-stream", DEFAULT_STREAMS[METRICS])
    columns = _columns(_labelled(request.headers))
    kind = JSON if content_type == JSON else CONTENT_TYPES[0]
    return _arrival(request, METRICS, stream, kind, columns)


def events_arrival(request: Request) -> Arrival:
    """How a request with events came, of any Content-Type; raises NeverAcceptable."""
    parameters = request.query_params.multi_items()
    named = [value for name, value in parameters if name.lower() == "stream"]
    header = request.headers.get("x-p-stream", DEFAULT_STREAMS[EVENTS])
    # the first of one name counts; `-` and `_` are the same in a column's name
    labels = [(name.replace("-", "_"), value.encode()) for name, value in parameters]
    labels += [(name.replace("-", "_"), value) for name, value in _labelled(request.headers)]
    stream = named[0] if named else header
    return _arrival(request, EVENTS, stream, JSON, _columns(labels))


def _arrival(
    request: Request,
    signal: str,
    stream: str,
    content_type: str,
    columns: tuple[tuple[str, str], ...],
) -> Arrival:
    headers = request.headers
    encoding = headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in ENCODINGS:
        raise NeverAcceptable(
            415, "Content-Encoding is not known", hint=f"send one of {', '.join(ENCODINGS)}"
        )
    stream = stream.strip()
    if not is_stream_name(stream):
        raise NeverAcceptable(
            400,
            "X-P-Stream is not a stream name",
            hint=f"use 1 to {MAX_STREAM_NAME_CHARACTERS} letters, digits, '_' and '-'",
        )
    return Arrival(
        signal=signal,
        stream=stream,
        content_type=content_type,
        content_encoding=encoding,
        received_unix_nano=time.time_ns(),
        source_ip=request.client.host if request.client else "",
        user_agent=headers.get("user-agent", "")[:MAX_USER_AGENT_CHARACTERS],
        header_columns=columns,
    )


def _labelled(headers: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """The `X-P-*` headers, without the `X-P-`."""
    return [
        (name[4:], value.encode("latin-1", "replace"))
        for name, value in headers.items()
        if name[:4].lower() == "x-p-"
    ]


def _columns(labels: Iterable[tuple[str, bytes]]) -> tuple[tuple[str, str], ...]:
    """What becomes columns, by name; raises NeverAcceptable beyond bounds."""
    found: dict[str, str] = {}
    for name, raw in labels:
        folded = name.lower()
        if folded.replace("_", "-") in _ROUTING:
            continue
        if len(raw) > MAX_HEADER_VALUE_BYTES or not folded:
            raise NeverAcceptable(
                400,
                f"header 'x-p-{folded[:50]}' has no name or a value of more than"
                f" {MAX_HEADER_VALUE_BYTES} bytes",
            )
        found.setdefault(folded, raw.decode("utf-8", "replace"))
    if len(found) > MAX_HEADER_COLUMNS:
        raise NeverAcceptable(400, f"more than {MAX_HEADER_COLUMNS} X-P-* headers")
    return tuple(sorted(found.items()))
