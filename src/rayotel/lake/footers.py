"""Footers of parts: rows, event times and columns, from the last bytes of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayotel.lake import schema
from rayotel.lake.parts import SOURCE_MARK, overflow_rows_in, signal_in
from rayotel.model import TimeRange


@dataclass(frozen=True, slots=True)
class Footer:
    """Facts from the end of a part. Times are event times; None if its statistics lack them.

    `signal`: the name of the part's signal. `source`: a digest of what it was made from; empty
    where the part does not say it. `overflow_rows`: its rows with labels beyond the bound on label
    columns.
    """

    signal: str
    rows: int
    first_unix_nano: int | None
    last_unix_nano: int | None
    schema: pa.Schema
    source: str = ""
    overflow_rows: int = 0

    def touches(self, range_: TimeRange) -> bool:
        """Whether the part can have rows of a range."""
        if self.first_unix_nano is None or self.last_unix_nano is None:
            return self.rows > 0
        starts_in_time = range_.end is None or self.first_unix_nano < range_.end
        # questions compare in whole microseconds
        return starts_in_time and (
            range_.start is None or self.last_unix_nano >= range_.start - 1000
        )

    def is_within(self, range_: TimeRange) -> bool:
        """Whether all of its rows are in a range."""
        if range_.start is None and range_.end is None:
            return True
        if self.first_unix_nano is None or self.last_unix_nano is None:
            return self.rows == 0
        starts_in_time = range_.start is None or self.first_unix_nano >= range_.start
        return starts_in_time and (range_.end is None or self.last_unix_nano < range_.end)


def footer_bytes(end: bytes) -> int:
    """Size of the footer at the end of a file, read from the file's last eight bytes."""
    if end[-4:] != b"PAR1":
        raise ValueError("it does not end as Parquet does")
    return int.from_bytes(end[-8:-4], "little") + 8


def read_footer(end: bytes) -> Footer:
    """The footer from the last bytes of a part. Raises ValueError if it is no Parquet."""
    import pyarrow.parquet as pq  # takes long to import, and most footers are known already

    try:
        metadata = pq.read_metadata(pa.BufferReader(end))
        columns = metadata.schema.to_arrow_schema()
        first, last = _event_times(metadata, columns)
        marks = metadata.metadata or {}
        named = signal_in(marks, columns.names)
        source = marks.get(SOURCE_MARK, b"").decode("ascii", "replace")
        overflow_rows = overflow_rows_in(marks)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    plain = columns.remove_metadata()
    return Footer(named.name, metadata.num_rows, first, last, plain, source, overflow_rows)


def _event_times(metadata: Any, columns: pa.Schema) -> tuple[int | None, int | None]:
    """The first and last event time by the statistics; None where a row group has none."""
    place = metadata.schema.names.index("time_unix_nano")
    groups = range(metadata.num_row_groups)
    statistics = [metadata.row_group(group).column(place).statistics for group in groups]
    if not statistics or any(group is None or not group.has_min_max for group in statistics):
        return None, None
    kind = columns.field("time_unix_nano").type
    unit = 1 if kind.unit == "ns" else schema.NANOSECONDS  # parts of 0.1.0 have nanoseconds
    first = min(group.min_raw for group in statistics)
    last = max(group.max_raw for group in statistics)
    return first * unit, last * unit
