"""Decompression of request bodies, which stops at its bound while it inflates and not afterwards.

A codec is driven in small steps, so a few kilobytes that would inflate to gigabytes cost no more
memory than the bound allows. Several gzip members or zstd frames in a row are one body, as their
formats define. Any other bytes after the end are an error.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from isal import isal_zlib

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STEP_BYTES = 256 * 1024
INPUT_STEP_BYTES = 4096
# each costs a codec, whatever is in it: a microsecond for gzip, sixteen for zstd
MAX_MEMBERS = 1_000_000
MAX_FRAMES = 20_000
_MAX_PIECES = 1024
# 8 MiB, the window that every decoder must support; a larger one would be memory beyond our bounds
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
_CORRUPT = cast("type[Exception]", isal_zlib.error)  # its stubs say that it is an instance
ENCODINGS = ("identity", "gzip", "zstd", "deflate")


class MalformedBody(ValueError):
    """The bytes do not have the form that their Content-Encoding names."""


class BodyTooLarge(ValueError):
    """The body inflates beyond its bound."""


def inflate(
    body: bytes,
    encoding: str,
    max_bytes: int,
    reserve: Callable[[int], None],
    max_members: int = MAX_MEMBERS,
) -> bytes:
    """The body without its Content-Encoding (one of ENCODINGS).

    `reserve` is called with the size of each piece before it is kept, and may raise to stop.
    Raises MalformedBody, also where there are too many members, or BodyTooLarge.
    """
    if encoding == "identity":
        return body
    pieces: list[bytes] = []
    total = 0
    try:
        for piece in _INFLATERS[encoding](body, max_members):
            total += len(piece)
            if total > max_bytes:
                raise BodyTooLarge(f"body inflates to more than {max_bytes} bytes")
            reserve(len(piece))
            pieces.append(piece)
            if len(pieces) >= _MAX_PIECES:
                pieces[:] = [b"".join(pieces)]
        return b"".join(pieces)
    finally:
        # an exception keeps this frame alive for a while, and must not keep the body with it
        pieces.clear()


def _zlib_pieces(body: bytes, window_bits: int, max_members: int) -> Iterator[bytes]:
    position = 0
    for _ in range(max_members):
        codec = isal_zlib.decompressobj(window_bits)
        rest = b""
        while not _is_over(codec):
            if not rest:
                # little at a time: what a codec does not use it copies, and members may be many
                rest = body[position : position + INPUT_STEP_BYTES]
                position += len(rest)
            try:
                piece = codec.decompress(rest, STEP_BYTES)
            except _CORRUPT:
                raise MalformedBody("corrupt compressed data") from None
            if piece:
                yield piece
            elif not rest:
                raise MalformedBody("compressed data ends too early")
            rest = codec.unconsumed_tail
        position -= len(codec.unused_data)
        if position == len(body):
            return
    raise MalformedBody(_too_many(max_members))


def _too_many(members: int) -> str:
    what = f"more than {members} members or frames"
    return what if members > 1 else "bytes after the end of the compressed data"


class _Codec(Protocol):
    @property
    def eof(self) -> bool:
        """Whether the codec has reached the end."""


def _is_over(codec: _Codec) -> bool:
    """Whether the end of a member or frame was reached."""
    return codec.eof


def _gzip(body: bytes, max_members: int) -> Iterator[bytes]:
    return _zlib_pieces(body, 16 + zlib.MAX_WBITS, max_members)


def _deflate(body: bytes, max_members: int) -> Iterator[bytes]:
    """HTTP's "deflate" is the zlib format; some senders leave out its header."""
    del max_members  # it has no members
    has_header = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _zlib_pieces(body, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS, 1)


def _zstd(body: bytes, max_members: int) -> Iterator[bytes]:
    position = 0
    for _ in range(min(max_members, MAX_FRAMES)):
        codec = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
        while not _is_over(codec):
            rest = b""
            if codec.needs_input:
                rest = body[position : position + INPUT_STEP_BYTES]
                position += len(rest)
                if not rest:
                    raise MalformedBody("compressed data ends too early")
            try:
                piece = codec.decompress(rest, STEP_BYTES)
            except zstd.ZstdError:
                raise MalformedBody("corrupt compressed data") from None
            if piece:
                yield piece
        position -= len(codec.unused_data)
        if position == len(body):
            return
    raise MalformedBody(_too_many(min(max_members, MAX_FRAMES)))


_INFLATERS: dict[str, Callable[[bytes, int], Iterator[bytes]]] = {
    "gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
}
