"""A client's connection: bytes to requests, and answers to bytes.

A connection reads a head within a bound of bytes and seconds, then the body as the application asks
for it, and answers one request after another. What a client sends ahead waits. Which connections
end where there are too many, and which have waited too long, the crowd decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp

from rayotel.http.bodies import Framing, framing_of
from rayotel.http.crowd import Crowd, Rank, Wait
from rayotel.http.cycle import CLOSE, Cycle, head_of
from rayotel.http.exchange import TRUST
from rayotel.http.heads import END, MAX_HEAD_BYTES, Head, Malformed, check_beginning, read_head

HIGH_WATER_BYTES = 64 * 1024
_TEXT = (b"content-type", b"text/plain; charset=utf-8")


class Host:
    """What all connections of a server share."""

    def __init__(
        self,
        app: ASGIApp,
        crowd: Crowd,
        malformed: Callable[[str], None],
        server: tuple[str, int],
        *,
        is_tls: bool,
    ) -> None:
        """`malformed` is told of each request that is none, with the reason."""
        self.app = app
        self.crowd = crowd
        self.malformed = malformed
        self.server = server
        self.is_tls = is_tls
        self.tasks: set[asyncio.Task[None]] = set()
        self.files = 0  # that connections have open; one that was ended may still have its own
        self.loop = asyncio.get_running_loop()


class Connection(asyncio.Protocol):
    """One connection. It is in the crowd from before its TLS handshake until it is lost."""

    __slots__ = (
        "_body", "_buffer", "_cycle", "_host", "_is_eof", "_is_lost", "_is_over", "_is_reading",
        "_is_trusted", "_readable", "_transport", "address", "client", "is_write_paused",
        "may_keep", "opening",
    )  # fmt: skip

    def __init__(self, host: Host, client: tuple[str, int]) -> None:
        self._host = host
        self.client = client
        self.address = client[0]
        self.opening: asyncio.Task[None] | None = None  # until it is made
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()  # the beginning of a head, or what was sent ahead
        self._cycle: Cycle | None = None
        self._body: Framing | None = None  # of a body that is not whole
        self._is_reading = self.may_keep = True
        self._is_over = self._is_eof = self._is_lost = self._is_trusted = False
        self.is_write_paused = False
        host.files += 1
        self._readable: asyncio.Event | None = None

    # -- from the transport -----------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """The client is there, and its TLS handshake is done."""
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        """It is over, or was never made. May be said again."""
        if self._is_lost:
            return
        self._is_lost = self._is_over = True
        self._host.files -= 1
        self._forget_ahead()
        self._host.crowd.leave(self)
        if self._cycle is not None:
            self._cycle.is_gone = True
            self._cycle.changed()
        self.resume_writing()

    def eof_received(self) -> bool:
        """The client sends no more; it may still wait for answers."""
        self._is_eof = True
        if self._is_over or self._cycle is None:
            return False
        if self._body is not None:
            self._cycle.is_cut = True
            self._cycle.changed()
        return not self._host.is_tls  # with TLS the transport ends both directions together

    def pause_writing(self) -> None:
        """The client does not read what it was sent."""
        self.is_write_paused = True
        self._host.crowd.wait(self, Wait.READING, self._host.loop.time())

    def resume_writing(self) -> None:
        """It does."""
        self.is_write_paused = False
        self._host.crowd.ended(self, Wait.READING)
        if self._readable is not None:
            self._readable.set()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._is_over:
            return
        try:
            if self._body is not None:
                self._take_body(data)
            elif self._cycle is not None:
                self._keep_ahead(data)
            else:
                self._take_head(data)
        except Malformed as error:
            self._refuse(error)

    # -- requests ---------------------------------------------------------------------------------

    def _take_head(self, data: bytes) -> None:
        """A head, whole or not, and what stands behind it."""
        host = self._host
        known = len(self._buffer)
        if known:
            self._buffer += data
            end = self._buffer.find(END, max(0, known - 3), MAX_HEAD_BYTES)
            if end >= 0:
                data, self._buffer = bytes(self._buffer), bytearray()
        else:
            end = data.find(END, 0, MAX_HEAD_BYTES)
            if end < 0:
                self._buffer += data
        if end < 0:
            check_beginning(self._buffer, known)
            host.crowd.wait(self, Wait.HEAD, host.loop.time())
            return
        head = read_head(data[:end])
        host.crowd.ended(self, Wait.HEAD)
        self._start(head, data[end + len(END) :])

    def _start(self, head: Head, rest: bytes) -> None:
        """Let the application answer a request; `rest` is what came behind its head."""
        host = self._host
        host.crowd.move(self, Rank.SERVED if self._is_trusted else Rank.VISITING, host.loop.time())
        self._cycle = cycle = Cycle(self._scope(head), head, self)
        size = head.body_bytes
        if size == len(rest):
            cycle.body, cycle.is_whole = rest, True
        else:
            self._body = framing_of(size)
            self._take_body(rest)
        task = host.loop.create_task(cycle.run(host.app))
        host.tasks.add(task)
        task.add_done_callback(host.tasks.discard)

    def _scope(self, head: Head) -> dict[str, Any]:
        raw_path, _, query = head.target.partition(b"?")
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version.decode("ascii"),
            "server": self._host.server,
            "client": self.client,
            "scheme": "https" if self._host.is_tls else "http",
            "method": head.method.decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": head.headers,
            TRUST: self._trust,
        }

    def _trust(self) -> None:
        """A request has shown that it may ask."""
        if not self._is_trusted:
            self._is_trusted = True
            if self._cycle is not None:
                self._host.crowd.move(self, Rank.SERVED, self._host.loop.time())

    def _take_body(self, data: bytes) -> None:
        """Bytes of a body, and perhaps of what stands behind it."""
        cycle, framing = self._cycle, self._body
        assert cycle is not None
        assert framing is not None
        body = cycle.body if isinstance(cycle.body, bytearray) else bytearray(cycle.body)
        rest = framing.feed(data, body)
        cycle.body = body
        if framing.is_whole:
            self._body = None
            cycle.is_whole = True
            if rest:
                self._keep_ahead(rest)
        elif len(body) > HIGH_WATER_BYTES:
            self._pause_reading()
        cycle.changed()

    def _keep_ahead(self, data: bytes) -> None:
        """Bytes of the next request, while this one is not answered: their turn comes after it."""
        self._pause_reading()
        if not self._host.crowd.ahead(len(data)):
            raise Malformed("too many bytes sent ahead", 503)
        self._buffer += data

    def _forget_ahead(self) -> None:
        if self._cycle is not None and self._buffer:
            self._host.crowd.ahead(-len(self._buffer))
            self._buffer = bytearray()

    def _pause_reading(self) -> None:
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The application waits for the body, or the next request has its turn."""
        if not self._is_reading and not self._is_eof and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()

    # -- answers ----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has read enough, or is gone."""
        self._readable = asyncio.Event()
        await self._readable.wait()

    def answered(self, keeps: bool) -> None:
        """The answer of the current request is written; the next request has its turn."""
        if self._is_over:
            return
        ahead = bytes(self._buffer)
        self._forget_ahead()
        self._cycle = None
        is_last = self._is_eof and not ahead
        if not keeps or not self.may_keep or self._body is not None or is_last:
            self._end()
            return
        rank = Rank.MEMBER if self._is_trusted else Rank.VISITOR
        self._host.crowd.move(self, rank, self._host.loop.time())
        self.resume_reading()
        if ahead:
            self.data_received(ahead)
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        """What a client sent before it ended its side was not a whole request."""
        if self._is_eof and self._cycle is None and not self._is_over:
            self._end()

    def _refuse(self, error: Malformed) -> None:
        """Answer what is no HTTP, unless an answer is being written, and close."""
        self._host.malformed(str(error))
        cycle = self._cycle
        if cycle is None or not cycle.is_begun:
            body = f"Invalid HTTP request: {error}".encode("ascii")
            more = (_TEXT, (b"content-length", b"%d" % len(body)), CLOSE)
            self.write(head_of(error.status, more) + body)
        if cycle is not None:
            cycle.is_gone = True
            cycle.changed()
        self._forget_ahead()
        self._end()

    def _end(self) -> None:
        """Close once the client had time to read the answer.

        A connection that closes while bytes of the client wait unread makes the client's system
        throw the answer away. So what it still sends is read for a while, and thrown away.
        """
        self._is_over = True
        self._body, self._buffer = None, bytearray()
        if self._transport is None:
            return
        now = self._host.loop.time()
        self._host.crowd.move(self, Rank.STRANGER, now)
        self._host.crowd.wait(self, Wait.CLOSING, now)
        self._host.crowd.ended(self, Wait.HEAD)
        if self._is_eof or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        self.resume_reading()

    def shutdown(self) -> None:
        """The server stops: the current request is the last one."""
        self.may_keep = False
        if self._cycle is not None or self._is_over:
            return
        if self._transport is None:
            self.abort()
            return
        self._is_over = True
        self._host.crowd.wait(self, Wait.CLOSING, self._host.loop.time())
        self._transport.close()

    @property
    def has_unsent(self) -> bool:
        """Whether the client has not taken all of its last answer yet."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def abort(self) -> None:
        """End it now."""
        self._is_over = True
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()
