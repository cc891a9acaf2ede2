"""Results in formats for people and programs: table, json, ndjson, csv, markdown, parquet.

All formats except the table stream. Moments are ISO 8601 in UTC. Doubles without a JSON number are
the texts "NaN", "Infinity" and "-Infinity". Bytes are base64.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import IO, Any

import pyarrow as pa

MAX_TABLE_ROWS = 10_000
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
Batches = Iterable[pa.RecordBatch]


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.isoformat()
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return f"{value.total_seconds():g} s" if isinstance(value, timedelta) else str(value)


def text(value: Any) -> str:
    """A value as a cell of text; nothing for null."""
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def short(value: Any) -> str:
    """A value for a person's eye: moments without the T, doubles to six digits or whole."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat(sep=" ").replace("+00:00", "Z")
    if isinstance(value, float) and math.isfinite(value):
        if value == int(value) and abs(value) < 1e15:
            return str(int(value))
        return f"{value:.2f}" if 0.1 <= abs(value) < 1e15 else f"{value:.3g}"
    return text(value)


def _number(value: Decimal) -> int | float | str:
    """A decimal as a number where that keeps its digits, else as text."""
    if value == value.to_integral_value():
        return int(value)
    nearest = float(value)
    return nearest if Decimal(repr(nearest)) == value else str(value)


def rows(batches: Batches) -> Iterator[list[Any]]:
    """All rows as lists of Python values."""
    for batch in batches:
        columns = [_values(batch.column(i)) for i in range(batch.num_columns)]
        yield from map(list, zip(*columns, strict=True))


def _values(column: pa.Array) -> list[Any]:
    """Python values; texts for what Python has no type for, also inside lists and structs."""
    kind = column.type
    if pa.types.is_interval(kind):
        return [None if value is None else _interval(value) for value in column.to_pylist()]
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        try:
            return list(column.to_pylist())
        except (ValueError, OverflowError):
            return _moments(column)
    if pa.types.is_list(kind):
        items = iter(_values(column.flatten()))
        lengths = column.value_lengths().to_pylist()
        return [None if n is None else [next(items) for _ in range(n)] for n in lengths]
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        members = [_values(member) for member in column.flatten()]
        rows = zip(*members, strict=True) if members else iter([()] * len(column))
        valid = column.is_valid().to_pylist()
        return [
            dict(zip(names, row, strict=True)) if is_there else None
            for row, is_there in zip(rows, valid, strict=True)
        ]
    return list(column.to_pylist())


def _interval(value: Any) -> str:
    """Months, days and seconds, those that are not zero, with all their digits."""
    seconds = (Decimal(value.nanoseconds) / 10**9).normalize()
    parts = {"months": Decimal(value.months), "days": Decimal(value.days), "seconds": seconds}
    return " ".join(f"{n:f} {unit}" for unit, n in parts.items() if n) or "0 seconds"


def _without_intervals(kind: pa.DataType) -> pa.DataType:
    """The type with text for every interval in it."""
    if pa.types.is_interval(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_intervals(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _without_intervals(field.type)) for field in kind])
    return kind


def _moments(column: pa.Array) -> list[str | None]:
    """Moments beyond Python's calendar or resolution as text; DuckDB's infinity by its name."""
    width = column.type.bit_width
    ends = {2 ** (width - 1) - 1: "infinity", 1 - 2 ** (width - 1): "-infinity"}
    numbers = column.cast(pa.int32() if width == 32 else pa.int64()).to_pylist()
    zone = "Z" if getattr(column.type, "tz", None) else ""
    if zone:
        column = column.cast(pa.timestamp(column.type.unit))
    texts: list[str | None] = []
    for row, number in enumerate(numbers):
        if number is None or number in ends:
            texts.append(ends.get(number))
        else:
            texts.append(str(column.slice(row, 1).cast(pa.string())[0]).replace(" ", "T") + zone)
    return texts


def write_json(schema: pa.Schema, batches: Batches, out: IO[bytes]) -> None:
    """One array of objects, an object a line."""
    separator = b"["
    for row in _objects(schema, batches):
        out.write(separator + b"\n  " + row)
        separator = b","
    out.write(b"[]\n" if separator == b"[" else b"\n]\n")


def write_ndjson(schema: pa.Schema, batches: Batches, out: IO[bytes]) -> None:
    """An object a line."""
    for row in _objects(schema, batches):
        out.write(row + b"\n")


def _objects(schema: pa.Schema, batches: Batches) -> Iterator[bytes]:
    names = unique_names(schema)
    for row in rows(batches):
        members = dict(zip(names, map(plain, row), strict=True))
        yield json.dumps(members, ensure_ascii=False).encode()


def unique_names(schema: pa.Schema) -> list[str]:
    """Column names; a second one of the same name gets `_1`, as two cannot be in one object."""
    taken = set(schema.names)
    seen: set[str] = set()
    names = []
    for name in schema.names:
        wanted, count = name, 0
        while wanted in seen or (count and wanted in taken):
            count += 1
            wanted = f"{name}_{count}"
        seen.add(wanted)
        names.append(wanted)
    return names


def write_csv(schema: pa.Schema, batches: Batches, out: IO[bytes]) -> None:
    """RFC 4180 with a header line."""
    for lines in _csv_lines(schema, batches):
        out.write(lines.encode())


def _csv_lines(schema: pa.Schema, batches: Batches) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(schema.names)
    for row in rows(batches):
        writer.writerow([text(value) for value in row])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def write_markdown(schema: pa.Schema, batches: Batches, out: IO[bytes]) -> None:
    """A table of GitHub's Markdown."""
    lines = [[_cell(name) for name in schema.names], ["---"] * len(schema.names)]
    for line in lines:
        out.write(_markdown_line(line))
    for row in rows(batches):
        out.write(_markdown_line([_cell(short(value)) for value in row]))


def _cell(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("|", "\\|")
    return "<br>".join(_LINE_BREAK.split(escaped))


def _markdown_line(cells: list[str]) -> bytes:
    return f"| {' | '.join(cells)} |\n".encode()


def write_parquet(schema: pa.Schema, batches: Batches, out: IO[bytes]) -> None:
    """One Parquet file, zstd; intervals, which Parquet has no use for, as text."""
    import pyarrow.parquet as pq  # takes long to import, and only this format needs it

    target = pa.schema([(field.name, _without_intervals(field.type)) for field in schema])
    with pq.ParquetWriter(out, target, compression="zstd") as writer:
        for batch in batches:
            columns = [
                column if column.type == field.type else pa.array(_values(column), field.type)
                for column, field in zip(batch.columns, target, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=target))


Writer = Callable[[pa.Schema, Batches, IO[bytes]], None]
STREAMING: dict[str, Writer] = {
    "json": write_json,
    "ndjson": write_ndjson,
    "csv": write_csv,
    "markdown": write_markdown,
    "parquet": write_parquet,
}
