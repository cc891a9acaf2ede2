"""Where the body of a request ends: by its length, or chunk by chunk.

A chunk's line is strict, as a head is. Extensions and trailers are read, bounded, and forgotten.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Protocol

from rayotel.http.heads import CHUNKED, Malformed, read_field

MAX_CHUNK_LINE_BYTES = 256
MAX_EXTENSION_BYTES = 16 * 1024  # of all chunks of a body
MAX_TRAILER_BYTES = 4 * 1024
_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})((?:;[\t\x20-\x7e\x80-\xff]*)?)\r\n")
_PART_OF_LINE = re.compile(rb"[0-9A-Fa-f]{0,8}|[0-9A-Fa-f]{1,8}(?:;[\t\x20-\x7e\x80-\xff]*)?\r?")


class Framing(Protocol):
    """What knows where a body ends."""

    is_whole: bool

    def feed(self, data: bytes, body: bytearray) -> bytes:
        """Put what belongs to the body behind it; what stands after its end. Raises Malformed."""


def framing_of(body_bytes: int) -> Framing:
    """For a head's `body_bytes`."""
    return Chunked() if body_bytes == CHUNKED else Sized(body_bytes)


class Sized:
    """A body of a known length."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes
        self.is_whole = size_bytes == 0

    def feed(self, data: bytes, body: bytearray) -> bytes:
        """Take as many bytes as are missing."""
        if len(data) < self._left:
            body += data
            self._left -= len(data)
            return b""
        body += data[: self._left] if len(data) > self._left else data
        rest = data[self._left :]
        self._left, self.is_whole = 0, True
        return rest


class _At(Enum):
    LINE = 1
    DATA = 2
    DATA_END = 3
    TRAILERS = 4


class Chunked:
    """A body in chunks: `size[;extension] CR LF data CR LF`, a chunk of no bytes, trailers."""

    def __init__(self) -> None:
        self.is_whole = False
        self._at = _At.LINE
        self._held = b""  # the beginning of a line
        self._left = self._extension_bytes = self._trailer_bytes = 0

    def feed(self, data: bytes, body: bytearray) -> bytes:
        """Take all chunks that are there."""
        data, self._held = self._held + data, b""
        at, size = 0, len(data)
        while at < size:
            if self._at is _At.LINE:
                taken = self._line(data, at)
            elif self._at is _At.DATA:
                piece = data[at : at + self._left]
                body += piece
                taken = len(piece)
                self._left -= taken
                if not self._left:
                    self._at = _At.DATA_END
            elif self._at is _At.DATA_END:
                taken = self._data_end(data, at)
            else:
                taken = self._trailer(data, at)
                if self.is_whole:
                    return data[at + taken :]
            if not taken:
                self._held = data[at:]
                break
            at += taken
        return b""

    def _line(self, data: bytes, at: int) -> int:
        """How many bytes a chunk's line takes; 0: more must come."""
        line = _LINE.match(data, at, at + MAX_CHUNK_LINE_BYTES)
        if line is None:
            if len(data) - at >= MAX_CHUNK_LINE_BYTES or not _PART_OF_LINE.fullmatch(data, at):
                raise Malformed("chunk size or extension")
            return 0
        self._extension_bytes += len(line[2])
        if self._extension_bytes > MAX_EXTENSION_BYTES:
            raise Malformed("too many chunk extensions")
        self._left = int(line[1], 16)
        self._at = _At.DATA if self._left else _At.TRAILERS
        return line.end() - at

    def _data_end(self, data: bytes, at: int) -> int:
        found = data[at : at + 2]
        if found == b"\r\n":
            self._at = _At.LINE
            return 2
        if found != b"\r":
            raise Malformed("chunk longer than its size")
        return 0

    def _trailer(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        line = data[at : end if end >= 0 else None]
        if self._trailer_bytes + len(line) > MAX_TRAILER_BYTES:
            raise Malformed("trailers are too large")
        if end < 0:
            if b"\n" in line:
                raise Malformed("line end")
            return 0
        if line:
            read_field(line)
        self._trailer_bytes += len(line) + 2
        self.is_whole = not line
        return len(line) + 2
