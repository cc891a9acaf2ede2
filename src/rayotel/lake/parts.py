"""Parquet parts: a table of rows becomes a file, whose footer names its stream and signal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rayotel import __version__
from rayotel.lake.recipe import ROW_GROUP_ROWS, Recipe
from rayotel.lake.signal import BY_NAME, Signal, of_columns

STREAM_MARK, SIGNAL_MARK = b"rayotel.stream", b"rayotel.signal"


def to_parquet(table: pa.Table, stream: str, signal: Signal) -> memoryview:
    """The bytes of a part. `table` has the fixed columns of its signal, then labels."""
    sink = pa.BufferOutputStream()
    held = [
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if column.null_count < len(column)
    ]
    recipe = signal.fresh.holding(held)
    with part_writer(sink, table.schema, stream, signal, recipe) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return memoryview(sink.getvalue())


@contextlib.contextmanager
def part_writer(
    where: Path | pa.NativeFile, columns: pa.Schema, stream: str, signal: Signal, recipe: Recipe
) -> Iterator[pq.ParquetWriter]:
    """A writer of a part, to a file or a buffer, with the encodings and marks of all parts."""
    judged = [field.name for field in columns if recipe.has_statistics(field)]
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
                STREAM_MARK: stream,
                SIGNAL_MARK: signal.name,
            }
        )


def signal_in(marks: Mapping[bytes, bytes] | None, columns: Iterable[str]) -> Signal:
    """The signal of a part, by its footer's marks or else by its columns."""
    named = (marks or {}).get(SIGNAL_MARK, b"").decode("ascii", "replace")
    return BY_NAME.get(named) or of_columns(columns)
