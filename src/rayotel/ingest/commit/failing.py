"""The records that make a commit fail: found one by one, and set aside whole.

A segment whose commit fails unexpectedly, several times, must not keep all later ones waiting. Each
of its records is decoded and made into parts alone. What fails is moved to `damaged/`, and the
segment's list of skipped records is made durable, both before anything else of it is written. Where
only records together fail, half of them are set aside: `rayotel recover` takes them in again in
other company.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rayotel.errors import StorageError, WalError
from rayotel.ingest.commit.reading import Reader
from rayotel.ingest.commit.writing import Writer
from rayotel.ingest.wal import aside
from rayotel.ingest.wal.waiting import Segment, keep_skipped
from rayotel.logs import log_event
from rayotel.model import Record
from rayotel.telemetry import Telemetry

MAX_LINES = 10  # of a segment, about records that were set aside

logger = logging.getLogger(__name__)
Placed = tuple[int, Record]


class FailingRecords:
    """Finds and sets aside the failing records of one WAL."""

    def __init__(
        self, directory: Path, reader: Reader, writer: Writer, telemetry: Telemetry
    ) -> None:
        self._directory = directory
        self._reader = reader
        self._writer = writer
        self._telemetry = telemetry

    def set_aside(self, segment: Segment, *, all_of_it: bool) -> int:
        """Set aside the records that fail, or all; returns how many.

        Raises StorageError, WalError.
        """
        records = list(self._reader.records(segment))
        failing = records if all_of_it else self._failing(records)
        if not failing:
            return 0
        for number, (position, record) in enumerate(failing):
            where = aside.keep_record(self._directory, segment, position, record)
            if number < MAX_LINES:
                log_event(
                    logger,
                    logging.ERROR,
                    "a record cannot be committed and is set aside",
                    segment=segment.number,
                    position=position,
                    stream=record.arrival.stream,
                    moved_to=str(where),
                    hint="rayotel recover takes it in again, when its cause is mended",
                )
        segment.skipped.update(position for position, _ in failing)
        keep_skipped(segment)
        self._telemetry.records_set_aside.inc(len(failing))
        return len(failing)

    def _failing(self, records: Sequence[Placed]) -> Sequence[Placed]:
        """The records that fail alone; where none does and all do, the second half."""
        if not self._fails(records):
            return []
        if len(records) == 1:
            return records
        middle = len(records) // 2
        found = [*self._failing(records[:middle]), *self._failing(records[middle:])]
        return found or records[middle:]

    def _fails(self, records: Sequence[Placed]) -> bool:
        try:
            self._writer.prove([self._reader.decode(record) for _, record in records])
        except (StorageError, WalError):
            raise  # it says nothing about the records
        except Exception:
            return True
        return False
