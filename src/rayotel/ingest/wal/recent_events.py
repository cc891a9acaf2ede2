"""Which events were stored lately, so that one sent again in another request is stored once.

Ray repeats what was not answered in time, and cuts its batches anew, so a digest of the request
does not always find it. The committer leaves out events whose id an earlier segment had. It must
decide the same when it commits a segment again after a crash, so what it remembers before segment N
is always the same: the ids that it stored of earlier segments, from the newest back, as many whole
blocks as fit. Ids are compared whole.

**Files** `<data_dir>/wal/events/<segment>.ids`, named after the first segment in them. A block for
each segment and stream, made durable before the segment is released, integers little-endian:

    4 bytes b"RYE1"   8 bytes segment   2 bytes length of the stream's name   4 bytes number of ids
    the stream's name, then 28 bytes for each id, then 4 bytes CRC-32 of all that

A file ends where a block does not check. Every start writes one file of what is remembered and goes
on in another; blocks of segments that are to be committed again are dropped. Files go when those
after them hold twice as much as is remembered: a lost power supply may bring back a segment that
was removed.

An id of another length is remembered by 28 bytes of BLAKE2b. About 150 bytes of memory an event.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayotel.durable import sync_directory
from rayotel.errors import LogError

KEY_BYTES = 28
FILES = 8
_MARK = b"RYE1"
_HEAD = struct.Struct("<4sQHI")
_CRC = struct.Struct("<I")


def key_of(event_id: str) -> bytes:
    """What an event is remembered by; `event_id` is hexadecimal."""
    raw = bytes.fromhex(event_id)
    return raw if len(raw) == KEY_BYTES else hashlib.blake2b(raw, digest_size=KEY_BYTES).digest()


@dataclass(frozen=True, slots=True)
class _Block:
    """What was stored of one segment and stream."""

    segment: int
    stream: str
    keys: tuple[bytes, ...]

    def content(self) -> bytes:
        """Its bytes in a file."""
        name = self.stream.encode()
        head = _HEAD.pack(_MARK, self.segment, len(name), len(self.keys))
        content = head + name + b"".join(self.keys)
        return content + _CRC.pack(zlib.crc32(content))


@dataclass(slots=True)
class _File:
    """A file and how many ids it holds."""

    path: Path
    keys: int


class StoredEvents:
    """The memory of one data directory, for one thread. `open` before use."""

    def __init__(self, directory: Path, *, max_events: int) -> None:
        self._directory = directory
        self._max_events = max_events
        self._blocks: deque[_Block] = deque()
        self._keys: dict[str, set[bytes]] = {}
        self._total = 0
        self._files: list[_File] = []
        self._is_broken = True
        self._persisted = -1

    def open(self, first_segment: int) -> None:
        """Read what was stored before `first_segment`. Raises LogError."""
        try:
            self._directory.mkdir(exist_ok=True)
            found: dict[tuple[int, str], _Block] = {}
            old = sorted(self._directory.glob("*.ids"))
            for path in old:
                for block in _blocks(path.read_bytes()):
                    if block.segment < first_segment:
                        found.setdefault((block.segment, block.stream), block)
            in_order = [block for _, block in sorted(found.items())]
            for block in in_order:
                self._add(block)
            self._rewrite(old, self._newest(in_order))
        except OSError as error:
            raise self._failed(error) from None

    def has(self, stream: str, event_id: str) -> bool:
        """Whether an earlier segment had this event."""
        known = self._keys.get(stream)
        return known is not None and key_of(event_id) in known

    def persist(self, segment: int, stored: Mapping[str, Sequence[str]]) -> None:
        """Make durable which events (ids by stream) a segment stored. Raises LogError."""
        blocks = self._of(segment, stored)
        if not blocks or segment == self._persisted:
            return
        content = b"".join(block.content() for block in blocks)
        keys = sum(len(block.keys) for block in blocks)
        is_new = self._is_broken or self._files[-1].keys >= max(1, self._max_events // FILES)
        try:
            if is_new:
                path = self._directory / f"{segment:012d}.ids"
                self._files = [one for one in self._files if one.path != path]
                self._files.append(_File(path, 0))
            self._is_broken = True
            with self._files[-1].path.open("wb" if is_new else "ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_directory(self._directory)
        except OSError as error:
            raise self._failed(error) from None
        self._is_broken = False
        self._files[-1].keys += keys
        self._persisted = segment
        self._remove_old()

    def add(self, segment: int, stored: Mapping[str, Sequence[str]]) -> None:
        """Remember the events of a segment that was released."""
        for block in self._of(segment, stored):
            self._add(block)

    def _of(self, segment: int, stored: Mapping[str, Sequence[str]]) -> list[_Block]:
        return [
            _Block(segment, stream, tuple(map(key_of, ids[-self._max_events :])))
            for stream, ids in sorted(stored.items())
            if ids
        ]

    def _add(self, block: _Block) -> None:
        self._blocks.append(block)
        self._keys.setdefault(block.stream, set()).update(block.keys)
        self._total += len(block.keys)
        while self._total > self._max_events:
            oldest = self._blocks.popleft()
            self._total -= len(oldest.keys)
            left = self._keys[oldest.stream]
            left.difference_update(oldest.keys)
            if not left:
                del self._keys[oldest.stream]

    def _newest(self, blocks: list[_Block]) -> list[_Block]:
        """The last blocks that files are kept for."""
        total = 0
        for position in range(len(blocks) - 1, -1, -1):
            total += len(blocks[position].keys)
            if total > 2 * self._max_events:
                return blocks[position + 1 :]
        return blocks

    def _rewrite(self, old: list[Path], blocks: list[_Block]) -> None:
        """One file instead of all."""
        kept: list[Path] = []
        if blocks:
            path = self._directory / f"{blocks[0].segment:012d}.ids"
            temporary = path.with_suffix(".new")
            with temporary.open("wb") as file:
                for block in blocks:
                    file.write(block.content())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_directory(self._directory)
            self._files = [_File(path, sum(len(block.keys) for block in blocks))]
            kept = [path]
        for path in old:
            if path not in kept:
                path.unlink(missing_ok=True)

    def _remove_old(self) -> None:
        after = 0
        for position in range(len(self._files) - 1, -1, -1):
            if after >= 2 * self._max_events:
                for one in self._files[: position + 1]:
                    with contextlib.suppress(OSError):
                        one.path.unlink(missing_ok=True)
                del self._files[: position + 1]
                return
            after += self._files[position].keys

    def _failed(self, error: OSError) -> LogError:
        return LogError(f"cannot keep ids in '{self._directory}': {error.strerror or error}")


def _blocks(content: bytes) -> Iterator[_Block]:
    """The whole blocks at the start of a file."""
    start = 0
    while start + _HEAD.size <= len(content):
        mark, segment, name_bytes, count = _HEAD.unpack_from(content, start)
        first = start + _HEAD.size + name_bytes
        end = first + count * KEY_BYTES
        if mark != _MARK or end + _CRC.size > len(content):
            return
        if _CRC.unpack_from(content, end)[0] != zlib.crc32(content[start:end]):
            return
        name = content[start + _HEAD.size : first].decode("ascii", "replace")
        keys = (content[at : at + KEY_BYTES] for at in range(first, end, KEY_BYTES))
        yield _Block(segment, name, tuple(keys))
        start = end + _CRC.size
