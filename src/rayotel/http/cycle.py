"""One request and its answer, for an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

from rayotel.http.heads import Head
from rayotel.logs import log_event

CLOSE = (b"connection", b"close")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode() for one in HTTPStatus}
_BODYLESS = frozenset({204, 304})
_GONE: Message = {"type": "http.disconnect"}

logger = logging.getLogger(__name__)


class Wire(Protocol):
    """What a cycle needs of its connection."""

    is_write_paused: bool
    may_keep: bool

    def write(self, data: bytes) -> None:
        """Send bytes."""

    async def drain(self) -> None:
        """Wait until the client has read enough, or is gone."""

    def resume_reading(self) -> None:
        """The body may go on."""

    def answered(self, keeps: bool) -> None:
        """The answer is written; unless `keeps`, the connection ends with it."""

    def abort(self) -> None:
        """The answer cannot be written whole: let the client know by ending here."""


class Cycle:
    """A request, whose body may still be on its way, and its answer.

    `body` has what came and was not asked for yet. `is_cut`: no more of it will come. `is_gone`:
    nobody waits for the answer.
    """

    __slots__ = (
        "_changed", "_head", "_is_chunked", "_is_framed", "_is_given", "_keeps", "_started",
        "_waits", "_wire", "body", "is_answered", "is_cut", "is_gone", "is_whole", "scope",
    )  # fmt: skip

    def __init__(self, scope: Scope, head: Head, wire: Wire) -> None:
        self.scope = scope
        self.body: bytes | bytearray = b""
        self.is_whole = self.is_cut = self.is_gone = self.is_answered = False
        self._head, self._wire = head, wire
        self._waits = head.waits
        self._is_given = False
        self._changed: asyncio.Event | None = None
        self._started: Message | None = None
        self._is_framed = self._is_chunked = self._keeps = False

    @property
    def is_begun(self) -> bool:
        """Whether a part of the answer is written."""
        return self._is_framed

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer. A defect of ours is a 503: the sender keeps its request."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:
            log_event(logger, logging.ERROR, "unexpected error in a request", error=error)
        if self.is_answered or self.is_gone:
            return
        if self._is_framed:
            self._wire.abort()
            return
        self._started = {"status": 503, "headers": [(b"retry-after", b"10"), CLOSE]}
        await self.send({"type": "http.response.body", "body": b"unexpected error"})

    def changed(self) -> None:
        """More of the body came, or the connection ended."""
        if self._changed is not None:
            self._changed.set()

    async def receive(self) -> Message:
        """What came of the body, at least a byte unless it is whole; then the end."""
        if self._waits:
            self._waits = False
            if not self.body and not self.is_whole:
                self._wire.write(_CONTINUE)
        while not self._is_over() and (self._is_given or not (self.body or self.is_whole)):
            if self._changed is None:
                self._changed = asyncio.Event()
            self._changed.clear()
            self._wire.resume_reading()
            await self._changed.wait()
        if self._is_over():
            return _GONE
        body, self.body = bytes(self.body), b""
        self._is_given = self.is_whole
        if not self.is_whole:
            self._wire.resume_reading()
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

    def _is_over(self) -> bool:
        return self.is_gone or self.is_answered or self.is_cut

    async def send(self, message: Message) -> None:
        """The answer's head, which waits for the first of its body, or a piece of its body."""
        if self._wire.is_write_paused and not self.is_gone:
            await self._wire.drain()
        if self.is_gone:
            return
        kind = message["type"]
        if kind == "http.response.start" and self._started is None:
            self._started = message
            return
        if kind != "http.response.body" or self._started is None or self.is_answered:
            raise RuntimeError(f"unexpected ASGI message '{kind}'")
        body: bytes = message.get("body", b"")
        is_last = not message.get("more_body", False)
        head = b"" if self._is_framed else self._begin(self._started, body, is_last)
        if self._head.method == b"HEAD":
            body = b""
        elif self._is_chunked:
            body = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            body += b"0\r\n\r\n" if is_last else b""
        if head or body:
            self._wire.write(head + body)
        if is_last:
            self.is_answered = True
            self.changed()
            self._wire.answered(self._keeps)

    def _begin(self, started: Message, body: bytes, is_last: bool) -> bytes:
        """The head of the answer, with what tells where its body ends."""
        self._is_framed = True
        status: int = started["status"]
        headers: list[tuple[bytes, bytes]] = list(started.get("headers", ()))
        # what is not read of the body would stand before the next request
        keeps = self._head.keeps and self._wire.may_keep and self.is_whole and CLOSE not in headers
        is_framed = status in _BODYLESS or any(name == b"content-length" for name, _ in headers)
        if not is_framed and is_last:
            headers.append((b"content-length", b"%d" % len(body)))
        elif not is_framed and self._head.version == b"1.1":
            headers.append((b"transfer-encoding", b"chunked"))
            self._is_chunked = True
        elif not is_framed:
            keeps = False
        if not keeps and CLOSE not in headers:
            headers.append(CLOSE)
        self._keeps = keeps
        return head_of(status, headers)


def head_of(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of an answer, with its empty line."""
    lines = [b"%s: %s\r\n" % pair for pair in headers]
    first = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"".join((first, _date.line(), *lines, b"\r\n"))


class _Date:
    """The header `date`, made once a second."""

    def __init__(self) -> None:
        self._second, self._line = 0, b""

    def line(self) -> bytes:
        """That of this second."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = f"date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._line


_date = _Date()
