"""Values that pass from one room to another: what decoding gives and storage takes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Indexes = npt.NDArray[np.int32]
    Int64s = npt.NDArray[np.int64]
    Column: TypeAlias = "npt.NDArray[np.generic] | pa.Array | Lists"

PROTOBUF, JSON = "application/x-protobuf", "application/json"
DEFAULT_METRICS_STREAM, DEFAULT_EVENTS_STREAM = "raymetrics", "rayevents"
MAX_STREAM_NAME_CHARACTERS = 100
_STREAM = re.compile(rf"[A-Za-z0-9-][A-Za-z0-9_-]{{0,{MAX_STREAM_NAME_CHARACTERS - 1}}}")
NANOSECONDS_PER_SECOND = 1_000_000_000
NANOSECONDS_PER_HOUR = 3600 * NANOSECONDS_PER_SECOND
# beside their content: an array's own objects, a request's arrival and other objects
COLUMN_BYTES = 300
BATCH_BYTES = 1500
EVENT_BYTES = 300


def is_stream_name(name: str) -> bool:
    """Letters, digits, `_` and `-`, 1 to 100 of them."""
    return _STREAM.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Arrival:
    """How and when a request came: all that decoding needs beside the body.

    It is written to the WAL with the body, so that decoding again gives the same rows.
    `header_columns` are (column, value) of the `X-P-*` headers, in order of the column's name.
    `signal`: metrics or events. `recovered_as`: empty, or under which name the record was set aside
    before it was taken in again.
    """

    signal: str
    stream: str
    content_type: str
    content_encoding: str
    received_unix_nano: int
    source_ip: str
    user_agent: str
    header_columns: tuple[tuple[str, str], ...] = ()
    recovered_as: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One request: how it came and its body as sent."""

    arrival: Arrival
    body: bytes


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


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """A column of lists of numbers: all their members one after another, and how many each has."""

    members: npt.NDArray[np.generic]
    lengths: Indexes

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self.members.nbytes + self.lengths.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Data points of one kind as columns of equal length.

    `series`: index into the batch's series. `time`, `start`: nanoseconds since 1970; a start of 0
    is unknown. `values` by the name they have in storage: without nulls as NumPy arrays or `Lists`,
    everything else as Arrow arrays. A column that is None or not there is 0 or null throughout.
    """

    kind: str
    series: Indexes
    time: Int64s
    start: Int64s | None
    flags: Int64s | None
    values: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.time)

    @property
    def memory_bytes(self) -> int:
        """Memory of the columns."""
        arrays = (self.series, self.time, self.start, self.flags, *self.values.values())
        return sum(array.nbytes + COLUMN_BYTES for array in arrays if array is not None)


class Drop(NamedTuple):
    """A pattern by which something is left out: of the setting `drop_metrics` or `drop_labels`."""

    setting: str
    pattern: str

    @property
    def metrics_and_labels(self) -> tuple[str, str]:
        """The two patterns of one of `drop_labels`, `METRICS:LABELS` or `LABELS` of all metrics."""
        metrics, colon, labels = self.pattern.rpartition(":")
        return (metrics if colon else "*"), labels


@dataclass(frozen=True, slots=True)
class Policy:
    """How long a stream is kept: for `days`, up to `size_bytes`; None: no limit of that kind."""

    days: float | None = None
    size_bytes: int | None = None

    def __str__(self) -> str:
        """As a setting writes it, or `for ever`."""
        days = "" if self.days is None else f"{self.days:g}d"
        size = "" if self.size_bytes is None else f"{self.size_bytes / 10**9:g}GB"
        return " ".join(filter(None, (days, size))) or "for ever"


@dataclass(frozen=True, slots=True)
class Policies:
    """The retention policy of each stream."""

    default: Policy = Policy()
    by_stream: Mapping[str, Policy] = field(default_factory=dict)

    def of(self, stream: str) -> Policy:
        """The stream's own policy, or the default."""
        return self.by_stream.get(stream, self.default)

    @property
    def keep_everything(self) -> bool:
        """Whether no policy lets anything go."""
        return all(policy == Policy() for policy in (self.default, *self.by_stream.values()))


@dataclass(frozen=True, slots=True, eq=False)
class MetricBatch:
    """One request, decoded: its series, its points, and what was rejected and why.

    `series` may be shared by batches, and holds each series that the points name at least once.
    `dropped`: by pattern, how many points it dropped, or how many labels of accepted points.
    """

    arrival: Arrival
    series: Sequence[Series]
    chunks: Sequence[Points]
    rejected: Mapping[str, int] = field(default_factory=dict)
    new_series_bytes: int = 0
    dropped: Mapping[Drop, int] = field(default_factory=dict)

    @property
    def accepted_rows(self) -> int:
        """How many points will become rows."""
        return sum(map(len, self.chunks))

    @property
    def unreadable(self) -> Mapping[str, int]:
        """None: what cannot be read is refused or rejected."""
        return {}

    @property
    def memory_bytes(self) -> int:
        """An upper estimate of the memory this batch holds, for bounds."""
        points = sum(chunk.memory_bytes for chunk in self.chunks)
        return BATCH_BYTES + points + 8 * len(self.series) + self.new_series_bytes


class Event(NamedTuple):
    """One row of an events stream, apart from how it travelled: its columns, None for null."""

    event_id: str
    time_unix_nano: int
    event: str
    event_type: str | None = None
    source_type: str | None = None
    severity: str | None = None
    session_name: str | None = None
    message: str | None = None
    reporter_node_id: str | None = None
    node_id: str | None = None
    job_id: str | None = None
    task_id: str | None = None
    task_attempt: int | None = None
    actor_id: str | None = None
    worker_id: str | None = None
    placement_group_id: str | None = None
    state: str | None = None
    problem: str | None = None
    beside: str | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory of what it holds."""
        return EVENT_BYTES + sum(map(sys.getsizeof, self))


@dataclass(frozen=True, slots=True, eq=False)
class EventBatch:
    """One request of events, decoded. `unreadable`: how many could not be read, by reason."""

    arrival: Arrival
    events: Sequence[Event]
    unreadable: Mapping[str, int] = field(default_factory=dict)

    @property
    def accepted_rows(self) -> int:
        """How many rows it gives; the unreadable are rows too."""
        return len(self.events)

    @property
    def rejected(self) -> Mapping[str, int]:
        """None: every event is a row."""
        return {}

    @property
    def dropped(self) -> Mapping[Drop, int]:
        """None: no setting drops events."""
        return {}

    @property
    def memory_bytes(self) -> int:
        """An upper estimate of the memory this batch holds, for bounds."""
        return BATCH_BYTES + sum(event.memory_bytes for event in self.events)


Batch: TypeAlias = MetricBatch | EventBatch


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Event time from `start` (included) to `end` (excluded), in nanoseconds; None: open."""

    start: int | None = None
    end: int | None = None

    def touches_hour(self, hour: int) -> bool:
        """Whether an hour (counted since 1970) has any moment of this range."""
        first, after = hour * NANOSECONDS_PER_HOUR, (hour + 1) * NANOSECONDS_PER_HOUR
        return (self.start is None or after > self.start) and (self.end is None or first < self.end)
