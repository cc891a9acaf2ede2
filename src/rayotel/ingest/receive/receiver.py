"""`POST /v1/metrics` and `/v1/events`, answered only when the request is durable.

Status codes say what the sender shall do. Fluent Bit and every OTLP client drop what gets a 4xx
(but 408 and 429), so those are only for what can never be accepted; everything else is 503 with
Retry-After. Ray tries again after any error, and for ever, so a request of its events is refused
only for its size, its compression or its stream.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from rayotel.errors import LogError, NeverAcceptable, RequestRefused, TryLater
from rayotel.http.middleware import give_up
from rayotel.ingest.decode.decoder import JSON, Decoder
from rayotel.ingest.decode.limits import inflate as inflating
from rayotel.ingest.decode.otlp.json import MalformedJson
from rayotel.ingest.decode.otlp.messages import MalformedProtobuf
from rayotel.ingest.receive import responses
from rayotel.ingest.receive.admission import Admission, Ticket
from rayotel.ingest.receive.request import content_type_of, events_arrival, metrics_arrival
from rayotel.ingest.wal.journal import Journal
from rayotel.ingest.wal.recent_requests import digest_of
from rayotel.ingest.wal.stream_signals import StreamSignals
from rayotel.logs import log_event
from rayotel.model import Arrival, Batch, EventBatch, Record
from rayotel.telemetry import Telemetry

RETRY_AFTER_FULL_LOG_SECONDS = 10
RETRY_AFTER_ERROR_SECONDS = 10
DECODE_THREADS = 2
EVENTS_PATH = "/v1/events"

logger = logging.getLogger(__name__)


class Receiver:
    """Takes requests to the WAL. Its collaborators are open before the first request comes."""

    def __init__(
        self,
        journal: Journal,
        decoder: Decoder,
        admission: Admission,
        telemetry: Telemetry,
        signals: StreamSignals,
        *,
        events_token: str,
        max_compressed_body_bytes: int,
        body_timeout_seconds: float,
    ) -> None:
        self._journal = journal
        self._decoder = decoder
        self._admission = admission
        self._telemetry = telemetry
        self._signals = signals
        self._events_token = events_token.encode()
        self._max_body_bytes = max_compressed_body_bytes
        self._body_timeout_seconds = body_timeout_seconds
        self._threads: CapacityLimiter | None = None

    def router(self) -> APIRouter:
        """The routes of this room."""
        router = APIRouter()
        # a plain route: the body is read here, so FastAPI's parsing of parameters would be waste
        router.add_route("/v1/metrics", self.metrics, methods=["POST"])
        router.add_route(EVENTS_PATH, self.events, methods=["POST"])
        router.add_route(EVENTS_PATH + "/{token}", self.events_by_token, methods=["POST"])
        return router

    async def metrics(self, request: Request) -> Response:
        """One ExportMetricsServiceRequest."""
        return await self._answer(request, metrics_arrival, content_type_of(request.headers))

    async def events(self, request: Request) -> Response:
        """Ray's own events: a JSON array, whatever the Content-Type says."""
        return await self._answer(request, events_arrival, JSON)

    async def events_by_token(self, request: Request) -> Response:
        """The same for who knows the secret segment of the path; 404 for all others."""
        given = request.path_params["token"].encode("utf-8", "surrogateescape")
        if not self._events_token or not hmac.compare_digest(given, self._events_token):
            raise RequestRefused(404, "not found")
        return await self.events(request)

    async def _answer(
        self, request: Request, arrive: Callable[[Request], Arrival], content_type: str
    ) -> Response:
        try:
            arrival = arrive(request)
            with self._admission.enter() as ticket:
                body = await self._body(request, ticket)
                batch = await self._store(Record(arrival, body), ticket)
        except RequestRefused as error:
            # what led to the error holds the body, and would until the next garbage collection
            error.__traceback__ = error.__context__ = None
            return responses.refused(content_type, error)
        except Exception as error:
            # Fluent Bit drops what is answered 500
            log_event(logger, logging.ERROR, "unexpected error in a request", error=error)
            words = "unexpected error, see the server's log output"
            later = TryLater(503, words, RETRY_AFTER_ERROR_SECONDS)
            return responses.refused(content_type, later)
        if isinstance(batch, EventBatch):
            return Response(b"{}", media_type=JSON)
        return responses.accepted(content_type, batch.rejected)

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

    async def _store(self, record: Record, ticket: Ticket) -> Batch:
        """Decode, append, and wait until it is durable.

        What is recognised at once is read at once: a way to another thread and back costs more.
        Everything else is decoded beside the event loop. A request that was sent before is not
        stored again; it is answered like the first one, and when the first one is.
        """
        batch: Batch
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
        await self._claim(record.arrival, batch)
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
            raise TryLater(503, error.message, RETRY_AFTER_FULL_LOG_SECONDS) from None
        self._count(batch)
        return batch

    async def _claim(self, arrival: Arrival, batch: Batch) -> None:
        """A stream holds one signal; which is durable before anything of it is."""
        if not batch.accepted_points or self._signals.knows(arrival.stream, arrival.signal):
            return
        try:
            await anyio.to_thread.run_sync(self._signals.claim, arrival.stream, arrival.signal)
        except LogError as error:
            raise TryLater(503, error.message, RETRY_AFTER_FULL_LOG_SECONDS) from None

    def _count(self, batch: Batch) -> None:
        if isinstance(batch, EventBatch):
            self._telemetry.events(batch.arrival.stream, batch.accepted_points)
            for reason, count in batch.poison.items():
                self._telemetry.events_unreadable.labels(reason).inc(count)
            return
        self._telemetry.accepted(batch.arrival.stream, batch.accepted_points)
        for reason, count in batch.rejected.items():
            self._telemetry.points_rejected.labels(reason).inc(count)
        for drop, count in batch.dropped.items():
            self._telemetry.dropped(drop, count)

    def _digest_and_decode(self, record: Record, ticket: Ticket) -> tuple[bytes, Batch]:
        return digest_of(record.arrival.stream, record.body), self._decode(record, ticket)

    def _decode(self, record: Record, ticket: Ticket) -> Batch:
        inflated = 0

        def reserve(size_bytes: int) -> None:
            nonlocal inflated
            ticket.reserve(size_bytes)
            inflated += size_bytes

        try:
            return self._decoder.decode_any(record, reserve)
        except inflating.BodyTooLarge as error:
            raise NeverAcceptable(
                413,
                str(error),
                hint="send smaller batches, or raise RAYOTEL_MAX_INFLATED_BODY_BYTES",
            ) from None
        except inflating.MalformedBody as error:
            raise NeverAcceptable(
                400, f"Content-Encoding '{record.arrival.content_encoding}': {error}"
            ) from None
        except (MalformedProtobuf, MalformedJson) as error:
            raise NeverAcceptable(400, f"body is not an OTLP metrics request: {error}") from None
        finally:
            self._telemetry.inflated_bytes.inc(inflated or len(record.body))
