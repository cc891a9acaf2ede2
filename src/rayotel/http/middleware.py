"""What stands before every route: credentials, counting, and reading away what nobody reads.

Plain ASGI middleware: nothing here buffers a body.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayotel.errors import RequestRefused, TryLater
from rayotel.telemetry import Telemetry

OPEN_PATHS = frozenset({"/api/v1/liveness", "/api/v1/readiness"})
# what follows is a secret: whoever serves these paths compares it
SECRET_PREFIXES = ("/v1/events/",)
MAX_DRAINED_BYTES = 32 * 1024 * 1024
DRAIN_TIMEOUT_SECONDS = 5.0
RETRY_AFTER_SECONDS = 2


_GIVEN_UP = "rayotel.given_up"


class ConnectionLimit:
    """503 with Retry-After where more connections are open than may be."""

    def __init__(self, app: ASGIApp, *, max_connections: int, open_now: Callable[[], int]) -> None:
        self._app = app
        self._max_connections = max_connections
        self._open_now = open_now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on while there is room."""
        if scope["type"] == "http" and self._open_now() > self._max_connections:
            raise TryLater(503, "too many connections", RETRY_AFTER_SECONDS)
        await self._app(scope, receive, send)


class Drain:
    """Reads what is left of a request's body after an early answer.

    A server that closes a connection while the client still sends makes the client's system throw
    the answer away: a 413 or 401 would look like a broken connection and be retried for ever.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, watch for the body's end, and read up to it before the answer's last byte."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        finished = False

        async def watched_receive() -> Message:
            nonlocal finished
            message = await receive()
            finished = finished or not message.get("more_body", False)
            return message

        async def draining_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not finished and _GIVEN_UP not in scope:
                await _drain(watched_receive)
            await send(message)

        await self._app(scope, watched_receive, draining_send)


def give_up(scope: Scope) -> None:
    """The rest of this request's body is not worth waiting for: its time is over."""
    scope[_GIVEN_UP] = True


async def _drain(receive: Receive) -> None:
    size = 0
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
            while size < MAX_DRAINED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


class BasicAuthentication:
    """401 for whoever does not know user and password; the comparison takes constant time."""

    def __init__(self, app: ASGIApp, *, username: str, password: str) -> None:
        self._app = app
        self._expected = f"{username}:{password}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass."""
        if scope["type"] == "http" and not _is_open(scope["path"]):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(_credentials(given), self._expected):
                raise RequestRefused(401, "wrong or missing credentials")
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(SECRET_PREFIXES)


def _label(path: str, known: frozenset[str]) -> str:
    """A path as a label: never a secret, and never one of those that anybody can invent."""
    for prefix in SECRET_PREFIXES:
        if path.startswith(prefix):
            return prefix + "{token}"
    return path if path in known else "other"


def _credentials(header: bytes) -> bytes:
    scheme, _, encoded = header.partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""


class RequestCounter:
    """Counts answers by path and status, and how long they took."""

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry, paths: frozenset[str]) -> None:
        self._app = app
        self._telemetry = telemetry
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on and note the status that is sent."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        path = _label(scope["path"], self._paths)

        async def noting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._telemetry.requests.labels(path, str(message["status"])).inc()
                self._telemetry.request_seconds.observe(time.monotonic() - started)
            await send(message)

        await self._app(scope, receive, noting_send)
