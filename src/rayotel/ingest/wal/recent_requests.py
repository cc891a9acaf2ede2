"""Requests that were acknowledged lately, so that one sent again is stored once.

A request is known by its stream and the BLAKE2b digest (128 bits) of its body as sent. The memory
of it outlives a restart: while a request is in the WAL, the WAL itself remembers it; before a
segment is released, the digests of its requests are appended to a file here and made durable. So a
request pays for a digest and nothing else.

**Files** `<data_dir>/wal/seen/<start>.seen`: `start` is the second since 1970 at which the file was
begun. Records of 36 bytes, little-endian: 16 bytes digest, 8 bytes number of the segment that
holds the request, 8 bytes seconds since 1970, 4 bytes CRC-32 of these. A record that does not check
is passed over. A file is removed when its youngest record is older than the window.

About 120 bytes of memory a request; the oldest are forgotten early where there are more than the
bound.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rayotel.durable import sync_directory

DIGEST_BYTES = 16
GENERATIONS = 6
_RECORD = struct.Struct("<16sQQ")
_CRC = struct.Struct("<I")
_RECORD_BYTES = _RECORD.size + _CRC.size


def digest_of(stream: str, body: bytes) -> bytes:
    """What a request is known by."""
    digest = hashlib.blake2b(stream.encode() + b"\0", digest_size=DIGEST_BYTES)
    digest.update(body)
    return digest.digest()


@dataclass(slots=True)
class _Generation:
    """Requests of a sixth of the window."""

    start_unix: int
    digests: set[bytes] = field(default_factory=set)


class SeenRequests:
    """The memory of one data directory. Safe for several threads. `load` before use."""

    def __init__(self, directory: Path, *, window_seconds: int, max_requests: int) -> None:
        self._directory = directory
        self._window_seconds = window_seconds
        self._generation_seconds = max(1, window_seconds // GENERATIONS)
        self._generation_requests = max(1, max_requests // (GENERATIONS + 1))
        self._generations: list[_Generation] = []
        self._lock = threading.Lock()

    def load(self, now_unix: int) -> dict[bytes, int]:
        """Read the files; returns which segment holds each request that is remembered."""
        self._directory.mkdir(exist_ok=True)
        owners: dict[bytes, int] = {}
        for path in sorted(self._directory.glob("*.seen")):
            for digest, segment, at_unix in _records(path.read_bytes()):
                if now_unix - at_unix <= self._window_seconds:
                    owners[digest] = segment
                    self.add(digest, at_unix)
        return owners

    def __contains__(self, digest: bytes) -> bool:
        with self._lock:
            return any(digest in one.digests for one in self._generations)

    def add(self, digest: bytes, now_unix: int) -> None:
        """Remember an acknowledged request."""
        with self._lock:
            newest = self._generations[-1] if self._generations else None
            if (
                newest is None
                or now_unix - newest.start_unix >= self._generation_seconds
                or len(newest.digests) >= self._generation_requests
            ):
                newest = _Generation(now_unix)
                self._generations.append(newest)
                self._forget(now_unix)
            newest.digests.add(digest)

    def _forget(self, now_unix: int) -> None:
        oldest = now_unix - self._window_seconds - self._generation_seconds
        kept = [one for one in self._generations if one.start_unix >= oldest]
        self._generations = kept[-(GENERATIONS + 1) :]

    def persist(self, digests: Iterable[bytes], segment: int, now_unix: int) -> None:
        """Make durable that a segment held these requests. Raises OSError."""
        content = b"".join(_record(digest, segment, now_unix) for digest in digests)
        if not content:
            return
        path = self._file(now_unix)
        is_new = not path.exists()
        with path.open("ab") as file:
            # a crash may have left part of a record: go on at a whole one
            file.write(b"\0" * (-file.tell() % _RECORD_BYTES) + content)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_directory(self._directory)
            self._remove_old(now_unix)

    def _file(self, now_unix: int) -> Path:
        start = now_unix - now_unix % self._generation_seconds
        return self._directory / f"{start:012d}.seen"

    def _remove_old(self, now_unix: int) -> None:
        for path in self._directory.glob("*.seen"):
            if path.stem.isdigit():
                youngest = int(path.stem) + self._generation_seconds
                if now_unix - youngest > self._window_seconds:
                    path.unlink(missing_ok=True)


def _record(digest: bytes, segment: int, at_unix: int) -> bytes:
    content = _RECORD.pack(digest, segment, at_unix)
    return content + _CRC.pack(zlib.crc32(content))


def _records(content: bytes) -> Iterable[tuple[bytes, int, int]]:
    for start in range(0, len(content) - _RECORD_BYTES + 1, _RECORD_BYTES):
        (crc,) = _CRC.unpack_from(content, start + _RECORD.size)
        if crc == zlib.crc32(content[start : start + _RECORD.size]):
            digest, segment, at_unix = _RECORD.unpack_from(content, start)
            yield digest, segment, at_unix
