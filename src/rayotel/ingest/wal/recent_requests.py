"""Digests of recently acknowledged requests: a request that is sent again is stored once.

A request is known by the BLAKE2b digest (128 bits) of its signal, stream, `X-P-*` headers and body
as sent: the same body with other headers gives other rows. The memory of it outlives a restart:
while a request is in the WAL, the WAL itself remembers it; before a segment is released, the
digests of its requests are appended to a file here and made durable. So a request pays for a digest
and nothing else.

**Files** `<data_dir>/wal/requests/<start>.ids` (see `id_files`): `start` is the second since 1970
at which the file was begun. A file is removed when its youngest block is older than the window.

A request takes about 120 bytes of memory. Beyond the bound the oldest requests are forgotten early.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rayotel.ingest.wal import id_files
from rayotel.ingest.wal.id_files import Block
from rayotel.model import Record

DIGEST_BYTES = 16
GENERATIONS = 6
MAX_SENDERS_REMEMBERED = 1000


def digest_of(record: Record) -> bytes:
    """What a request is known by."""
    arrival = record.arrival
    digest = _begun(
        arrival.signal, arrival.stream, arrival.header_columns, arrival.recovered_as
    ).copy()
    digest.update(record.body)
    return digest.digest()


@functools.lru_cache(MAX_SENDERS_REMEMBERED)
def _begun(*about: object) -> hashlib.blake2b:
    """The digest of all that comes before a body: senders are few."""
    return hashlib.blake2b(repr(about).encode() + b"\0", digest_size=DIGEST_BYTES)


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

    def load(self, now_unix: int) -> None:
        """Read the files. Raises OSError."""
        self._directory.mkdir(exist_ok=True)
        for path in sorted(self._directory.glob("*.ids")):
            for block in id_files.blocks_of(path):
                if now_unix - block.at_unix <= self._window_seconds:
                    for digest in block.ids:
                        self.add(digest, block.at_unix)

    def __contains__(self, digest: bytes) -> bool:
        with self._lock:
            return any(digest in generation.digests for generation in self._generations)

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
        kept = [generation for generation in self._generations if generation.start_unix >= oldest]
        self._generations = kept[-(GENERATIONS + 1) :]

    def persist(self, digests: Iterable[bytes], segment: int, now_unix: int) -> None:
        """Make durable that a segment held these requests. Raises OSError."""
        block = Block(segment, now_unix, "", tuple(digests))
        if not block.ids:
            return
        path = self._file(now_unix)
        is_new = not path.exists()
        id_files.append(path, [block])
        if is_new:
            self._remove_old(now_unix)

    def _file(self, now_unix: int) -> Path:
        start = now_unix - now_unix % self._generation_seconds
        return self._directory / f"{start:012d}.ids"

    def _remove_old(self, now_unix: int) -> None:
        for path in self._directory.glob("*.ids"):
            if path.stem.isdigit():
                youngest = int(path.stem) + self._generation_seconds
                if now_unix - youngest > self._window_seconds:
                    path.unlink(missing_ok=True)
