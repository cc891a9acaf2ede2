"""Messages over a stream socket: one byte of kind, eight of length, and the content.

B  the answer begins: an Arrow IPC stream of the schema alone, or nothing for text
R  rows: an Arrow IPC stream of the schema and one batch
T  text: bytes of a result in a format
E  an error, as JSON: its class, message and hint; nothing follows
Z  the end, as JSON: what is to be said of the result
Q  a question, from the asker
"""

from __future__ import annotations

import socket
import struct

_HEAD = struct.Struct("!cQ")
MAX_FRAME_BYTES = 256 * 1024 * 1024
BEGUN, ROWS, TEXT, ERROR, END, QUESTION = b"B", b"R", b"T", b"E", b"Z", b"Q"


def send(sock: socket.socket, kind: bytes, content: bytes | memoryview = b"") -> None:
    """Send one message. Raises OSError where nobody reads."""
    sock.sendall(_HEAD.pack(kind, len(content)))
    if len(content):
        sock.sendall(content)


def receive(sock: socket.socket) -> tuple[bytes, bytearray]:
    """Wait for one message. Raises EOFError where the other side ended, also in the middle."""
    kind, length = _HEAD.unpack(_exactly(sock, _HEAD.size))
    if length > MAX_FRAME_BYTES:
        raise EOFError
    return kind, _exactly(sock, length)


def _exactly(sock: socket.socket, length: int) -> bytearray:
    content = bytearray(length)
    view = memoryview(content)
    while view:
        try:
            count = sock.recv_into(view)
        except ConnectionError:
            count = 0
        if not count:
            raise EOFError
        view = view[count:]
    return content
