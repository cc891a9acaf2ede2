"""Parquet parts: how a table of rows becomes the bytes of a file.

Text columns are dictionary-encoded; times are too, for a scrape has one time for all its points;
values are plain doubles split by byte, which zstd then compresses best. Arrow's own schema is left
out of the file: every reader sees plain Parquet types.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rayotel import __version__

ROW_GROUP_ROWS = 131_072
ZSTD_LEVEL = 3
_SPLIT_BY_BYTE = ("data_point_value", "data_point_sum", "data_point_min", "data_point_max")


def to_parquet(table: pa.Table, stream: str) -> memoryview:
    """The bytes of a part. `table` has the columns of `schema.METRIC_COLUMNS`, then labels."""
    sink = pa.BufferOutputStream()
    # statistics of texts cost a third of all writing, and a fresh part is small and soon merged
    judged = [
        field.name
        for field in table.schema
        if field.name == "metric_name" or not pa.types.is_dictionary(field.type)
    ]
    with part_writer(sink, table.schema, stream, statistics=judged) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return memoryview(sink.getvalue())


@contextlib.contextmanager
def part_writer(
    where: Path | pa.NativeFile,
    columns: pa.Schema,
    stream: str,
    *,
    statistics: bool | list[str] = True,
) -> Iterator[pq.ParquetWriter]:
    """A writer of a part, to a file or a buffer, with the encodings and marks of all parts.

    `statistics`: of all columns, or of those named.
    """
    dictionary = [name for name in columns.names if name not in _SPLIT_BY_BYTE]
    with pq.ParquetWriter(
        where,
        columns,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=dictionary,
        use_byte_stream_split=list(_SPLIT_BY_BYTE),
        write_statistics=statistics,
        store_schema=False,
        version="2.6",
        write_page_checksum=True,
        data_page_version="1.0",
    ) as writer:
        yield writer
        writer.add_key_value_metadata({"rayotel.version": __version__, "rayotel.stream": stream})
