"""Parquet parts: how a table of rows becomes the bytes of a file, and what a footer tells.

Text columns are dictionary-encoded; times are too, for a scrape has one time for all its points;
values are plain doubles split by byte, which zstd then compresses best. Arrow's own schema is left
out of the file: every reader sees plain Parquet types.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rayotel import __version__
from rayotel.model import TimeRange

ROW_GROUP_ROWS = 131_072
_SPLIT_BY_BYTE = ("data_point_value", "data_point_sum", "data_point_min", "data_point_max")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How columns become bytes. `held`: the columns that hold anything; None: not known."""

    compression: str = "snappy"
    level: int | None = None
    held: frozenset[str] | None = None

    def holding(self, columns: Iterable[str]) -> Recipe:
        """The same for a part of which it is known which columns hold anything."""
        return replace(self, held=frozenset(columns))


COMMITTED = Recipe()
MERGED = Recipe("zstd", 3)


def to_parquet(table: pa.Table, stream: str) -> memoryview:
    """The bytes of a part. `table` has the columns of `schema.METRIC_COLUMNS`, then labels."""
    sink = pa.BufferOutputStream()
    with part_writer(sink, table.schema, stream) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return memoryview(sink.getvalue())


@contextlib.contextmanager
def part_writer(
    where: Path | pa.NativeFile, columns: pa.Schema, stream: str, recipe: Recipe = COMMITTED
) -> Iterator[pq.ParquetWriter]:
    """A writer of a part, to a file or a buffer, with the encodings and marks of all parts."""
    dictionary = [
        name
        for name in columns.names
        if name not in _SPLIT_BY_BYTE and (recipe.held is None or name in recipe.held)
    ]
    with pq.ParquetWriter(
        where,
        columns,
        compression=recipe.compression,
        compression_level=recipe.level,
        use_dictionary=dictionary,
        use_byte_stream_split=list(_SPLIT_BY_BYTE),
        store_schema=False,
        version="2.6",
        write_page_checksum=True,
        data_page_version="1.0",
    ) as writer:
        yield writer
        writer.add_key_value_metadata({"rayotel.version": __version__, "rayotel.stream": stream})


@dataclass(frozen=True, slots=True)
class Footer:
    """What the end of a part tells of the whole. Times are event times, None where not told."""

    rows: int
    first_unix_nano: int | None
    last_unix_nano: int | None
    schema: pa.Schema

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
    """How many bytes at the end of a file are its footer, as its last eight bytes say."""
    if end[-4:] != b"PAR1":
        raise ValueError("it does not end as Parquet does")
    return int.from_bytes(end[-8:-4], "little") + 8


def read_footer(end: bytes) -> Footer:
    """The footer from the last bytes of a part. Raises ValueError for what is no Parquet."""
    try:
        metadata = pq.read_metadata(pa.BufferReader(end))
        schema = metadata.schema.to_arrow_schema()
        first, last = _event_times(metadata)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    return Footer(metadata.num_rows, first, last, schema.remove_metadata())


def _event_times(metadata: pq.FileMetaData) -> tuple[int | None, int | None]:
    """The first and last event time by the statistics; None where a row group has none."""
    place = metadata.schema.names.index("time_unix_nano")
    groups = range(metadata.num_row_groups)
    found = [metadata.row_group(group).column(place).statistics for group in groups]
    if not found or any(one is None or not one.has_min_max for one in found):
        return None, None
    return min(one.min_raw for one in found), max(one.max_raw for one in found)
