"""A segment that waits to be committed: what is on disk, and what memory holds of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from rayotel.ingest.wal import json_files
from rayotel.model import Batch

SOURCE_BYTES = 16


def _fingerprint() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=SOURCE_BYTES)


@dataclass(slots=True, eq=False)
class Segment:
    """A segment on disk, and its batches and digests in memory.

    `batches` has one entry per record, None where the record must be decoded again; `batches` is
    None for a segment from before the start. `digests`: of its requests, one after another; None:
    they are computed again from the file. `skipped`: positions of records that are not committed.
    `columns_bytes`: the size of all its batches; `waiting_bytes`: the size of those in memory.
    `fresh_from_hour`: see `segments.Header`; None until it is sealed durably. `told_offsets`: of
    damage that was reported. `earlier_epoch`: see `segments.Header`.
    """

    number: int
    epoch: str
    path: Path
    size_bytes: int
    oldest_unix: float
    batches: list[Batch | None] | None = None
    records: int = 0
    columns_bytes: int = 0
    waiting_bytes: int = 0
    digests: bytearray | None = field(default_factory=bytearray)
    skipped: set[int] = field(default_factory=set)
    fresh_from_hour: int | None = None
    earlier_epoch: str = ""
    told_offsets: set[int] = field(default_factory=set)
    fingerprint: hashlib.blake2b = field(default_factory=_fingerprint)

    def note(self, digest: bytes, received_unix_nano: int) -> None:
        """One more record."""
        self.records += 1
        if self.digests is not None:
            self.digests += digest
        self.fingerprint.update(digest)
        self.fingerprint.update(received_unix_nano.to_bytes(8, "little", signed=True))


def source_of(some: list[Segment]) -> str:
    """What parts made from these segments name as their source: a digest of all their records."""
    joint = _fingerprint()
    for segment in some:
        joint.update(segment.fingerprint.digest())
    return joint.hexdigest()


def skipped_path(path: Path) -> Path:
    """The file beside a segment that lists its skipped records."""
    return path.with_suffix(".skipped")


def keep_skipped(segment: Segment) -> None:
    """Make durable which records of a segment are not committed. Raises WalError."""
    json_files.keep(skipped_path(segment.path), sorted(segment.skipped))


def known_skipped(path: Path) -> set[int]:
    """The skipped records of a segment, as kept. Raises WalError where that cannot be read."""
    hint = "restore it, or remove it: the records that it names are then tried again"
    positions = json_files.kept(skipped_path(path), lambda found: set(map(int, found)), hint=hint)
    return positions or set()
