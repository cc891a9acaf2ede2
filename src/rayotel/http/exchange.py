"""An HTTP request and its answer, for handlers: plain ASGI, nothing buffered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.types import Message, Receive, Scope, Send

from rayotel.errors import TryLater

TRUST = "rayotel.trust"  # in a scope: what to call when a request has shown that it may ask
MAX_DRAINED_BYTES = 32 * 1024 * 1024
DRAIN_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is sent whole."""

    status: int
    content_type: str
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())

    async def send(self, send: Send) -> None:
        """Send it."""
        headers = [
            (b"content-type", self.content_type.encode("latin-1")),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class Exchange:
    """A request whose body may still be on its way. `token`: the part of its path at `{token}`."""

    __slots__ = ("_first", "_is_given_up", "_is_read", "_receive", "scope", "token")

    def __init__(self, scope: Scope, receive: Receive, token: str = "") -> None:
        self.scope = scope
        self.token = token
        self._receive = receive
        self._first: dict[bytes, bytes] | None = None
        self._is_read = self._is_given_up = False

    def trust(self) -> None:
        """This request may ask: its connection is one of the last to be closed in a crowd."""
        trust: Callable[[], None] | None = self.scope.get(TRUST)
        if trust is not None:
            trust()

    def header(self, name: bytes, default: str = "") -> str:
        """The first header of this name, which is in lower case."""
        if self._first is None:
            self._first = dict(reversed(self.scope["headers"]))
        value = self._first.get(name)
        return default if value is None else value.decode("latin-1")

    def headers_from(self, start: bytes) -> Iterator[tuple[str, bytes]]:
        """Headers whose name begins so, without that beginning, in order."""
        for name, value in self.scope["headers"]:
            if name.startswith(start):
                yield name[len(start) :].decode("latin-1"), value

    @property
    def content_type(self) -> str:
        """The Content-Type without its parameters, in lower case."""
        return self.header(b"content-type").partition(";")[0].strip().lower()

    @property
    def query(self) -> list[tuple[str, str]]:
        """The query's parameters, in order."""
        raw = self.scope["query_string"].decode("latin-1")
        return parse_qsl(raw, keep_blank_values=True)

    @property
    def client_ip(self) -> str:
        """The address of the sender; empty where the server does not know it."""
        client = self.scope.get("client")
        return client[0] if client else ""

    async def receive(self) -> Message:
        """The next piece of the request, for whoever speaks ASGI."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._is_read = True
        return message

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises TryLater where the client goes away."""
        while not self._is_read:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise TryLater(503, "the connection was closed", 1)
            yield message.get("body", b"")

    def give_up(self) -> None:
        """The rest of the body is not worth waiting for: its time is over."""
        self._is_given_up = True

    async def drain(self) -> None:
        """Read away what is left of the body.

        A server that closes a connection while the client still sends makes the client's system
        throw the answer away: a 413 or 401 would look like a broken connection and be retried for
        ever.
        """
        if self._is_read or self._is_given_up:
            return
        size = 0
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                while size < MAX_DRAINED_BYTES and not self._is_read:
                    size += len((await self.receive()).get("body", b""))
        except TimeoutError:
            return
