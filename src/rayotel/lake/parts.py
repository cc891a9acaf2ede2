"""Parquet parts: how a table of rows becomes the bytes of a file.

In all parts, text is dictionary-encoded and doubles are split by byte. An empty column gets no
dictionary. Arrow's own schema is left out of the file, so every reader gets plain Parquet types.

A committed part is small and soon merged, so it is written for speed with snappy. Setting up zstd
for each of 90 columns costs more than it saves, both in writing and in merging.

A merged part is written for size, as measured by `benchmarks/storage.py` on values that vary:

- zstd 9. Higher levels save a few percent of the bytes for twice the time.
- One page per column and row group. zstd finds the times of a series again in the next series of
  its target, and the worker ids of a metric in the next metric, but never across pages.
- Times are plain. A dictionary of times would be written once per row group, and be most of it.
- Counts of histograms have no dictionary, because values hardly ever repeat. Totals are packed as
  differences, counts of buckets are plain. (Split by byte the latter would be smaller, but DuckDB
  1.5 reads that encoding of floating point only.)
- 262,144 rows a row group. Against 131,072 this halves the bytes that are written once per row
  group (footer, dictionaries, distinct times). One metric of an hour is still a small part of it.
- Statistics of the metric's name and of every column except text. Rows are sorted by metric first,
  so statistics of labels would prune next to nothing, and cost a quarter of the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rayotel import __version__
from rayotel.lake import schema

ROW_GROUP_ROWS = 262_144
_DOUBLES = ("data_point_value", "data_point_sum", "data_point_min", "data_point_max")
_COUNT = "data_point_count"
# columns of events whose texts are long and all different
_LONG = ("event_id", "event", "problem")
_TIMES = ("time_unix_nano", "p_timestamp")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How columns become bytes. `differences`: integers packed so. `split`: doubles, by byte.

    `held`: the columns that are not all null; None: unknown.
    """

    compression: str
    level: int | None
    plain: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    split: tuple[str, ...] = _DOUBLES
    page_bytes: int | None = None
    page_rows: int | None = None
    held: frozenset[str] | None = None

    def holding(self, columns: Iterable[str]) -> Recipe:
        """The same for a part whose columns that are not all null are known."""
        return replace(self, held=frozenset(columns))

    def has_dictionary(self, column: str) -> bool:
        """Whether a column is dictionary-encoded."""
        is_held = self.held is None or column in self.held
        return is_held and column not in (*_DOUBLES, *_LONG, *self.plain, *self.differences)


COMMITTED = Recipe("snappy", None)
MERGED = Recipe("zstd", 9, _TIMES, (_COUNT,), page_bytes=1 << 26, page_rows=1 << 26)

# events are read by type and time, and their JSON repeats itself from one row to the next
MERGED_EVENTS = Recipe(
    "zstd", 9, ("p_timestamp",), ("time_unix_nano",), page_bytes=4 << 20, page_rows=1 << 20
)


def to_parquet(table: pa.Table, stream: str) -> memoryview:
    """The bytes of a part. `table` has the fixed columns of its signal, then labels."""
    sink = pa.BufferOutputStream()
    held = [
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if column.null_count < len(column)
    ]
    with part_writer(sink, table.schema, stream, COMMITTED.holding(held)) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return memoryview(sink.getvalue())


@contextlib.contextmanager
def part_writer(
    where: Path | pa.NativeFile, columns: pa.Schema, stream: str, recipe: Recipe
) -> Iterator[pq.ParquetWriter]:
    """A writer of a part, to a file or a buffer, with the encodings and marks of all parts."""
    signal = schema.signal_of(columns.names)
    judged = [
        field.name
        for field in columns
        if field.name in ("metric_name", "event_type")
        or not (pa.types.is_dictionary(field.type) or field.name in _LONG)
    ]
    packed = dict.fromkeys(recipe.differences, "DELTA_BINARY_PACKED")
    with pq.ParquetWriter(
        where,
        columns,
        compression=recipe.compression,
        compression_level=recipe.level,
        use_dictionary=[name for name in columns.names if recipe.has_dictionary(name)],
        use_byte_stream_split=[name for name in recipe.split if name in columns.names],
        column_encoding=packed or None,
        write_statistics=judged,
        data_page_size=recipe.page_bytes,
        max_rows_per_page=recipe.page_rows,
        store_schema=False,
        version="2.6",
        write_page_checksum=True,
        data_page_version="1.0",
    ) as writer:
        yield writer
        writer.add_key_value_metadata(
            {
                "rayotel.version": __version__,
                "rayotel.stream": stream,
                "rayotel.signal": signal,
            }
        )
