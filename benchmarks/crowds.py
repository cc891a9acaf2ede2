"""How long others wait while strangers crowd a server: one table, a row a crowd.

    crowds.py [--seconds 10] [--idle 10000] [--slow 1000]

Strangers without credentials hold connections that send nothing, a byte of a head a second, or an
announced body a byte a second, and open a new one for each that the server ends. Meanwhile one
client asks for liveness on a new connection each time, and a sender with credentials posts a point
on a connection that it keeps, and one on a new connection, every 50 ms. A failure is an answer
other than 200, a connection that ends without one, or a wait of five seconds.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import resource
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.harness import Server, gauge_request

USER, PASSWORD = "bench", "bench-password"
AUTHORIZATION = b"Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode())
LIVENESS = b"GET /api/v1/liveness HTTP/1.1\r\nHost: bench\r\n\r\n"
POST = b"POST /v1/metrics HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-protobuf\r\n"
PAUSE_SECONDS, GIVE_UP_SECONDS, DRIP_SECONDS = 0.05, 5.0, 1.0
CONNECTS_AT_ONCE = 200


@dataclass
class Waits:
    """How long answers took, in seconds, and how many did not come."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def words(self) -> str:
        """Median and longest in ms, and failures."""
        if not self.seconds:
            return f"-, -, {self.failed}"
        median = statistics.median(self.seconds) * 1e3
        return f"{median:.0f}, {max(self.seconds) * 1e3:.0f}, {self.failed}"


class Client(threading.Thread):
    """Sends one request after another and times the answers."""

    def __init__(self, port: int, *, keeps: bool, posts: bool) -> None:
        super().__init__(daemon=True)
        self.waits = Waits()
        self.is_stopped = False
        self._port, self._keeps, self._posts = port, keeps, posts
        self._kept: socket.socket | None = None

    def run(self) -> None:
        """Until it is stopped."""
        while not self.is_stopped:
            started = time.perf_counter()
            if self._ask():
                self.waits.seconds.append(time.perf_counter() - started)
            else:
                self.waits.failed += 1
            time.sleep(PAUSE_SECONDS)

    def _request(self) -> bytes:
        if not self._posts:
            return LIVENESS
        body = gauge_request(time.time())
        length = b"Content-Length: %d\r\n" % len(body)
        return POST + b"Authorization: " + AUTHORIZATION + b"\r\n" + length + b"\r\n" + body

    def _ask(self) -> bool:
        sock, self._kept = self._kept, None
        try:
            if sock is None:
                sock = socket.create_connection(("127.0.0.1", self._port), GIVE_UP_SECONDS)
            sock.sendall(self._request())
            is_answered = sock.recv(65536).startswith(b"HTTP/1.1 200")
        except OSError:
            is_answered = False
        if sock is not None and self._keeps and is_answered:
            self._kept = sock
        elif sock is not None:
            sock.close()
        return is_answered


class Strangers(threading.Thread):
    """Holds as many connections as it may, each sending `first` and then `drip` again and again."""

    def __init__(self, port: int, count: int, first: bytes, drip: bytes) -> None:
        super().__init__(daemon=True)
        self.is_stopped = False
        self.opened = 0
        self._port, self._count, self._first, self._drip = port, count, first, drip
        self._open: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Until it is stopped."""
        dripped = time.monotonic()
        while not self.is_stopped:
            for _ in range(min(CONNECTS_AT_ONCE, self._count - len(self._open))):
                self._connect()
            for key, _ in self._selector.select(0.01):
                assert isinstance(key.fileobj, socket.socket)
                self._close(key.fileobj)
            if self._drip and time.monotonic() - dripped > DRIP_SECONDS:
                dripped = time.monotonic()
                for sock in list(self._open):
                    with contextlib.suppress(OSError):
                        sock.send(self._drip)
        for sock in list(self._open):
            self._close(sock)

    def _connect(self) -> None:
        with contextlib.suppress(OSError):
            sock = socket.create_connection(("127.0.0.1", self._port), GIVE_UP_SECONDS)
            self._open.add(sock)
            self._selector.register(sock, selectors.EVENT_READ)
            self.opened += 1
            sock.setblocking(False)
            if self._first:
                sock.send(self._first)

    def _close(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        self._open.discard(sock)
        sock.close()


def crowds(idle: int, slow: int) -> Iterator[tuple[str, int, bytes, bytes]]:
    """What is measured: words, how many, what each sends first, and then every second."""
    body = POST + b"Content-Length: 1000000\r\n"
    yield "nobody", 0, b"", b""
    yield f"{idle} idle connections", idle, b"", b""
    yield f"{slow} slow heads", slow, POST + b"X: ", b"x"
    yield f"{slow} slow bodies without credentials", slow, body + b"\r\n", b"x"
    known = body + b"Authorization: " + AUTHORIZATION + b"\r\n\r\n"
    yield f"{slow} slow bodies with credentials", slow, known, b"x"


def measure(seconds: float, count: int, first: bytes, drip: bytes) -> list[str]:
    """The cells of a row."""
    env = {"RAYOTEL_USERNAME": USER, "RAYOTEL_PASSWORD": PASSWORD}
    with tempfile.TemporaryDirectory(prefix="rayotel-bench-") as name:
        data_dir = Path(name) / "data"
        with Server(data_dir, env=env) as server:
            strangers = Strangers(server.port, count, first, drip)
            clients = [
                Client(server.port, keeps=False, posts=False),
                Client(server.port, keeps=True, posts=True),
                Client(server.port, keeps=False, posts=True),
            ]
            threads: list[Client | Strangers] = [*clients, strangers]
            for thread in threads:
                thread.start()
            time.sleep(seconds)
            for thread in threads:
                thread.is_stopped = True
                thread.join(GIVE_UP_SECONDS * 2)
            server.stop()
    return [*(client.waits.words() for client in clients), str(strangers.opened)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Crowds of strangers, and who waits for them.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=1000)
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle = min(given.idle, hard - 500)
    print("| crowd | liveness | sender, kept | sender, new | connections opened |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for words, count, first, drip in crowds(idle, given.slow):
        cells = " | ".join(measure(given.seconds, count, first, drip))
        print(f"| {words} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
