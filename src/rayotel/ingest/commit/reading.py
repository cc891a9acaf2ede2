"""The records of a segment and their batches: from memory, or else from the WAL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from rayotel.ingest.wal import aside, segments
from rayotel.ingest.wal.segments import Damage
from rayotel.ingest.wal.waiting import Segment
from rayotel.logs import log_event
from rayotel.model import Batch, Record
from rayotel.telemetry import Telemetry

logger = logging.getLogger(__name__)
Decode = Callable[[Record], Batch]


class Reader:
    """Reads the segments of one WAL."""

    def __init__(self, directory: Path, decode: Decode, telemetry: Telemetry) -> None:
        self._directory = directory
        self._telemetry = telemetry
        self.decode = decode

    def batches(self, segment: Segment) -> list[Batch]:
        """The batches of all records that are not skipped, in order.

        Raises WalError, and whatever decoding raises: each record was decoded before.
        """
        if segment.batches is not None and None not in segment.batches:
            both = enumerate(segment.batches)
            return [batch for n, batch in both if batch is not None and n not in segment.skipped]
        return [self.decode(record) for _, record in self.records(segment)]

    def records(self, segment: Segment) -> Iterator[tuple[int, Record]]:
        """All records of a segment that are not skipped, with their positions. Raises WalError.

        Bytes in which no record can be read are moved aside.
        """
        position = -1
        for item in segments.read_segment(segments.read(segment.path), segment.number):
            if isinstance(item, Damage):
                self._move_aside(segment, item)
                continue
            position += 1
            if position not in segment.skipped:
                yield position, item

    def _move_aside(self, segment: Segment, damage: Damage) -> None:
        if damage.offset in segment.told_offsets:  # it was kept then
            return
        where = aside.keep_damage(self._directory, segment.number, damage)
        segment.told_offsets.add(damage.offset)
        place = "tail" if damage.tail else "middle"
        self._telemetry.damaged_bytes.labels(place).inc(len(damage.content))
        log_event(
            logger,
            logging.WARNING if damage.tail else logging.ERROR,
            "the WAL ends with an unfinished record, which is moved aside"
            if damage.tail
            else "a WAL segment is damaged: what cannot be read is moved aside",
            segment=segment.number,
            offset=damage.offset,
            bytes=len(damage.content),
            moved_to=str(where),
        )
