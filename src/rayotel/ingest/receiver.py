"""`POST /v1/metrics`: OTLP over HTTP, answered only when the request is durable.

Status codes say what the sender shall do. Fluent Bit and every OTLP client drop what gets a 4xx
(but 408 and 429), so those are only for what can never be accepted; everything else is 503 with
Retry-After.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from rayotel.asgi import give_up
from rayotel.errors import LogError, NeverAcceptable, RequestRefused, TryLater
from rayotel.ingest import answers, bodies
from rayotel.ingest.admission import Admission, Ticket
from rayotel.ingest.decoding import CONTENT_TYPES, JSON, Decoder
from rayotel.ingest.journal import Journal
from rayotel.ingest.otlp_json import MalformedJson
from rayotel.ingest.seen import digest_of
from rayotel.ingest.wal import Record
from rayotel.ingest.wire import MalformedProtobuf
from rayotel.lake.layout import MAX_STREAM_NAME_CHARACTERS, is_stream_name
from rayotel.model import Arrival, MetricBatch
from rayotel.telemetry import Telemetry

DEFAULT_METRICS_STREAM = "raymetrics"
MAX_HEADER_COLUMNS = 10
MAX_HEADER_VALUE_BYTES = 100
RETRY_AFTER_FULL_LOG_SECONDS = 10
RETRY_AFTER_ERROR_SECONDS = 10
DECODE_THREADS = 2
_ROUTING_HEADERS = ("x-p-stream", "x-p-log-source")

log = logging.getLogger(__name__)


class Receiver:
    """Takes requests to the log. Its collaborators are open before the first request comes."""

    def __init__(
        self,
        journal: Journal,
        decoder: Decoder,
        admission: Admission,
        telemetry: Telemetry,
        *,
        max_compressed_body_bytes: int,
        body_timeout_seconds: float,
    ) -> None:
        self._journal = journal
        self._decoder = decoder
        self._admission = admission
        self._telemetry = telemetry
        self._max_body_bytes = max_compressed_body_bytes
        self._body_timeout_seconds = body_timeout_seconds
        self._threads: CapacityLimiter | None = None

    def router(self) -> APIRouter:
        """The routes of this room."""
        router = APIRouter()
        # a plain route: the body is read here, so FastAPI's parsing of parameters would be waste
        router.add_route("/v1/metrics", self.metrics, methods=["POST"])
        return router

    async def metrics(self, request: Request) -> Response:
        """One ExportMetricsServiceRequest."""
        content_type = _content_type(request.headers)
        try:
            arrival = _arrival(request, content_type, DEFAULT_METRICS_STREAM)
            with self._admission.enter() as ticket:
                body = await self._body(request, ticket)
                batch = await self._store(Record(arrival, body), ticket)
        except RequestRefused as error:
            # what led to the error holds the body, and would until the next garbage collection
            error.__traceback__ = error.__context__ = None
            return answers.refused(content_type, error)
        except Exception:
            # Fluent Bit drops what is answered 500
            log.exception("unexpected error in a request")
            later = TryLater(503, "unexpected error, see the log", RETRY_AFTER_ERROR_SECONDS)
            return answers.refused(content_type, later)
        return answers.accepted(content_type, batch.rejected)

    async def _body(self, request: Request, ticket: Ticket) -> bytes:
        """The body as sent, within its bounds of bytes and seconds."""
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            raise self._too_large()
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                async for piece in request.stream():
                    size += len(piece)
                    if size > self._max_body_bytes:
                        raise self._too_large()
                    ticket.reserve(len(piece))
                    pieces.append(piece)
        except TimeoutError:
            give_up(request.scope)
            raise TryLater(503, "the request body did not arrive in time", 1) from None
        except ClientDisconnect:
            raise TryLater(503, "the connection was closed", 1) from None
        self._telemetry.body_bytes.inc(size)
        return b"".join(pieces)

    def _too_large(self) -> NeverAcceptable:
        return NeverAcceptable(
            413,
            f"body is larger than {self._max_body_bytes} bytes",
            hint="send smaller batches, or raise RAYOTEL_MAX_COMPRESSED_BODY_BYTES",
        )

    async def _store(self, record: Record, ticket: Ticket) -> MetricBatch:
        """Decode, append, and wait until it is durable.

        What is recognised at once is read at once: a way to another thread and back costs more.
        Everything else is decoded beside the event loop. A request that was sent before is not
        stored again; it is answered like the first one, and when the first one is.
        """
        found = self._decoder.recognised(record)
        if found is not None:
            digest, batch = digest_of(record.arrival.stream, record.body), found.batch
            self._telemetry.inflated_bytes.inc(found.inflated_bytes or len(record.body))
        else:
            if self._threads is None:
                self._threads = CapacityLimiter(DECODE_THREADS)
            digest, batch = await anyio.to_thread.run_sync(
                self._digest_and_decode, record, ticket, limiter=self._threads
            )
        # no await between this look and the append: two tries at once cannot both be the first
        earlier = self._journal.earlier(digest)
        try:
            if earlier is not None:
                self._telemetry.duplicates.inc()
                await asyncio.wrap_future(earlier)
                return batch
            if batch.accepted_points:
                await asyncio.wrap_future(self._journal.append(record, batch, digest))
        except LogError as error:
            log.warning("a request is answered 503: %s", error.message)
            raise TryLater(503, error.message, RETRY_AFTER_FULL_LOG_SECONDS) from None
        self._count(batch)
        return batch

    def _count(self, batch: MetricBatch) -> None:
        self._telemetry.accepted(batch.arrival.stream, batch.accepted_points)
        for reason, count in batch.rejected.items():
            self._telemetry.points_rejected.labels(reason).inc(count)
        for drop, count in batch.dropped.items():
            self._telemetry.dropped(drop, count)

    def _digest_and_decode(self, record: Record, ticket: Ticket) -> tuple[bytes, MetricBatch]:
        return digest_of(record.arrival.stream, record.body), self._decode(record, ticket)

    def _decode(self, record: Record, ticket: Ticket) -> MetricBatch:
        inflated = 0

        def reserve(size_bytes: int) -> None:
            nonlocal inflated
            ticket.reserve(size_bytes)
            inflated += size_bytes

        try:
            return self._decoder.decode(record, reserve)
        except bodies.BodyTooLarge as error:
            raise NeverAcceptable(
                413,
                str(error),
                hint="send smaller batches, or raise RAYOTEL_MAX_INFLATED_BODY_BYTES",
            ) from None
        except bodies.MalformedBody as error:
            raise NeverAcceptable(
                400, f"Content-Encoding '{record.arrival.content_encoding}': {error}"
            ) from None
        except (MalformedProtobuf, MalformedJson) as error:
            raise NeverAcceptable(400, f"body is not an OTLP metrics request: {error}") from None
        finally:
            self._telemetry.inflated_bytes.inc(inflated or len(record.body))


def _content_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _arrival(request: Request, content_type: str, default_stream: str) -> Arrival:
    """How a request came, checked; raises NeverAcceptable."""
    headers = request.headers
    if content_type not in CONTENT_TYPES:
        raise NeverAcceptable(
            415,
            "Content-Type is not one of OTLP's",
            hint=f"send {' or '.join(CONTENT_TYPES)}",
        )
    encoding = headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in bodies.ENCODINGS:
        raise NeverAcceptable(
            415, "Content-Encoding is not known", hint=f"send one of {', '.join(bodies.ENCODINGS)}"
        )
    stream = headers.get("x-p-stream", default_stream).strip()
    if not is_stream_name(stream):
        raise NeverAcceptable(
            400,
            "X-P-Stream is not a stream name",
            hint=f"use 1 to {MAX_STREAM_NAME_CHARACTERS} letters, digits, '_' and '-'",
        )
    return Arrival(
        signal="metrics",
        stream=stream,
        content_type=JSON if content_type == JSON else CONTENT_TYPES[0],
        content_encoding=encoding,
        received_unix_nano=time.time_ns(),
        source_ip=request.client.host if request.client else "",
        user_agent=headers.get("user-agent", "")[:200],
        header_columns=_header_columns(headers),
    )


def _header_columns(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The `X-P-*` headers that become columns, by name; raises NeverAcceptable beyond bounds."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        folded = name.lower()
        if folded.startswith("x-p-") and folded not in _ROUTING_HEADERS:
            raw = value.encode("latin-1", "replace")
            if len(raw) > MAX_HEADER_VALUE_BYTES or folded == "x-p-":
                raise NeverAcceptable(
                    400,
                    f"header '{name[:50]}' has no name or a value of more than"
                    f" {MAX_HEADER_VALUE_BYTES} bytes",
                )
            found.setdefault(folded.removeprefix("x-p-"), raw.decode("utf-8", "replace"))
    if len(found) > MAX_HEADER_COLUMNS:
        raise NeverAcceptable(400, f"more than {MAX_HEADER_COLUMNS} X-P-* headers")
    return tuple(sorted(found.items()))
