"""Raw connections: bytes as they are, and what comes back until the server ends it."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator

from support.harness import WAIT_SECONDS

LIVENESS = b"GET /api/v1/liveness HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/metrics HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"


def connect(port: int) -> socket.socket:
    """A connection to this machine."""
    sock = socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextlib.contextmanager
def crowd(port: int, count: int, *sent: bytes) -> Iterator[list[socket.socket]]:
    """Connections of which each sends some bytes, and then nothing."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            sock = stack.enter_context(connect(port))
            with contextlib.suppress(ConnectionError):
                for piece in sent:
                    sock.sendall(piece)
            found.append(sock)
        yield found


def until_end(sock: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            found += piece
    return found


def answer(sock: socket.socket) -> bytes:
    """One answer with a Content-Length; what came of it where the server ends the connection."""
    found = b""
    while piece := sock.recv(65536):
        found += piece
        head, end, body = found.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if end and length is not None and len(body) >= int(length[1]):
            break
    return found


def statuses(answers: bytes) -> list[int]:
    """The statuses of answers one behind the other."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def is_open(sock: socket.socket) -> bool:
    """Whether the server has not ended a connection; nothing must be on its way to be read."""
    sock.setblocking(False)
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        sock.settimeout(WAIT_SECONDS)


def drip(sock: socket.socket, data: bytes, seconds: float) -> int:
    """Send byte by byte until the server ends the connection; how many were sent."""
    for number, byte in enumerate(data):
        try:
            sock.sendall(bytes([byte]))
        except ConnectionError:
            return number
        time.sleep(seconds)
        if not is_open(sock):
            return number
    return len(data)
