"""The front counts and authenticates every request, and gives it to its handler.

Handlers of the hot paths are called from here directly. Every other route belongs to the web
framework: its layers cost several times as much as receiving a scrape.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayotel.errors import RequestRefused
from rayotel.http import routes
from rayotel.http.errors import refusal
from rayotel.http.exchange import Answer, Exchange
from rayotel.http.routes import Access, Found, Route
from rayotel.telemetry import Telemetry

Handler = Callable[[Exchange], Awaitable[Answer]]


class Front:
    """The ASGI application of a server."""

    def __init__(
        self,
        framework: ASGIApp,
        handlers: Mapping[Route, Handler],
        telemetry: Telemetry,
        *,
        credentials: tuple[str, str] | None,
    ) -> None:
        """`framework` serves the routes without a handler. `credentials`: user and password."""
        self._framework = framework
        self._handlers = handlers
        self._telemetry = telemetry
        self._expected = ":".join(credentials).encode() if credentials else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the framework's own beginning and end."""
        if scope["type"] != "http":
            await self._framework(scope, receive, send)
            return
        started = time.monotonic()
        path = scope["path"]
        matched = routes.find(scope["method"], path)
        exchange = Exchange(scope, receive, matched.token if matched else "")
        try:
            self._admit(exchange, matched)
            if matched is None:
                raise _no_route(path)
            handler = self._handlers.get(matched.route)
            if handler is None:
                status = await self._by_framework(exchange, send)
                self._telemetry.answered(matched.route.label, status, time.monotonic() - started)
                return
            answer = await handler(exchange)
        except RequestRefused as error:
            answer = refusal(error, exchange.content_type)
        await exchange.drain()
        label = matched.route.label if matched else routes.label_of(path)
        self._telemetry.answered(label, answer.status, time.monotonic() - started)
        await answer.send(send)

    def _admit(self, exchange: Exchange, matched: Found | None) -> None:
        """Raises RequestRefused without credentials, where the settings ask for some."""
        if matched is not None and matched.route.access in (Access.OPEN, Access.SECRET):
            return
        if self._expected is not None and not hmac.compare_digest(
            _credentials(exchange), self._expected
        ):
            raise RequestRefused(401, "wrong or missing credentials")
        if matched is not None:
            exchange.trust()

    async def _by_framework(self, exchange: Exchange, send: Send) -> int:
        """Let the framework answer; the status that it sent."""
        status = 0

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await exchange.drain()
            await send(message)

        await self._framework(exchange.scope, exchange.receive, noting_send)
        return status


def _no_route(path: str) -> RequestRefused:
    methods = routes.methods_of(path)
    if methods:
        return RequestRefused(405, "method not allowed", allowed_methods=methods)
    return RequestRefused(404, "not found")


def _credentials(exchange: Exchange) -> bytes:
    """User and password as they were sent; empty for anything that is no Basic authentication."""
    scheme, _, encoded = exchange.header(b"authorization").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
