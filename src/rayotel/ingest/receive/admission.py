"""Admission bounds the requests and bytes that the receiver works on at once; no request waits.

Beyond a bound the answer is 503 with Retry-After, which every OTLP client and Fluent Bit obey. So
memory stays bounded.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from rayotel.errors import TryLater
from rayotel.logs import Failing, log_event
from rayotel.telemetry import Telemetry

RETRY_AFTER_SECONDS = 2
# an overload has ended when nothing was refused for so long
CALM_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Admission:
    """The account of all requests being worked on. Safe for several threads."""

    def __init__(self, *, max_requests: int, max_bytes: int, telemetry: Telemetry) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._requests = self._bytes = 0
        self._overload = Failing()
        self._refused = 0
        self._refused_at = 0.0

    def enter(self) -> Ticket:
        """A place for one request, to be used with `with`. Raises TryLater where there is none."""
        with self._lock:
            if self._requests >= self._max_requests:
                raise self._too_much("too many requests in flight")
            self._requests += 1
            if self._refused:
                self._tell_calm()
        return Ticket(self)

    def take(self, size_bytes: int) -> None:
        """Account for bytes about to be held. Raises TryLater beyond the bound."""
        with self._lock:
            if self._bytes + size_bytes > self._max_bytes:
                raise self._too_much("too many bytes in flight")
            self._bytes += size_bytes
            self._telemetry.bytes_in_flight.set(self._bytes)

    def _too_much(self, words: str) -> TryLater:
        self._refused += 1
        self._refused_at = time.monotonic()
        if self._overload.begin():
            log_event(logger, logging.WARNING, "requests are answered 503", reason=words)
        return TryLater(503, words, RETRY_AFTER_SECONDS)

    def _tell_calm(self) -> None:
        if time.monotonic() - self._refused_at < CALM_SECONDS:
            return
        log_event(
            logger,
            logging.INFO,
            "no request is answered 503 any more",
            overload_seconds=self._overload.end(),
            refused=self._refused,
        )
        self._refused = 0

    def leave(self, size_bytes: int) -> None:
        """A request and what it held are done."""
        with self._lock:
            self._requests -= 1
            self._bytes -= size_bytes
            self._telemetry.bytes_in_flight.set(self._bytes)


class Ticket:
    """An admitted request; on exit it returns its bytes and its place."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held_bytes = 0

    def reserve(self, size_bytes: int) -> None:
        """Account for bytes about to be held. Raises TryLater beyond the bound."""
        self._admission.take(size_bytes)
        self._held_bytes += size_bytes

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.leave(self._held_bytes)
