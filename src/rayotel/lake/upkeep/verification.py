"""Reading every part of a range, and reporting damage.

A part is damaged if it cannot be opened or read to its end (page checksums included), if it lacks a
documented column or has it in another type, or if it holds points of another stream or hour than
its name. Times may be in microseconds or, as 0.1.0 wrote them, in nanoseconds. If two parts of one
receiver and hour overlap and neither covers the other, points may count twice until the next merge.
Other objects are only mentioned.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rayotel.errors import StorageMissing
from rayotel.lake import catalog, layout
from rayotel.lake.layout import Part
from rayotel.lake.parts import STREAM_MARK, signal_in
from rayotel.lake.storage.interface import Storage
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange

BATCH_ROWS = 65_536
MICROSECONDS_PER_HOUR = NANOSECONDS_PER_HOUR // 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about an object. `is_damage`: answers are wrong or impossible because of it.

    `can_move`: moving it aside mends that."""

    key: str
    words: str
    is_damage: bool
    can_move: bool = True


@dataclass(slots=True)
class Verified:
    """Counts of what was read."""

    parts: int = 0
    rows: int = 0
    bytes: int = 0


def verify(
    storage: Storage, streams: Iterable[str], range_: TimeRange, done: Verified
) -> Iterator[Finding]:
    """Findings, as they come; `done` is counted up. Raises StorageError if storage is away."""
    for stream in streams:
        parts = sorted(catalog.all_parts(storage, stream, range_), key=lambda part: part.name)
        visible = {part.name for part in layout.visible(parts)}
        for part in parts:
            words = _read(storage, part, done)
            if words is not None:
                yield Finding(part.name.key, words, is_damage=part.name in visible)
        yield from _overlaps([part for part in parts if part.name in visible])
        yield from _strangers(storage, stream)
    for item in storage.unfinished():
        yield Finding(item.key, "is of a write that has not ended; it is never read", False)


def _read(storage: Storage, part: Part, done: Verified) -> str | None:
    """The damage of a part in words; None if there is none."""
    with tempfile.TemporaryDirectory(prefix="rayotel-verify-") as directory:
        path = Path(directory) / "part.parquet"
        try:
            storage.fetch(part.name.key, path)
        except StorageMissing:
            return None  # removed since it was listed
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                words = _schema_fault(file) or _rows_fault(file, part, done)
        except (pa.ArrowException, OSError, ValueError) as error:
            return f"cannot be read: {str(error).splitlines()[0][:200]}"
    done.parts += 1
    done.bytes += part.size_bytes
    return words


def _schema_fault(file: pq.ParquetFile) -> str | None:
    schema = file.schema_arrow
    for column in signal_in(file.metadata.metadata, schema.names).columns:
        if column.name not in schema.names:
            return f"has no column '{column.name}'"
        kind = schema.field(column.name).type
        are_times = pa.types.is_timestamp(kind) and pa.types.is_timestamp(column.type)
        if kind != column.type and not are_times and not pa.types.is_nested(kind):
            return f"column '{column.name}' is {kind}, not {column.type}"
    folded = [name.lower() for name in schema.names]
    if len(set(folded)) != len(folded):
        return "has columns that differ only in case"
    return None


def _rows_fault(file: pq.ParquetFile, part: Part, done: Verified) -> str | None:
    marks = file.metadata.metadata or {}
    stream = marks.get(STREAM_MARK, part.name.stream.encode())
    if stream.decode("utf-8", "replace") != part.name.stream:
        return f"is of stream '{stream.decode('utf-8', 'replace')[:100]}'"
    rows = 0
    for batch in file.iter_batches(BATCH_ROWS):
        rows += batch.num_rows
        times = batch.column("time_unix_nano").cast(pa.timestamp("us", "UTC"), safe=False)
        hours = times.cast(pa.int64()).to_numpy() // MICROSECONDS_PER_HOUR
        if len(hours) and ((hours != part.name.hour).any()):
            return "has points of another hour"
    if rows != file.metadata.num_rows:
        return f"has {rows} rows and promises {file.metadata.num_rows}"
    done.rows += rows
    return None


def _overlaps(parts: list[Part]) -> Iterator[Finding]:
    groups: dict[tuple[int, str], list[Part]] = {}
    for part in parts:
        groups.setdefault((part.name.hour, part.name.receiver), []).append(part)
    for group in groups.values():
        for number, part in enumerate(group):
            for other in group[:number]:
                if layout.overlap(part.name.spans, other.name.spans):
                    yield Finding(
                        part.name.key,
                        f"overlaps '{other.name.key}' and neither covers the other:"
                        " points may count twice until 'rayotel compact' or a server merges them",
                        is_damage=True,
                        can_move=False,
                    )


def _strangers(storage: Storage, stream: str) -> Iterator[Finding]:
    for is_settled in (False, True):
        for item in storage.objects(layout.stream_prefix(stream, is_settled=is_settled)):
            if layout.parse_key(item.key) is None:
                yield Finding(item.key, "is not an object of rayotel; it is never read", False)


def move_aside(storage: Storage, key: str) -> str:
    """Move an object to where no question reads it; returns its new key. Never deletes bytes."""
    with tempfile.TemporaryDirectory(prefix="rayotel-verify-") as directory:
        path = Path(directory) / "object"
        storage.fetch(key, path)
        for number in itertools.count():
            target = f"{layout.DAMAGED}{key}{f'.{number}' if number else ''}"
            if storage.put_new_file(target, path):
                break
    storage.delete(key)
    return target
