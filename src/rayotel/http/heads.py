"""The head of a request, read strictly and in one way only.

Where two programs on a request's way read one head differently, a request can hide in another one's
body. So what is not plainly valid is refused, and the connection closed: lines that end otherwise
than with CR LF, folded lines, blanks before a colon, control characters, a repeated or ambiguous
length, any transfer coding but `chunked`, both of them together. Whatever is taken here, h11 takes
too, and reads the same in it; a property test holds that.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_HEAD_BYTES = 16 * 1024
MAX_FIELDS = 100
END = b"\r\n\r\n"
CHUNKED = -1
_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]"
_FIRST_LINE = re.compile(_TOKEN + rb"+ [\x21-\x7e]+ HTTP/1\.[01]")
_FIELD = re.compile(
    rb"(" + _TOKEN + rb"+):[ \t]*"
    rb"((?:[\x21-\x7e\x80-\xff](?:[ \t\x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_BEGINNING = re.compile(_TOKEN)
# a line end that is none, or a control character: no head goes on behind it
_BROKEN = re.compile(rb"(?<!\r)\n|\r[^\n]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HOST = re.compile(rb"[-A-Za-z0-9._~!$&'()*+,;=:%\[\]]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
# where a second one would let two readers disagree
_SINGLE = (b"host", b"content-length", b"transfer-encoding")
Headers = list[tuple[bytes, bytes]]


class Malformed(Exception):
    """No HTTP, or none that is safe to read. Never sent again as it is: the connection closes."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class Head(NamedTuple):
    """A head. `headers`: names in lower case, in order. `body_bytes`: its length, or CHUNKED.

    `keeps`: the client may send another request after this one. `waits`: it waits for 100.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    body_bytes: int
    keeps: bool
    waits: bool


def read_head(data: bytes) -> Head:
    """A head without the empty line at its end; raises Malformed."""
    first, *lines = data.split(b"\r\n")
    if _FIRST_LINE.fullmatch(first) is None:
        raise Malformed("request line")
    if len(lines) > MAX_FIELDS:
        raise Malformed("too many header fields")
    headers: Headers = [read_field(line) for line in lines]
    by_name = dict(headers)
    if len(by_name) < len(headers):
        names = [name for name, _ in headers]
        for name in _SINGLE:
            if names.count(name) > 1:
                raise Malformed(f"repeated {name.decode()}")
    method, target, version = first.split(b" ")
    is_old = version == b"HTTP/1.0"
    if _HOST.fullmatch(by_name.get(b"host", b"" if is_old else b"\n")) is None:
        raise Malformed("host")
    keeps = not is_old
    if b"connection" in by_name:
        said = b",".join(value for name, value in headers if name == b"connection")
        keeps = keeps and b"close" not in [token.strip().lower() for token in said.split(b",")]
    waits = not is_old and by_name.get(b"expect", b"").lower() == b"100-continue"
    size = _body_bytes(by_name, is_old)
    return Head(method, target, version[5:], headers, size, keeps, waits and size != 0)


def read_field(line: bytes) -> tuple[bytes, bytes]:
    """A header or trailer field: its name in lower case, its value; raises Malformed."""
    field = _FIELD.fullmatch(line)
    if field is None:
        raise Malformed("header field")
    return field[1].lower(), field[2]


def check_beginning(data: bytearray, known_bytes: int) -> None:
    """Raises Malformed where no head begins so, or where it is too long to be one.

    `known_bytes`: as many of them were looked at before.
    """
    if _BEGINNING.match(data) is None:
        raise Malformed("request line")
    if _BROKEN.search(data, max(0, known_bytes - 1)) is not None:
        raise Malformed("line end or control character")
    if len(data) >= MAX_HEAD_BYTES:
        raise Malformed("head is too large")


def _body_bytes(by_name: dict[bytes, bytes], is_old: bool) -> int:
    length, coding = by_name.get(b"content-length"), by_name.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise Malformed("both content-length and transfer-encoding")
        if is_old or coding.lower() != b"chunked":
            raise Malformed("transfer-encoding")
        return CHUNKED
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise Malformed("content-length")
    return int(length)
