"""Late hours: rows of hours that are long over wait in the WAL and are written together.

A backfill or a backlog comes in many requests, each with rows of many hours. A part for each
request and hour would be thousands of small parts. So a segment with late rows is held after its
fresh rows are stored, and the late rows of all held segments become one part an hour:

- as soon as no more of them come, unless one of their hours was written so a few times already;
- in any case when the oldest has waited for `wait_seconds`, when they grow too large, when the WAL
  fills up, and when the server stops.

A group of segments is written under a name that lists them. `plan.json` makes the group durable
before its first part, so that what a crash left undone is done for the same group.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np

from rayotel.config import memory
from rayotel.ingest.commit.naming import Names, Place
from rayotel.ingest.wal import json_files
from rayotel.ingest.wal.journal import Journal
from rayotel.ingest.wal.waiting import Segment
from rayotel.lake.layout import MAX_SPANS
from rayotel.model import NANOSECONDS_PER_HOUR, Batch, MetricBatch

SECONDS_PER_HOUR = 3600
# a group is decoded at once: as much as one segment may have
MAX_GROUP_COLUMNS_BYTES = memory.COMMIT_BYTES
MAX_HOURS_PENDING = 50_000
WAL_SHARE_PERCENT = 25
MAX_SOON = 3  # how often an hour is written soon, in the time that others wait for
_NO_PLACE = ("", 0)


def late_hours(batch: Batch, fresh_from_hour: int) -> set[int]:
    """The hours before `fresh_from_hour` of which a batch has rows."""
    limit = fresh_from_hour * NANOSECONDS_PER_HOUR
    found: set[int] = set()
    if isinstance(batch, MetricBatch):
        for points in batch.chunks:
            if len(points) and int(points.time.min()) < limit:
                late = points.time[points.time < limit] // NANOSECONDS_PER_HOUR
                found.update(np.unique(late).tolist())
    else:
        times = (event.time_unix_nano for event in batch.events)
        found.update(time // NANOSECONDS_PER_HOUR for time in times if time < limit)
    return found


class LateHours:
    """The held segments of one WAL, and when they are written."""

    def __init__(
        self, journal: Journal, names: Names, *, wait_seconds: float, after_seconds: float
    ) -> None:
        """`after_seconds`: how long an hour must be over to be late."""
        self._plan = journal.directory / "plan.json"
        self._names = names
        self._wait_seconds = wait_seconds
        self._after_seconds = after_seconds
        self._max_held_bytes = journal.limit_bytes * WAL_SHARE_PERCENT // 100
        self._fresh_from_hour = 0
        self._pending: set[Place] = set()
        self._written: dict[Place, list[float]] = {}
        self._came = 0.0
        self._planned: set[int] = set()

    def open(self) -> None:
        """Read which group an earlier run had begun to write. Raises WalError."""
        hint = "restore it, or remove it"
        planned = json_files.kept(
            self._plan, lambda plan: set(map(int, plan["segments"])), hint=hint
        )
        self._planned = planned or set()

    def fresh_from_hour(self, held: Sequence[Segment]) -> int:
        """The first hour that is fresh now; it never falls while segments are held."""
        if self._wait_seconds:
            hour = int((time.time() - self._after_seconds) // SECONDS_PER_HOUR)
            least = self._fresh_from_hour if held else 0
            self._fresh_from_hour = max(least, hour)
        return self._fresh_from_hour

    def note(self, hours: Iterable[Place]) -> None:
        """A segment is held for its rows of these hours."""
        self._pending.update(hours)
        self._came = time.monotonic()

    def group(
        self, held: Sequence[Segment], *, is_stopping: bool, quiet_seconds: float
    ) -> list[Segment]:
        """The held segments to write now; none: not yet."""
        if not held:
            self._planned.clear()
            return []
        planned = [segment for segment in held if segment.number in self._planned]
        if planned:
            return planned
        if is_stopping or self.is_overdue(held) or self._is_quiet(quiet_seconds):
            return self._first_group(held)
        return []

    def is_overdue(self, held: Sequence[Segment]) -> bool:
        """Whether the held segments may wait no longer, whatever else there is to do."""
        oldest = min(segment.oldest_unix for segment in held)
        return (
            not 0 <= time.time() - oldest < self._wait_seconds
            or sum(segment.size_bytes for segment in held) > self._max_held_bytes
            or sum(segment.columns_bytes for segment in held) > MAX_GROUP_COLUMNS_BYTES
            or len(self._pending) > MAX_HOURS_PENDING
        )

    def _is_quiet(self, quiet_seconds: float) -> bool:
        """Whether no more late rows come, and their hours were not written too often."""
        now = time.monotonic()
        if now - self._came < quiet_seconds:
            return False
        before = now - self._wait_seconds
        times = (self._written.get(hour, ()) for hour in self._pending)
        return all(len([at for at in some if at > before]) < MAX_SOON for some in times)

    def _first_group(self, held: Sequence[Segment]) -> list[Segment]:
        """The oldest segments that can be one part an hour: alike, few spans, not too large."""
        group: list[Segment] = []
        columns = 0
        for segment in held:
            columns += segment.columns_bytes
            is_alike = not group or segment.fresh_from_hour == group[0].fresh_from_hour
            fits = not group or columns <= MAX_GROUP_COLUMNS_BYTES
            spans = self._names.spans([*group, segment], _NO_PLACE)
            if not is_alike or not fits or len(spans) > MAX_SPANS:
                break
            group.append(segment)
        return group

    def plan(self, group: Sequence[Segment]) -> None:
        """Make the group durable, before its first part. Raises WalError."""
        numbers = [segment.number for segment in group]
        if self._planned >= set(numbers):
            return
        json_files.keep(self._plan, {"segments": numbers})
        self._planned = set(numbers)

    def written(self, hours: Iterable[Place], *, is_last: bool) -> None:
        """A group was written, with rows of these hours; `is_last`: no segment is held any more."""
        now = time.monotonic()
        self._planned.clear()
        for hour in hours:
            self._written[hour] = [*self._written.get(hour, ())[1 - MAX_SOON :], now]
        if is_last:
            self._pending.clear()
        if len(self._written) > MAX_HOURS_PENDING:
            before = now - self._wait_seconds
            recent = {hour: at for hour, at in self._written.items() if at[-1] > before}
            self._written = recent if len(recent) <= MAX_HOURS_PENDING else {}
