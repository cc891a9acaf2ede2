"""Request bodies: decompression that stops at its bound while inflating, not after.

A codec is driven in small steps, so a few kilobytes that would inflate to gigabytes cost no more
memory than the bound allows. Several gzip members or zstd frames in a row are one body, as their
formats say; anything after the end that is neither is an error.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STEP_BYTES = 256 * 1024
# 8 MiB, the window that every decoder must support; a larger one would be memory beyond our bounds
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
ENCODINGS = ("identity", "gzip", "zstd", "deflate")


class MalformedBody(ValueError):
    """The bytes are not what their Content-Encoding says."""


class BodyTooLarge(ValueError):
    """The body inflates beyond its bound."""


def inflate(body: bytes, encoding: str, max_bytes: int, reserve: Callable[[int], None]) -> bytes:
    """The body without its Content-Encoding (one of ENCODINGS).

    `reserve` is called with the size of each piece before it is kept, and may raise to stop.
    Raises MalformedBody or BodyTooLarge.
    """
    if encoding == "identity":
        return body
    pieces, total = [], 0
    for piece in _INFLATERS[encoding](body):
        total += len(piece)
        if total > max_bytes:
            raise BodyTooLarge(f"body inflates to more than {max_bytes} bytes")
        reserve(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def _zlib_pieces(body: bytes, window_bits: int, *, members: bool) -> Iterator[bytes]:
    rest = body
    while True:
        codec = zlib.decompressobj(window_bits)
        while True:
            try:
                piece = codec.decompress(rest, STEP_BYTES)
            except zlib.error:
                raise MalformedBody("corrupt compressed data") from None
            if piece:
                yield piece
            if codec.eof:
                rest = codec.unused_data
                break
            rest = codec.unconsumed_tail
            if not piece and not rest:
                raise MalformedBody("compressed data ends too early")
        if not rest:
            return
        if not members:
            raise MalformedBody("bytes after the end of the compressed data")


def _gzip(body: bytes) -> Iterator[bytes]:
    return _zlib_pieces(body, 16 + zlib.MAX_WBITS, members=True)


def _deflate(body: bytes) -> Iterator[bytes]:
    """HTTP's "deflate" is the zlib format; some senders leave out its header."""
    has_header = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _zlib_pieces(body, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS, members=False)


def _zstd(body: bytes) -> Iterator[bytes]:
    rest = body
    while True:
        codec = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
        while True:
            try:
                piece = codec.decompress(rest, STEP_BYTES)
            except zstd.ZstdError:
                raise MalformedBody("corrupt compressed data") from None
            if piece:
                yield piece
            if codec.eof:
                rest = codec.unused_data
                break
            rest = b""
            if not piece and codec.needs_input:
                raise MalformedBody("compressed data ends too early")
        if not rest:
            return


_INFLATERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
}
