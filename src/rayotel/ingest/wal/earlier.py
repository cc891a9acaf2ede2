"""Segments that a start finds in the WAL, of earlier runs, perhaps of another machine.

A segment whose seal holds is committed under its own epoch. Any other one gets the epoch of this
start when it is sealed (see `segments`).

A request can stand in two segments where the disk failed under the first: it was not acknowledged,
and was sent again. Such a request is among the last of a segment that is not sealed; the later one
stores it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from rayotel.ingest.wal import segments
from rayotel.ingest.wal.recent_requests import DIGEST_BYTES, digest_of
from rayotel.ingest.wal.segments import Damage
from rayotel.ingest.wal.waiting import Segment, known_skipped
from rayotel.lake.layout import OLD_EPOCH
from rayotel.logs import log_event
from rayotel.model import Record

MAX_SUSPECTS = 512  # of a segment: as many as are written together

logger = logging.getLogger(__name__)


def segments_of(directory: Path, epoch: str, remember: Callable[[bytes], object]) -> list[Segment]:
    """All segments in a WAL's directory, in order. Raises OSError, WalError.

    `remember` is called with the digest of every request in them.
    """
    found: list[Segment] = []
    suspects: dict[bytes, tuple[Segment, int]] = {}
    damaged_bytes = 0
    for number in segments.segment_numbers(directory):
        path = segments.segment_path(directory, number)
        status = path.stat()
        segment = Segment(number, epoch, path, status.st_size, status.st_mtime)
        segment.skipped = known_skipped(path)
        content = segments.read(path)
        for item in segments.read_segment(content, number):
            if isinstance(item, Damage):
                damaged_bytes += len(item.content)
                continue
            digest = digest_of(item)
            if digest in suspects:
                earlier, position = suspects.pop(digest)
                earlier.skipped.add(position)
            segment.note(digest, item.arrival.received_unix_nano)
            remember(digest)
        _judge(segment, content)
        if segment.fresh_from_hour is None:
            suspects |= _suspects(segment)
        segment.digests = None
        found.append(segment)
    _tell(found, damaged_bytes)
    return found


def _judge(segment: Segment, content: bytes) -> None:
    """Take over what the segment's seal says, where it holds."""
    header = segments.header_of(content)
    if segments.is_old(content, segment.number):
        segment.epoch, segment.fresh_from_hour = OLD_EPOCH, 0
    elif (
        header is not None
        and header.number == segment.number
        and 0 < header.size_bytes <= len(content)
        and header.records == segment.records
    ):
        segment.epoch, segment.fresh_from_hour = header.epoch, header.fresh_from_hour
        segment.size_bytes, segment.earlier_epoch = header.size_bytes, header.earlier_epoch
    elif header is not None and header.number == segment.number:
        segment.earlier_epoch = header.earlier_epoch or header.epoch


def _suspects(segment: Segment) -> dict[bytes, tuple[Segment, int]]:
    """The last requests of a segment, by digest, with their positions."""
    digests = bytes(segment.digests or b"")
    first = max(0, segment.records - MAX_SUSPECTS)
    return {
        digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]: (segment, position)
        for position in range(first, segment.records)
    }


def digests_of(segment: Segment) -> bytearray:
    """The digests of a segment's requests, from its file. Raises WalError."""
    digests = bytearray()
    for item in segments.read_segment(segments.read(segment.path), segment.number):
        if isinstance(item, Record):
            digests += digest_of(item)
    return digests


def _tell(found: list[Segment], damaged_bytes: int) -> None:
    records = sum(segment.records for segment in found)
    if records or damaged_bytes:
        log_event(
            logger,
            logging.INFO,
            "the WAL holds requests of an earlier run: they are committed first",
            segments=len(found),
            bytes=sum(segment.size_bytes for segment in found),
            records=records,
            damaged_bytes=damaged_bytes,
        )
