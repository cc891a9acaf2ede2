"""What the lake holds: rows, bytes, files and times of each stream, and the columns of one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

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


def streams(storage: Storage, range_: TimeRange, limits: Limits) -> list[StreamOverview]:
    """Every stream that has parts in the range."""
    found = []
    for name in catalog.streams(storage):
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
            StreamOverview(
                name, row["n"], size, len(parts), row["first"], row["last"], row["lag"]
            )
        )
    return found


def columns(
    storage: Storage, stream: str, range_: TimeRange, limits: Limits
) -> list[tuple[str, str, str]]:
    """(name, type, what it holds) of every column of a stream's table."""
    sql = f"DESCRIBE {views.quoted(stream)}"
    with Session(storage, range_, limits, mentioned_in=sql) as session:
        rows = session.run(sql).rows()
    return [
        (row["column_name"], row["column_type"], origin(row["column_name"])) for row in rows
    ]
