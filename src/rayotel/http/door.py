"""The door takes connections from a listening socket, always, and ends them when the server stops.

A server that has no file left to take a connection with would never come back to it, or come back
to nothing else. So the door makes room first, and where it still gets no file, closes who matters
least and waits a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from functools import partial

from starlette.types import ASGIApp

from rayotel.http.certificate import Certificate
from rayotel.http.connection import Connection, Host
from rayotel.http.crowd import Bounds, Crowd, Rank
from rayotel.logs import Failing, log_event
from rayotel.telemetry import Telemetry

ACCEPTS_AT_ONCE = 64  # then other connections have their turn
MAX_ENDING = 16  # connections that were ended and have not closed their files yet
SWEEP_SECONDS = 0.5
RENEWAL_SECONDS = 10.0
PAUSE_SECONDS = 0.1
ROOM_IN_NEED = 16
NEW_SECONDS = 0.5  # a new connection may send its request before it is closed for its file
TLS_CLOSING_SECONDS = 2.0
POLL_SECONDS = 0.02
INVALID_SECONDS = 60.0  # between two lines about requests that are none

logger = logging.getLogger(__name__)


class Door:
    """Serves an application to whoever connects, between `open` and `close`, on one event loop."""

    def __init__(
        self,
        listener: socket.socket,
        app: ASGIApp,
        bounds: Bounds,
        telemetry: Telemetry,
        certificate: Certificate | None,
    ) -> None:
        """`listener`: bound, listening, not blocking; closed by `close`."""
        self._listener = listener
        self._app = app
        self._bounds = bounds
        self._telemetry = telemetry
        self._certificate = certificate
        self._crowd = Crowd(bounds, telemetry)
        self._failing = Failing()
        self._told_at = -INVALID_SECONDS
        self._is_open = False

    @property
    def has_certificate(self) -> bool:
        """Whether it serves HTTPS."""
        return self._certificate is not None

    def open(self) -> None:
        """Begin to take connections."""
        self._loop = asyncio.get_running_loop()
        name = self._listener.getsockname()
        self._host = Host(
            self._app,
            self._crowd,
            self._malformed,
            (str(name[0]), name[1]),
            is_tls=self.has_certificate,
        )
        self._is_open = True
        self._renewed_at = self._loop.time()
        self._listen()
        self._sweep()

    async def close(self, grace_seconds: float) -> None:
        """Take no more connections, and end all: those with a request when it is answered."""
        self._is_open = False
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for member in self._crowd.members:
            assert isinstance(member, Connection)
            member.shutdown()
        until = self._loop.time() + grace_seconds
        while (len(self._crowd) or self._host.tasks) and self._loop.time() < until:
            await asyncio.sleep(POLL_SECONDS)
            self._crowd.sweep(self._loop.time())
        for task in self._host.tasks:
            task.cancel()
        for member in self._crowd.members:
            member.abort()
        if self._host.tasks:
            await asyncio.wait(self._host.tasks, timeout=1)

    def renew(self) -> None:
        """Look whether the certificate was renewed."""
        if self._certificate is not None:
            self._renewed_at = self._loop.time()
            self._certificate.renew()

    def _listen(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        """Take those who wait, some at once."""
        for _ in range(ACCEPTS_AT_ONCE):
            if self._host.files >= self._bounds.max_connections + MAX_ENDING:
                return
            try:
                client, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError as error:
                self._rest(error)
                return
            if self._failing.end() is not None:
                log_event(logger, logging.INFO, "connections are accepted again")
            connection = Connection(self._host, (str(address[0]), address[1]))
            self._crowd.join(connection, self._loop.time())
            connection.opening = self._loop.create_task(self._begin(connection, client))
            connection.opening.add_done_callback(partial(self._begun, connection, client))

    def _rest(self, error: OSError) -> None:
        """No file is left, or no memory: some go, and the rest of the server has a moment."""
        if self._failing.begin(error.errno):
            log_event(
                logger, logging.ERROR, "connections cannot be accepted", reason=error.strerror
            )
        self._crowd.make_room(
            ROOM_IN_NEED, Rank.MEMBER, self._loop.time(), older_than_seconds=NEW_SECONDS
        )
        self._loop.remove_reader(self._listener.fileno())
        self._loop.call_later(PAUSE_SECONDS, self._listen)

    async def _begin(self, connection: Connection, client: socket.socket) -> None:
        """Make it a connection; with TLS that takes a handshake, which has a deadline."""
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._certificate is None:
            await self._loop.connect_accepted_socket(lambda: connection, client)
            return
        await self._loop.connect_accepted_socket(
            lambda: connection,
            client,
            ssl=self._certificate.context,
            ssl_handshake_timeout=self._bounds.head_timeout_seconds,
            ssl_shutdown_timeout=TLS_CLOSING_SECONDS,
        )

    def _begun(
        self, connection: Connection, client: socket.socket, task: asyncio.Task[None]
    ) -> None:
        """It is made, or is none: the client left, spoke no TLS, was too slow, or made room."""
        connection.opening = None
        if task.cancelled() or task.exception() is not None:
            connection.connection_lost(None)
            with contextlib.suppress(OSError):
                client.close()

    def _sweep(self) -> None:
        """End what lasts too long, twice a second."""
        if not self._is_open:
            return
        now = self._loop.time()
        self._crowd.sweep(now)
        if now - self._renewed_at >= RENEWAL_SECONDS:
            self.renew()
        self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _malformed(self, reason: str) -> None:
        self._telemetry.malformed.labels(reason).inc()
        now = self._loop.time()
        if now - self._told_at >= INVALID_SECONDS:
            self._told_at = now
            log_event(logger, logging.WARNING, "Invalid HTTP request received", reason=reason)
