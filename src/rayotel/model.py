"""Values that pass from one room to another: what decoding gives and storage takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NANOSECONDS_PER_SECOND = 1_000_000_000
NANOSECONDS_PER_HOUR = 3600 * NANOSECONDS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Arrival:
    """How and when a request came: all that decoding needs beside the body.

    It is written to the log with the body, so that decoding again gives the same rows.
    `header_columns` are (column, value) of the `X-P-*` headers, in order of the column's name.
    """

    signal: str
    stream: str
    content_type: str
    content_encoding: str
    received_unix_nano: int
    source_ip: str
    user_agent: str
    header_columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What does not change from one point of a series to the next.

    `fixed` are values of fixed columns, `labels` (column, text) of label columns; `spare` are
    labels that have no column of their own: a second value under one name. Compared by identity:
    equal content in two objects costs a little space and is never wrong.
    """

    series_id: int
    fixed: Mapping[str, str | bool | int | None]
    labels: tuple[tuple[str, str], ...]
    spare: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Points:
    """Data points of one kind as columns of equal length.

    `series`: index into the batch's series. `time`, `start`: nanoseconds since 1970 (start 0:
    unknown). `values`: the columns that this kind has, by the name they have in storage.
    """

    series: list[int] = field(default_factory=list)
    time: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    values: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.time)


@dataclass(slots=True)
class MetricBatch:
    """One request, decoded: its series, its points by kind, and what was rejected and why."""

    arrival: Arrival
    series: list[Series] = field(default_factory=list)
    kinds: dict[str, Points] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    new_series_bytes: int = 0

    @property
    def accepted_points(self) -> int:
        """How many points will become rows."""
        return sum(len(points) for points in self.kinds.values())

    @property
    def memory_bytes(self) -> int:
        """A rough upper estimate of the memory this batch holds, for bounds."""
        # measured on recorded scrapes: four boxed numbers a point, lists for histograms
        number = len(self.kinds.get("number", ()))
        points = 200 * number + 1500 * (self.accepted_points - number)
        return points + 64 * len(self.series) + self.new_series_bytes


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Event time from `start` (included) to `end` (excluded), in nanoseconds; None: open."""

    start: int | None = None
    end: int | None = None

    def touches_hour(self, hour: int) -> bool:
        """Whether an hour (counted since 1970) has any moment of this range."""
        first, after = hour * NANOSECONDS_PER_HOUR, (hour + 1) * NANOSECONDS_PER_HOUR
        return (self.start is None or after > self.start) and (self.end is None or first < self.end)
