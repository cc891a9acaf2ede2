"""A TCP proxy in front of an S3 server that plays what goes wrong between the two.

Bytes pass as they came: the Host that a client signed is the proxy's own, and the S3 server checks
the signature against the Host that it is sent. A fault is played from one call of `play` to the
next, also on connections that are open already; how often it was met is counted, so that a test
waits for the fault and not for a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

PIECE_BYTES = 16 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>played by a test</Message></Error>"
_CODES = {403: "AccessDenied", 404: "NoSuchBucket", 500: "InternalError", 503: "SlowDown"}


class Kind(Enum):
    """What goes wrong."""

    NOTHING = auto()
    REFUSED = auto()  # nobody listens, and open connections are reset
    RESET = auto()  # each connection is taken and reset
    SILENT = auto()  # each request is taken and never answered; reset when the fault ends
    FORGOTTEN = auto()  # each request is taken and never answered, nor its connection closed
    SLOW = auto()  # each request waits for `seconds`, then moves at `bytes_per_second`
    STATUS = auto()  # each request is answered with `status`
    CUT_REQUEST = auto()  # the server gets `after_bytes` of the body, then both sides are reset
    CUT_RESPONSE = auto()  # the client gets `after_bytes` of the answer, its head counted
    LOST_ANSWER = auto()  # the request takes effect, its answer never comes


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind, its measures, and the requests that meet it.

    `only`: a pattern of the request line; `skip`: so many of these pass before the first that
    meets the fault; `times`: so many meet it, 0: all until another is played.
    """

    kind: Kind
    status: int = 0
    after_bytes: int = 0
    seconds: float = 0.0
    bytes_per_second: float = float("inf")
    only: str = ""
    skip: int = 0
    times: int = 0


HEALTHY = Fault(Kind.NOTHING)
_Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Cut(Exception):
    """Both sides of a connection are to be reset."""


class FaultProxy:
    """Use with `with`. `met`, `requests` and `connections` only grow, `met` from each `play` on."""

    def __init__(self, target: str) -> None:
        """`target`: the URL of the server behind."""
        address = urlsplit(target)
        self._target = (address.hostname or "", address.port or 80)
        # keeps the port where nobody listens: another process must not get it meanwhile
        self._holder = _bound(0)
        self._port: int = self._holder.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.met = self.requests = self.connections = 0
        self._fault = HEALTHY
        self._matched = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self.heal()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._holder.close()

    def play(self, fault: Fault) -> None:
        """From now on this goes wrong, and nothing else. What waits in silence is reset."""
        self._run(self._play(fault))

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self.play(HEALTHY)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _play(self, fault: Fault) -> None:
        self._fault, self.met, self._matched = fault, 0, 0
        self._changed.set()
        self._changed = asyncio.Event()
        if fault.kind is Kind.REFUSED:
            await self._refuse()
        elif self._listener is None:
            self._listener = await asyncio.start_server(self._serve, sock=_bound(self._port))

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in self._open:
            _reset(writer)

    async def _end(self) -> None:
        self._changed.set()
        await self._refuse()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, request by request, over one connection of its own."""
        self.connections += 1
        self._open.add(writer)
        client, server = (reader, writer), None
        try:
            if self._fault.kind is Kind.RESET and not self._fault.only:
                self.met += 1
                raise _Cut
            server = await asyncio.open_connection(*self._target)
            self._open.add(server[1])
            while await self._exchange(client, server):
                pass
        except (_Cut, OSError, EOFError, asyncio.CancelledError):
            _reset(writer)
            if server is not None:
                _reset(server[1])
        finally:
            for one in (client, server):
                if one is not None:
                    self._open.discard(one[1])
                    one[1].close()

    def _fault_for(self, head: bytes) -> Fault:
        """The fault that this request meets."""
        self.requests += 1
        fault = self._fault
        if re.search(fault.only, head.partition(b"\r\n")[0].decode("latin-1")) is None:
            return HEALTHY
        self._matched += 1
        if fault.kind is Kind.NOTHING or self._matched <= fault.skip:
            return HEALTHY
        if fault.times and self.met >= fault.times:
            return HEALTHY
        self.met += 1
        return fault

    async def _exchange(self, client: _Side, server: _Side) -> bool:
        """One request and its answer. Whether the connection goes on."""
        head = await _head(client[0])
        if not head:
            return False
        fault = self._fault_for(head)
        if fault.kind is Kind.FORGOTTEN:
            await asyncio.Event().wait()
        if fault.kind is Kind.SILENT:
            await self._changed.wait()
        if fault.kind in (Kind.SILENT, Kind.RESET, Kind.REFUSED):
            raise _Cut
        if fault.kind is Kind.STATUS:
            return await _answer(client, head, fault.status)
        await self._pause(fault, fault.seconds)
        server[1].write(head)
        if _expects(head):  # the client sends no body before the server wants it
            interim = await _head(server[0])
            client[1].write(interim)
            if not interim.startswith(b"HTTP/1.1 100"):
                return False
        limit = fault.after_bytes if fault.kind is Kind.CUT_REQUEST else -1
        await self._copy(_body(client[0], head, b"0"), server[1], fault, limit)
        return await self._return(client, server, head, fault)

    async def _return(self, client: _Side, server: _Side, head: bytes, fault: Fault) -> bool:
        answer = await _head(server[0])
        if not answer:
            return False
        whole = _with(answer, _body(server[0], answer, _default_length(head, answer)))
        if fault.kind is Kind.LOST_ANSWER:
            async for _ in whole:
                pass
            raise _Cut
        limit = fault.after_bytes if fault.kind is Kind.CUT_RESPONSE else -1
        await self._copy(whole, client[1], fault, limit)
        return b"connection: close" not in answer.lower()

    async def _copy(
        self, pieces: AsyncIterator[bytes], to: asyncio.StreamWriter, fault: Fault, limit: int
    ) -> None:
        """Pass on all pieces, at the fault's pace; with a limit, pass on so much and cut."""
        left = limit
        async for piece in pieces:
            to.write(piece if limit < 0 else piece[:left])
            await to.drain()
            left -= len(piece)
            if limit >= 0 and left <= 0:
                break
            await self._pause(fault, len(piece) / fault.bytes_per_second)
        if limit >= 0:
            raise _Cut

    async def _pause(self, fault: Fault, seconds: float) -> None:
        """So long, or until something else is played."""
        if seconds > 0 and fault is self._fault:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        plain: socket.socket = writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        writer.transport.abort()


async def _head(reader: asyncio.StreamReader) -> bytes:
    """A request or answer up to its body; empty where the connection ends instead."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _field(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"(?i)\r\n" + name + rb":[ \t]*([^\r]*)", head)
    return found.group(1).strip().lower() if found else b""


def _expects(head: bytes) -> bool:
    return _field(head, b"expect") == b"100-continue"


def _default_length(request: bytes, answer: bytes) -> bytes:
    """The length of an answer that does not say it: none where HTTP allows no body."""
    none = request.startswith(b"HEAD ") or answer.split(b" ", 2)[1] in (b"204", b"304")
    return b"0" if none else b""


async def _body(reader: asyncio.StreamReader, head: bytes, default: bytes) -> AsyncIterator[bytes]:
    """What follows a head, framing included. `default`: the length where the head says none."""
    if head.startswith(b"HTTP/") and default:
        return
    if _field(head, b"transfer-encoding") == b"chunked":
        size = -1
        while size:
            line = await reader.readline()
            size = int(line.partition(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
        return
    length = _field(head, b"content-length") or default
    left = int(length) if length else -1  # up to the end of the connection
    while left:
        piece = await reader.read(PIECE_BYTES if left < 0 else min(PIECE_BYTES, left))
        if not piece:
            break
        left -= len(piece) if left > 0 else 0
        yield piece


async def _with(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for one in others:
        yield one


async def _answer(client: _Side, head: bytes, status: int) -> bool:
    """An error as S3 says it. Whether the connection goes on."""
    goes_on = not _expects(head)
    if goes_on:
        async for _ in _body(client[0], head, b"0"):
            pass
    text = b"" if head.startswith(b"HEAD ") else _ERROR.format(_CODES[status]).encode()
    lines = [
        f"HTTP/1.1 {status} {_CODES[status]}",
        "Content-Type: application/xml",
        f"Content-Length: {len(text)}",
        f"Connection: {'keep-alive' if goes_on else 'close'}",
    ]
    client[1].write("\r\n".join(lines).encode() + b"\r\n\r\n" + text)
    await client[1].drain()
    return goes_on
