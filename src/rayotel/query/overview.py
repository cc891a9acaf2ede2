"""What the lake holds: rows, bytes, files and times of each stream, and the columns of one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

import pyarrow as pa

from rayotel.errors import QueryError
from rayotel.lake import catalog
from rayotel.lake.schema import origin
from rayotel.lake.storage import Storage
from rayotel.model import TimeRange
from rayotel.query import views
from rayotel.query.session import Limits, Session


@dataclass(frozen=True, slots=True)
class StreamOverview:
    """One stream. Times are event times; `lag_seconds`: from the last event to now."""

    stream: str
    rows: int
    bytes: int
    files: int
    first_event: datetime | None
    last_event: datetime | None
    lag_seconds: float | None


def streams(
    storage: Storage, range_: TimeRange, limits: Limits, *, only: str | None = None
) -> list[StreamOverview]:
    """Every stream that has parts in the range, or the one named."""
    names = catalog.streams(storage)
    if only is not None and only not in names:
        raise QueryError(f"no stream '{only[:100]}'", hint="'rayotel streams' lists them")
    found = []
    for name in names if only is None else [only]:
        parts = catalog.parts(storage, name, range_)
        if not parts:
            continue
        sql = (
            "SELECT count(*) AS n, min(time_unix_nano) AS first, max(time_unix_nano) AS last,"
            " epoch(now()) - epoch(max(time_unix_nano)) AS lag"
            f" FROM {views.quoted(name)}"
        )
        with Session(storage, range_, limits, mentioned_in=sql) as session:
            row = session.run(sql).rows()[0]
        size = sum(part.size_bytes for part in parts)
        found.append(
            StreamOverview(name, row["n"], size, len(parts), row["first"], row["last"], row["lag"])
        )
    return found


def table(found: list[StreamOverview]) -> pa.Table:
    """The overview as a table."""
    moment = pa.timestamp("us", tz="UTC")
    schema = pa.schema(
        [
            ("stream", pa.string()),
            ("rows", pa.int64()),
            ("bytes", pa.int64()),
            ("files", pa.int64()),
            ("first_event", moment),
            ("last_event", moment),
            ("lag_seconds", pa.float64()),
        ]
    )
    return pa.Table.from_pylist([asdict(one) for one in found], schema=schema)


def columns(
    storage: Storage, stream: str, range_: TimeRange, limits: Limits
) -> list[tuple[str, str, str]]:
    """(name, type, what it holds) of every column of a stream's table."""
    sql = f"DESCRIBE {views.quoted(stream)}"
    with Session(storage, range_, limits, mentioned_in=sql) as session:
        rows = session.run(sql).rows()
    return [(row["column_name"], row["column_type"], origin(row["column_name"])) for row in rows]
