"""A client's connection: uvicorn's with h11, and a short way for plain requests.

A sender of scrapes keeps its connection and sends head and body in one piece. h11 spends more on
such a request than receiving and storing it costs. `whole_post` parses requests of the plainest
form, and the answer is written in one piece. h11 parses all other requests. A test proves that both
ways read a plain request alike.
"""

from __future__ import annotations

import re
from asyncio import Event
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import h11
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import (
    STATUS_PHRASES,
    H11Protocol,
    RequestResponseCycle,
)

from rayotel.http.routes import ROUTES, TOKEN

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

MAX_HEAD_BYTES = 16 * 1024  # as many as h11 takes
LINGER_SECONDS = 1.0
_START = b"POST /"
_TARGET = re.compile(rb"[\x21-\x7e]+")
_FIELD = re.compile(
    rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+):[ \t]*"
    rb"((?:[\x21-\x7e\x80-\xff](?:[ \t\x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_LENGTH = re.compile(rb"[0-9]{1,10}")
# what changes how a message is framed, or what follows it
_SPECIAL = frozenset({b"transfer-encoding", b"expect", b"connection", b"upgrade"})
# the addresses of hot paths; a secret one is known by its beginning
_HOT = tuple(
    route.path.removesuffix(TOKEN).encode() for route in ROUTES if route.signal is not None
)
Headers = list[tuple[bytes, bytes]]


class WholePost(NamedTuple):
    """A request that came in one piece. `headers`: names in lower case, in order."""

    target: bytes
    headers: Headers
    body: bytes


def whole_post(data: bytes) -> WholePost | None:
    """The POST that `data` is, whole and nothing but it; None: h11 shall look at it."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) if data.startswith(_START) else -1
    if end < 0:
        return None
    first, *lines = data[:end].split(b"\r\n")
    method, _, rest = first.partition(b" ")
    target, _, version = rest.rpartition(b" ")
    if method != b"POST" or version != b"HTTP/1.1" or _TARGET.fullmatch(target) is None:
        return None
    headers: Headers = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        headers.append((field[1].lower(), field[2]))
    by_name = dict(headers)
    length = by_name.get(b"content-length", b"")
    is_plain = len(by_name) == len(headers) and b"host" in by_name
    if not is_plain or not by_name.keys().isdisjoint(_SPECIAL) or not _LENGTH.fullmatch(length):
        return None
    body = data[end + 4 :]
    return WholePost(target, headers, body) if int(length) == len(body) else None


class Connection(H11Protocol):
    """One connection. uvicorn makes it, hands it the bytes received, and closes it at the end."""

    _waiting = b""
    _is_over = False

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._is_over:
            return
        if isinstance(self.cycle, _ShortCycle) and not self.cycle.response_complete:
            # the next request is sent before this one is answered: its turn comes after
            self._waiting += data
            self.flow.pause_reading()
            return
        post = whole_post(data) if self._is_idle() else None
        if post is None or not post.target.startswith(_HOT):
            super().data_received(data)
            return
        self._unset_keepalive_if_required()
        self._start(post)

    def _is_idle(self) -> bool:
        """Whether h11 is between two requests and holds no bytes of the next."""
        states = (self.conn.our_state, self.conn.their_state)
        return states == (h11.IDLE, h11.IDLE) and not self.conn.trailing_data[0]

    def _start(self, post: WholePost) -> None:
        """Let the application answer."""
        raw_path, _, query = post.target.partition(b"?")
        self.headers = post.headers
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": "POST",
            "root_path": "",
            "path": unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": query,
            "headers": post.headers,
            "state": self.app_state.copy(),
        }
        self.cycle = _ShortCycle(
            post.body,
            scope=self.scope,
            conn=self.conn,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=Event(),
            on_response=self.on_response_complete,
        )
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close once the client had time to read the answer.

        A connection that closes while bytes of the client wait unread makes the client's system
        throw the answer away.
        """
        body = msg.encode("ascii")
        headers = [(b"content-type", b"text/plain; charset=utf-8"), CLOSE_HEADER]
        response = h11.Response(status_code=400, headers=headers, reason=STATUS_PHRASES[400])
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._is_over = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def on_response_complete(self) -> None:
        """The answer is written; what came meanwhile has its turn."""
        super().on_response_complete()
        if self._waiting and not self.transport.is_closing():
            data, self._waiting = self._waiting, b""
            self.data_received(data)


class _ShortCycle(RequestResponseCycle):
    """A request that h11 never saw, and its answer. The answer has a Content-Length."""

    def __init__(self, content: bytes, **more: Any) -> None:
        super().__init__(**more)
        self._content: bytes | None = content
        self._head = b""

    async def receive(self) -> ASGIReceiveEvent:
        """The whole body, once; then the end of the connection."""
        content, self._content = self._content, None
        if content is not None:
            return {"type": "http.request", "body": content, "more_body": False}
        return await super().receive()

    async def send(self, message: ASGISendEvent) -> None:
        """Keep the head until the body comes, and write both at once."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self.response_started = True
            self._head = self._head_of(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.response_complete = True
            self.message_event.set()
            self.transport.write(self._head + message.get("body", b""))
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
        else:
            raise RuntimeError(f"unexpected ASGI message '{message['type']}' on a hot path")

    def _head_of(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        sent = [*self.default_headers, *headers]
        if CLOSE_HEADER in sent:  # of an answer that ends with the connection
            self.keep_alive = False
        elif not self.keep_alive:
            sent.append(CLOSE_HEADER)
        lines = [b"HTTP/1.1 %d %s\r\n" % (status, STATUS_PHRASES[status])]
        lines += [b"%s: %s\r\n" % pair for pair in sent]
        return b"".join((*lines, b"\r\n"))
