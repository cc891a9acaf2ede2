"""Admission bounds the requests and bytes that the receiver works on at once; no request waits.

Beyond a bound the answer is 503 with Retry-After, which every OTLP client and Fluent Bit obey. So
memory stays bounded. A request takes its place when its body is there, so who sends none, or a slow
one, keeps nobody out. Bytes count from when they come; where they are too many, the bodies that
have been on their way for longest are given up first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from rayotel.errors import TryLater
from rayotel.logs import Failing, log_event
from rayotel.telemetry import Telemetry

RETRY_AFTER_SECONDS = 2
# a body that is on its way for so long may be given up for others
SLOW_SECONDS = 2.0
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
        self._arriving: dict[Ticket, float] = {}  # bodies on their way, since when; oldest first
        self._overload = Failing()
        self._refused = 0
        self._refused_at = 0.0

    def enter(self, give_up: Callable[[], object] = int) -> Ticket:
        """An account for one request, to be used with `with`. It has no place yet.

        `give_up` is called, by any thread, where the body has to make room for others.
        """
        ticket = Ticket(self, give_up)
        with self._lock:
            self._arriving[ticket] = time.monotonic()
        return ticket

    def begin(self, ticket: Ticket) -> None:
        """A place for a request whose body is there. Raises TryLater where there is none."""
        with self._lock:
            if self._requests >= self._max_requests:
                raise self._too_much("too many requests in flight")
            self._arriving.pop(ticket, None)
            ticket.has_place = True
            self._requests += 1
            if self._refused:
                self._tell_calm()

    def take(self, ticket: Ticket, size_bytes: int) -> None:
        """Account for bytes about to be held. Raises TryLater beyond the bound."""
        with self._lock:
            if self._bytes + size_bytes > self._max_bytes:
                self._make_room(size_bytes, ticket)
            if self._bytes + size_bytes > self._max_bytes:
                raise self._too_much("too many bytes in flight")
            ticket.held_bytes += size_bytes
            self._bytes += size_bytes
            self._telemetry.bytes_in_flight.set(self._bytes)

    def _make_room(self, size_bytes: int, wanting: Ticket) -> None:
        """Give up bodies that are slow, the slowest first, as far as that helps."""
        slow_before = time.monotonic() - SLOW_SECONDS
        for ticket, since in list(self._arriving.items()):
            if since > slow_before or self._bytes + size_bytes <= self._max_bytes:
                return
            if ticket is not wanting and ticket.held_bytes:
                del self._arriving[ticket]
                self._bytes -= ticket.held_bytes
                ticket.held_bytes = 0
                self._too_much("too many bytes in flight")
                ticket.give_up()

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

    def leave(self, ticket: Ticket) -> None:
        """A request and what it held are done."""
        with self._lock:
            self._arriving.pop(ticket, None)
            self._requests -= ticket.has_place
            self._bytes -= ticket.held_bytes
            self._telemetry.bytes_in_flight.set(self._bytes)


class Ticket:
    """A request's account; on exit it returns its bytes and its place."""

    def __init__(self, admission: Admission, give_up: Callable[[], object]) -> None:
        self._admission = admission
        self.give_up = give_up
        self.held_bytes = 0
        self.has_place = False

    def reserve(self, size_bytes: int) -> None:
        """Account for bytes about to be held. Raises TryLater beyond the bound."""
        self._admission.take(self, size_bytes)

    def begin(self) -> None:
        """The body is there: take a place. Raises TryLater where there is none."""
        self._admission.begin(self)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.leave(self)
