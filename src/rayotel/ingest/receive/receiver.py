"""`POST` of any signal, answered only when the request is durable.

Fluent Bit and every OTLP client drop a request that gets a 4xx, except 408 and 429. So only a
request that can never be accepted gets a 4xx; every other failure is 503 with Retry-After. Ray
repeats a request after any error, for ever. So its events are refused only for their size, their
compression or their stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import logging
from collections.abc import Mapping

import anyio.to_thread
from anyio import CapacityLimiter

from rayotel.errors import NeverAcceptable, RequestRefused, TryLater, WalError
from rayotel.http.errors import refusal
from rayotel.http.exchange import Answer, Exchange
from rayotel.http.front import Handler
from rayotel.http.routes import ROUTES, Access, Route
from rayotel.ingest.decode.decoder import Decoder
from rayotel.ingest.decode.limits.inflate import BodyTooLarge, MalformedBody
from rayotel.ingest.receive import responses
from rayotel.ingest.receive.admission import Admission, Ticket
from rayotel.ingest.receive.request import arrival_of
from rayotel.ingest.wal.journal import Journal
from rayotel.ingest.wal.recent_requests import digest_of
from rayotel.ingest.wal.stream_signals import StreamSignals
from rayotel.lake.signal import Signal
from rayotel.logs import log_event
from rayotel.model import JSON, Arrival, Batch, Record
from rayotel.telemetry import Telemetry

RETRY_AFTER_FULL_WAL_SECONDS = 10
RETRY_AFTER_ERROR_SECONDS = 10
DECODE_THREADS = 2

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
        default_streams: Mapping[str, str],
        tokens: Mapping[str, str],
        max_compressed_body_bytes: int,
        body_timeout_seconds: float,
    ) -> None:
        """`default_streams`: where requests go that name no stream, by name of their signal.

        `tokens`: the secret segment of a signal's path, by its name; empty: there is none.
        """
        self._journal = journal
        self._decoder = decoder
        self._admission = admission
        self._telemetry = telemetry
        self._signals = signals
        self._default_streams = default_streams
        self._tokens = {name: token.encode() for name, token in tokens.items()}
        self._max_body_bytes = max_compressed_body_bytes
        self._body_timeout_seconds = body_timeout_seconds
        self._threads: CapacityLimiter | None = None

    def handlers(self) -> dict[Route, Handler]:
        """A handler for each route by which a signal is posted."""
        return {
            route: functools.partial(self._post, route, route.signal)
            for route in ROUTES
            if route.signal is not None
        }

    async def _post(self, route: Route, signal: Signal, exchange: Exchange) -> Answer:
        """One request of a signal, taken or refused."""
        if route.access is Access.SECRET:
            self._check(signal, exchange.token)
            exchange.trust()
        try:
            arrival = arrival_of(exchange, signal, self._default_streams[signal.name])
            deadline = asyncio.timeout(self._body_timeout_seconds)
            loop = asyncio.get_running_loop()
            give_up = functools.partial(loop.call_soon_threadsafe, _expire, deadline)
            with self._admission.enter(give_up) as ticket:
                body = await self._body(exchange, ticket, deadline)
                ticket.begin()
                batch = await self._store(Record(arrival, body), ticket)
        except RequestRefused as error:
            # what led to the error holds the body, and would until the next garbage collection
            error.__traceback__ = error.__context__ = None
            return refusal(error, _format(signal, exchange))
        except Exception as error:
            # Fluent Bit drops what is answered 500
            log_event(logger, logging.ERROR, "unexpected error in a request", error=error)
            words = "unexpected error, see the server's log output"
            later = TryLater(503, words, RETRY_AFTER_ERROR_SECONDS)
            return refusal(later, _format(signal, exchange))
        return responses.accepted(signal, arrival.content_type, batch.rejected)

    def _check(self, signal: Signal, token: str) -> None:
        """404 for who does not know the secret segment of the path."""
        given = token.encode("utf-8", "surrogateescape")
        expected = self._tokens.get(signal.name)
        if not expected or not hmac.compare_digest(given, expected):
            raise RequestRefused(404, "not found")

    async def _body(self, exchange: Exchange, ticket: Ticket, deadline: asyncio.Timeout) -> bytes:
        """The body as sent, within its bounds of bytes and seconds."""
        announced = exchange.header(b"content-length")
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            raise self._too_large()
        pieces, size = [], 0
        try:
            async with deadline:
                async for piece in exchange.pieces():
                    size += len(piece)
                    if size > self._max_body_bytes:
                        raise self._too_large()
                    ticket.reserve(len(piece))
                    pieces.append(piece)
        except TimeoutError:
            exchange.give_up()
            raise TryLater(503, "the request body did not arrive in time", 1) from None
        self._telemetry.body_bytes.inc(size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

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
        recognised = self._decoder.recognised(record)
        if recognised is not None:
            digest, batch = digest_of(record), recognised.batch
            self._telemetry.inflated_bytes.inc(recognised.inflated_bytes or len(record.body))
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
            if batch.accepted_rows:
                await asyncio.wrap_future(self._journal.append(record, batch, digest))
        except WalError as error:
            raise TryLater(503, error.message, RETRY_AFTER_FULL_WAL_SECONDS) from None
        self._telemetry.acknowledged(batch)
        return batch

    async def _claim(self, arrival: Arrival, batch: Batch) -> None:
        """A stream holds one signal; which is durable before anything of it is."""
        if not batch.accepted_rows or self._signals.knows(arrival.stream, arrival.signal):
            return
        try:
            await anyio.to_thread.run_sync(self._signals.claim, arrival.stream, arrival.signal)
        except WalError as error:
            raise TryLater(503, error.message, RETRY_AFTER_FULL_WAL_SECONDS) from None

    def _digest_and_decode(self, record: Record, ticket: Ticket) -> tuple[bytes, Batch]:
        return digest_of(record), self._decode(record, ticket)

    def _decode(self, record: Record, ticket: Ticket) -> Batch:
        inflated = 0

        def reserve(size_bytes: int) -> None:
            nonlocal inflated
            ticket.reserve(size_bytes)
            inflated += size_bytes

        try:
            return self._decoder.decode(record, reserve)
        except BodyTooLarge as error:
            raise NeverAcceptable(
                413,
                str(error),
                hint="send smaller batches, or raise RAYOTEL_MAX_INFLATED_BODY_BYTES",
            ) from None
        except MalformedBody as error:
            raise NeverAcceptable(
                400, f"Content-Encoding '{record.arrival.content_encoding}': {error}"
            ) from None
        except ValueError as error:
            what = f"body is not an OTLP {record.arrival.signal} request"
            raise NeverAcceptable(400, f"{what}: {error}") from None
        finally:
            self._telemetry.inflated_bytes.inc(inflated or len(record.body))


def _expire(deadline: asyncio.Timeout) -> None:
    """End a wait now, if it still goes on."""
    with contextlib.suppress(RuntimeError):
        deadline.reschedule(0)


def _format(signal: Signal, exchange: Exchange) -> str:
    """The format of a refusal: OTLP's own, or JSON."""
    return exchange.content_type if signal.is_otlp else JSON
