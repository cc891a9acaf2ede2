"""The content of a lake: rows, bytes, files and times of each stream, and the columns of one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from rayotel.errors import QueryError
from rayotel.lake import cache, catalog
from rayotel.lake.footers import Footer
from rayotel.lake.schema import origin
from rayotel.lake.storage.interface import side_by_side
from rayotel.model import NANOSECONDS_PER_SECOND, TimeRange
from rayotel.query import views
from rayotel.query.lake import Lake
from rayotel.query.snapshot import snapshot


@dataclass(frozen=True, slots=True)
class StreamOverview:
    """One stream. Times are event times; `lag_seconds`: from the last event to now.

    `overflow_rows`: rows of its parts with labels that have no column because of the bound.
    """

    stream: str
    rows: int
    bytes: int
    files: int
    first_event: datetime | None
    last_event: datetime | None
    lag_seconds: float | None
    overflow_rows: int


@dataclass(frozen=True, slots=True)
class FileOverview:
    """One part that counts: its key in the lake, and all that it holds, also beyond a range."""

    key: str
    rows: int
    bytes: int
    first_event: datetime | None
    last_event: datetime | None


def streams(
    lake: Lake,
    range_: TimeRange,
    *,
    only: str | None = None,
    progress: Callable[[int, int], object] = max,
) -> list[StreamOverview]:
    """Every stream that has parts in the range, or the one named.

    Footers alone suffice, except for parts that reach beyond the range: their rows are counted.
    `progress` is called with the number of finished parts and of all parts.
    """
    wanted = lake.streams() if only is None else [_checked(lake, only)]
    listed = side_by_side(lambda name: catalog.parts(lake.storage, name, range_), wanted)
    by_stream = {name: parts for name, parts in zip(wanted, listed, strict=True) if parts}
    everything = [part for parts in by_stream.values() for part in parts]
    read = cache.footers(
        lake.storage, everything, lake.cache, lambda done: progress(done, len(everything))
    )
    footers = iter(read)
    overviews = []
    for name, parts in by_stream.items():
        size = sum(part.size_bytes for part in parts)
        of_parts = list(itertools.islice(footers, len(parts)))
        overflow = sum(footer.overflow_rows for footer in of_parts)
        told = _of_footers(of_parts, range_)
        rows, first, last = told or _of_rows(lake, name, range_)
        lag = None if last is None else time.time() - last / NANOSECONDS_PER_SECOND
        overviews.append(
            StreamOverview(
                name, rows, size, len(parts), _moment(first), _moment(last), lag, overflow
            )
        )
    return overviews


def _checked(lake: Lake, name: str) -> str:
    if name not in lake.streams():
        raise QueryError(f"no stream '{name[:100]}'", hint="'rayotel streams' lists them")
    return name


def files(
    lake: Lake,
    name: str,
    range_: TimeRange,
    *,
    progress: Callable[[int, int], object] = max,
) -> list[FileOverview]:
    """The parts of a stream that count and touch the range, in order of their names."""
    parts = catalog.parts(lake.storage, _checked(lake, name), range_)
    footers = cache.footers(
        lake.storage, parts, lake.cache, lambda done: progress(done, len(parts))
    )
    return [
        FileOverview(
            part.name.key,
            footer.rows,
            part.size_bytes,
            _moment(footer.first_unix_nano),
            _moment(footer.last_unix_nano),
        )
        for part, footer in zip(parts, footers, strict=True)
        if footer.touches(range_)
    ]


Extent = tuple[int, int | None, int | None]


def _of_footers(footers: list[Footer], range_: TimeRange) -> Extent | None:
    """Rows, first and last event in nanoseconds; None if footers lack them."""
    touched = [footer for footer in footers if footer.touches(range_)]
    if not all(footer.is_within(range_) for footer in touched):
        return None
    firsts = [footer.first_unix_nano for footer in touched]
    lasts = [footer.last_unix_nano for footer in touched]
    if None in firsts or None in lasts:
        return None
    return (
        sum(footer.rows for footer in touched),
        min((first for first in firsts if first is not None), default=None),
        max((last for last in lasts if last is not None), default=None),
    )


def _of_rows(lake: Lake, stream: str, range_: TimeRange) -> Extent:
    sql = (
        "SELECT count(*) AS n, epoch_ns(min(time_unix_nano)) AS first,"
        f" epoch_ns(max(time_unix_nano)) AS last FROM {views.quoted(stream)}"
    )
    with lake.ask(sql, range_) as result:
        row = result.rows()[0]
    return row["n"], row["first"], row["last"]


def _moment(unix_nano: int | None) -> datetime | None:
    if unix_nano is None:
        return None
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=unix_nano // 1000)


_MOMENT = pa.timestamp("us", tz="UTC")


def table(overviews: list[StreamOverview]) -> pa.Table:
    """The overview as a table."""
    schema = pa.schema(
        [
            ("stream", pa.string()),
            ("rows", pa.int64()),
            ("bytes", pa.int64()),
            ("files", pa.int64()),
            ("first_event", _MOMENT),
            ("last_event", _MOMENT),
            ("lag_seconds", pa.float64()),
            ("overflow_rows", pa.int64()),
        ]
    )
    return pa.Table.from_pylist([asdict(overview) for overview in overviews], schema=schema)


def files_table(parts: list[FileOverview]) -> pa.Table:
    """The parts as a table."""
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("rows", pa.int64()),
            ("bytes", pa.int64()),
            ("first_event", _MOMENT),
            ("last_event", _MOMENT),
        ]
    )
    return pa.Table.from_pylist([asdict(part) for part in parts], schema=schema)


def columns_table(columns: list[tuple[str, str, str]]) -> pa.Table:
    """The columns of a stream as a table."""
    names = ["column", "type", "holds"]
    return pa.table([list(column) for column in zip(*columns, strict=True)], names=names)


def columns(lake: Lake, stream: str, range_: TimeRange) -> list[tuple[str, str, str]]:
    """(name, type, what it holds) of every column of a stream's table."""
    sql = f"DESCRIBE {views.quoted(stream)}"
    with lake.ask(sql, range_) as result:
        rows = result.rows()
    fixed = snapshot(lake.storage, stream, range_, lake.cache).signal.columns
    return [
        (row["column_name"], row["column_type"], origin(row["column_name"], fixed)) for row in rows
    ]
