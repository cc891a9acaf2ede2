"""Files of ids: the WAL remembers requests and events by them longer than it keeps segments.

A file is one block after another, integers little-endian:

    4 bytes b"RYI1"     8 bytes number of the segment that held the ids
    8 bytes seconds since 1970 of the block     2 bytes length of the stream's name
    2 bytes length of an id     4 bytes number of ids
    the stream's name, the ids one after another, then 4 bytes CRC-32 of all that

A block is made durable before its segment is released. A reader skips damaged bytes up to the next
mark of a whole block.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rayotel import durable

MARK = b"RYI1"
_HEAD = struct.Struct("<4sQQHHI")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Block:
    """Ids of equal length, from one stream in one segment. `stream` may be empty."""

    segment: int
    at_unix: int
    stream: str
    ids: tuple[bytes, ...]

    def content(self) -> bytes:
        """Its bytes in a file."""
        name, size = self.stream.encode(), len(self.ids[0]) if self.ids else 0
        head = _HEAD.pack(MARK, self.segment, self.at_unix, len(name), size, len(self.ids))
        content = head + name + b"".join(self.ids)
        return content + _CRC.pack(zlib.crc32(content))


def append(path: Path, blocks: Iterable[Block]) -> None:
    """Add blocks to a file and make them durable. Raises OSError."""
    durable.append(path, b"".join(block.content() for block in blocks))


def replace(path: Path, blocks: Iterable[Block]) -> None:
    """Make a file hold these blocks and nothing else. Raises OSError."""
    durable.replace_file(path, b"".join(block.content() for block in blocks))


def blocks_of(path: Path) -> Iterator[Block]:
    """The whole blocks of a file, in order. Raises OSError."""
    content, start = path.read_bytes(), 0
    while (start := content.find(MARK, start)) >= 0:
        block_and_end = _block_at(content, start)
        if block_and_end is None:
            start += 1
            continue
        block, start = block_and_end
        yield block


def _block_at(content: bytes, start: int) -> tuple[Block, int] | None:
    if start + _HEAD.size > len(content):
        return None
    _, segment, at_unix, name_bytes, size, count = _HEAD.unpack_from(content, start)
    first = start + _HEAD.size + name_bytes
    end = first + count * size
    if end + _CRC.size > len(content):
        return None
    if _CRC.unpack_from(content, end)[0] != zlib.crc32(content[start:end]):
        return None
    name = content[start + _HEAD.size : first].decode("ascii", "replace")
    ids = tuple(content[at : at + size] for at in range(first, end, size)) if size else ()
    return Block(segment, at_unix, name, ids), end + _CRC.size
