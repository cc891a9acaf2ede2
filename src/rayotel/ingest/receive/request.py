"""The arrival of a request, checked: from its headers, and for Ray's events from its address.

Ray's event export can set neither headers nor credentials, so on its path query parameters stand
for headers: `?stream=NAME` names the stream, `?cluster_id=prod` is `X-P-cluster_id: prod`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from rayotel.errors import NeverAcceptable
from rayotel.http.exchange import Exchange
from rayotel.ingest.decode.limits.inflate import ENCODINGS
from rayotel.lake.signal import Signal
from rayotel.model import JSON, MAX_STREAM_NAME_CHARACTERS, PROTOBUF, Arrival, is_stream_name

MAX_HEADER_COLUMNS = 10
MAX_HEADER_NAME_CHARACTERS = 100
MAX_HEADER_VALUE_BYTES = 100
MAX_USER_AGENT_CHARACTERS = 200
_ROUTING = ("stream", "log-source")
_CONTENT_TYPES = (PROTOBUF, JSON)


def arrival_of(exchange: Exchange, signal: Signal, default_stream: str) -> Arrival:
    """How a request of a signal came; raises NeverAcceptable.

    OTLP tells its format by the Content-Type; everything else is JSON, whatever it says.
    """
    content_type = JSON
    if signal.is_otlp:
        content_type = exchange.content_type
        if content_type not in _CONTENT_TYPES:
            raise NeverAcceptable(
                415,
                "Content-Type is not one of OTLP's",
                hint=f"send {' or '.join(_CONTENT_TYPES)}",
            )
    encoding = exchange.header(b"content-encoding").strip().lower() or "identity"
    if encoding not in ENCODINGS:
        raise NeverAcceptable(
            415, "Content-Encoding is not known", hint=f"send one of {', '.join(ENCODINGS)}"
        )
    parameters = [] if signal.is_otlp else exchange.query
    return Arrival(
        signal=signal.name,
        stream=_stream(exchange, parameters, default_stream),
        content_type=content_type,
        content_encoding=encoding,
        received_unix_nano=time.time_ns(),
        source_ip=exchange.client_ip,
        user_agent=exchange.header(b"user-agent")[:MAX_USER_AGENT_CHARACTERS],
        header_columns=_columns(exchange, parameters),
    )


def _stream(exchange: Exchange, parameters: list[tuple[str, str]], default_stream: str) -> str:
    named = (value for name, value in parameters if name.lower() == "stream")
    stream = next(named, exchange.header(b"x-p-stream", default_stream)).strip()
    if not is_stream_name(stream):
        raise NeverAcceptable(
            400,
            "X-P-Stream is not a stream name",
            hint=f"use 1 to {MAX_STREAM_NAME_CHARACTERS} letters, digits, '_' and '-', and no '_'"
            " at the beginning",
        )
    return stream


def _columns(
    exchange: Exchange, parameters: Iterable[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """What becomes columns, by name; raises NeverAcceptable beyond bounds."""
    labels = list(exchange.headers_from(b"x-p-"))
    if parameters:
        # the first of one name counts; `-` and `_` are the same in a column's name
        both = [*((name, value.encode()) for name, value in parameters), *labels]
        labels = [(name.replace("-", "_"), value) for name, value in both]
    columns: dict[str, str] = {}
    for name, raw in labels:
        folded = name.lower()
        if folded.replace("_", "-") in _ROUTING:
            continue
        if len(raw) > MAX_HEADER_VALUE_BYTES or not 0 < len(folded) <= MAX_HEADER_NAME_CHARACTERS:
            raise NeverAcceptable(
                400,
                f"header 'x-p-{folded[:50]}' has no name, or one of more than"
                f" {MAX_HEADER_NAME_CHARACTERS} characters, or a value of more than"
                f" {MAX_HEADER_VALUE_BYTES} bytes",
            )
        columns.setdefault(folded, raw.decode("utf-8", "replace"))
    if len(columns) > MAX_HEADER_COLUMNS:
        raise NeverAcceptable(400, f"more than {MAX_HEADER_COLUMNS} X-P-* headers")
    return tuple(sorted(columns.items()))
