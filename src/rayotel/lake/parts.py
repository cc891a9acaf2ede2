"""Parquet parts: rows become a file, whose footer names its stream, signal and source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rayotel import __version__
from rayotel.lake import schema
from rayotel.lake.recipe import ROW_GROUP_ROWS, Recipe
from rayotel.lake.signal import BY_NAME, Signal, of_columns

# estimated memory of the columns of a piece, which becomes a row group
PIECE_BYTES = 16 << 20
STREAM_MARK, SIGNAL_MARK, SOURCE_MARK = b"rayotel.stream", b"rayotel.signal", b"rayotel.source"
OVERFLOW_MARK = b"rayotel.overflow_rows"


@dataclass(slots=True)
class Marks:
    """What the footer of a part says beside its columns; it is read when the part is complete.

    `source`: a digest of what the part is made from, empty if unknown. `overflow_rows`: how many
    rows have a label without a column because the bound on label columns was reached.
    """

    source: str = ""
    overflow_rows: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class HourRows:
    """The rows of one hour of a stream, which make one part.

    `hour` counts from 1970. `schema` is that of every piece: the fixed columns, then labels.
    `pieces` come in sorted order, each of at most about PIECE_BYTES, and can be read once. `held`:
    the columns that are not null throughout. `overflow_rows`: how many rows have a label without a
    column because the bound on label columns was reached.
    """

    hour: int
    rows: int
    schema: pa.Schema
    pieces: Iterator[pa.Table]
    held: frozenset[str]
    overflow_rows: int = 0

    @classmethod
    def of(cls, hour: int, table: pa.Table, overflow_rows: int = 0) -> HourRows:
        """The rows of an hour that are one piece."""
        columns = zip(table.column_names, table.columns, strict=True)
        held = frozenset(name for name, column in columns if column.null_count < len(column))
        return cls(hour, len(table), table.schema, iter([table]), held, overflow_rows)


def to_parquet(hour: HourRows, stream: str, signal: Signal, source: str) -> memoryview:
    """The bytes of a part with the rows of an hour, which are used up.

    `source`: a digest of what the part is made from, empty if unknown.
    """
    sink = pa.BufferOutputStream()
    recipe = signal.fresh.holding(hour.held)
    marks = Marks(source, hour.overflow_rows)
    with part_writer(sink, hour.schema, stream, signal, recipe, marks) as writer:
        for piece in hour.pieces:
            writer.write_table(piece, row_group_size=ROW_GROUP_ROWS)
            if piece.nbytes > PIECE_BYTES // 2:
                # what the next piece takes need not come on top
                pa.default_memory_pool().release_unused()
    return memoryview(sink.getvalue())


@contextlib.contextmanager
def part_writer(
    where: Path | pa.NativeFile,
    columns: pa.Schema,
    stream: str,
    signal: Signal,
    recipe: Recipe,
    marks: Marks,
) -> Iterator[pq.ParquetWriter]:
    """A writer of a part, to a file or a buffer, with the encodings and marks of all parts."""
    judged = [field.name for field in columns if recipe.has_statistics(field)]
    packed = dict.fromkeys(recipe.differences, "DELTA_BINARY_PACKED")
    with pq.ParquetWriter(
        where,
        schema.with_ids(columns, signal.places),
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
                SOURCE_MARK: marks.source,
                OVERFLOW_MARK: str(marks.overflow_rows),
            }
        )


def signal_in(marks: Mapping[bytes, bytes] | None, columns: Iterable[str]) -> Signal:
    """The signal of a part, by its footer's marks or else by its columns."""
    named = (marks or {}).get(SIGNAL_MARK, b"").decode("ascii", "replace")
    return BY_NAME.get(named) or of_columns(columns)


def overflow_rows_in(marks: Mapping[bytes, bytes] | None) -> int:
    """How many rows the footer's marks say to have labels beyond the bound; 0 if they do not."""
    text = (marks or {}).get(OVERFLOW_MARK, b"0")
    return int(text) if text.isdigit() else 0


def overflow_rows_of(inputs: Iterable[Path]) -> int:
    """How many rows these parts have with labels beyond the bound."""
    return sum(overflow_rows_in(pq.read_metadata(path).metadata) for path in inputs)
