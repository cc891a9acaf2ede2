"""One pass over a lake: remove hours beyond retention, merge hours, remove covered parts.

The server's background thread and `rayotel compact` run the same pass. A lock file in the data
directory allows one of them at a time. What fails for one hour or object stops no other; the first
error is told at the end.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rayotel.errors import (
    LakeError,
    StorageDenied,
    StorageError,
    StorageMissing,
    StorageUnavailable,
)
from rayotel.lake import catalog
from rayotel.lake.layout import Part, PartName, Span
from rayotel.lake.merge.by_signal import merge, rows_of
from rayotel.lake.merge.process import MergeTooLarge, is_damage, is_small, merge_apart
from rayotel.lake.storage.interface import Storage, side_by_side
from rayotel.lake.upkeep import plan, retention
from rayotel.lake.upkeep.alone import alone
from rayotel.lake.upkeep.migration import move_old_parts
from rayotel.lake.upkeep.naming import put_named
from rayotel.lake.upkeep.plan import Job
from rayotel.lake.upkeep.trusted_time import TrustedTime
from rayotel.logs import log_event
from rayotel.model import NANOSECONDS_PER_HOUR, Policies, TimeRange

YOUNG_HOURS = 2
MAX_TOO_LARGE_REMEMBERED = 1000
UNFINISHED_KEPT_SECONDS = 86_400.0  # whoever still writes is long done
# a storage that fails so often in a row is away: the rest of the pass would only wait for it
MAX_FAILURES_IN_A_ROW = 8

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Tidied:
    """Counts of one pass, and its first error."""

    hours: int = 0
    inputs: int = 0
    rows: int = 0
    repeated: int = 0
    removed: int = 0
    expired: int = 0
    failures: int = 0
    error: LakeError | StorageError | None = None
    failures_in_a_row: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the storage fails so often that the rest is better tried later."""
        return self.failures_in_a_row >= MAX_FAILURES_IN_A_ROW

    def failed(self, error: LakeError | StorageError) -> None:
        """Note an error. Damage is told before a storage that fails, for it does not go away."""
        self.failures += 1
        if isinstance(error, StorageUnavailable):
            self.failures_in_a_row += 1
        is_worse = isinstance(error, LakeError) and not isinstance(self.error, LakeError)
        if self.error is None or is_worse:
            self.error = error

    def or_raise(self) -> Tidied:
        """Itself, if nothing failed; raises the first error."""
        if self.error is not None:
            raise self.error
        return self


@dataclass(frozen=True, slots=True)
class Schedule:
    """When. `after_seconds`: how long an hour must be over, and nothing come for it, before it is
    merged whole; `grace_seconds`: how long covered parts linger for questions that began before."""

    after_seconds: float
    grace_seconds: float
    policies: Policies = field(default_factory=Policies)

    @property
    def expires(self) -> bool:
        """Whether any hour may go by age."""
        policies = (self.policies.default, *self.policies.by_stream.values())
        return any(policy.days is not None for policy in policies)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass asks and tells. `written`: segments of the server's own run, wholly stored."""

    written: Callable[[], Span | None] = lambda: None
    is_stopping: Callable[[], bool] = bool
    progress: Callable[[Job], object] = id


class Compactor:
    """Compacts the parts of one receiver. `work` is a directory of its own to spill into."""

    def __init__(
        self, storage: Storage, work: Path, schedule: Schedule, *, apart: bool = False
    ) -> None:
        """`apart`: merge in processes of their own."""
        self._storage = storage
        self._work = work
        self._schedule = schedule
        self._apart = apart
        self._trusted = TrustedTime(work / "clock")
        self._too_large: dict[PartName, None] = {}

    def run(
        self,
        receiver: str,
        *,
        streams: list[str] | None = None,
        written: Callable[[], Span | None] = lambda: None,
        is_stopping: Callable[[], bool] = bool,
        progress: Callable[[Job], object] = id,
    ) -> Tidied:
        """One pass over all streams, or those named. Raises StorageError, LakeError, OSError.

        `written`: the segments of the server's own run that are wholly on storage; None without a
        server. An hour or object that fails stops no other: the first error is raised at the end.
        """
        work = Pass(written, is_stopping, progress)
        return self.tidy(receiver, work, streams).or_raise()

    def move_old_lake(self, work: Pass) -> None:
        """Move the parts of a lake of 0.1.0, if it is one. Raises StorageError, LakeError."""
        with alone(self._work):
            move_old_parts(
                self._storage, self._work, self._schedule.after_seconds, work.is_stopping
            )

    def tidy(self, receiver: str, work: Pass, streams: list[str] | None = None) -> Tidied:
        """The same, and the error is in the result if the streams can be listed at all."""
        done = Tidied()
        with alone(self._work):
            with _noted(done):
                self._remove_unfinished()
            names = catalog.streams(self._storage)
            now = self._trusted.now(self._storage, names) if self._schedule.expires else None
            for stream in names if streams is None else streams:
                if work.is_stopping() or done.is_over:
                    break
                with _noted(done):
                    segments = work.written()  # before the listing
                    parts = self._kept(stream, now, done)
                    grace = self._schedule.grace_seconds
                    covered = plan.removable(parts, receiver, time.time(), grace)
                    done.removed += self._remove(covered, done)
                    self._merge_all(parts, receiver, segments, done, work)
        return done

    def tidy_young(self, receiver: str, work: Pass) -> Tidied:
        """The same for hours that still get points: only they are listed, and only merged."""
        done = Tidied()
        now = time.time_ns()
        recent = TimeRange(now - YOUNG_HOURS * NANOSECONDS_PER_HOUR, now + NANOSECONDS_PER_HOUR)
        with alone(self._work):
            for stream in catalog.streams(self._storage):
                if work.is_stopping() or done.is_over:
                    break
                with _noted(done):
                    segments = work.written()
                    parts = catalog.all_parts(self._storage, stream, recent)
                    self._merge_all(parts, receiver, segments, done, work)
        return done

    def _merge_all(
        self,
        parts: list[Part],
        receiver: str,
        written: Span | None,
        done: Tidied,
        work: Pass,
    ) -> None:
        """Merge what the plan says, hour by hour; what a merge gives may be merged again."""
        by_hour: dict[int, list[Part]] = {}
        for part in parts:
            by_hour.setdefault(part.name.hour, []).append(part)
        for _, hour in sorted(by_hour.items()):
            while jobs := plan.jobs(
                hour, receiver, time.time(), self._schedule.after_seconds, written
            ):
                for job in jobs:
                    if work.is_stopping() or done.is_over:
                        return
                    work.progress(job)
                    output = self._done(job, done)
                    if output is None:
                        break
                    hour.append(output)
                else:
                    continue
                break

    def _done(self, job: Job, done: Tidied) -> Part | None:
        """The output of a job, which is on storage; None if it failed."""
        if job.output in self._too_large:
            return None  # told once, and no better now
        try:
            output, rows, repeated = self._merge(job)
        except StorageMissing:  # a copy of the data directory has merged them meanwhile
            return None
        except (LakeError, StorageError) as error:
            if isinstance(error, MergeTooLarge):
                self._too_large[job.output] = None
                if len(self._too_large) > MAX_TOO_LARGE_REMEMBERED:
                    del self._too_large[next(iter(self._too_large))]
            done.failed(error)
            return None
        done.failures_in_a_row = 0
        done.hours += 1
        done.rows += rows
        done.repeated += repeated
        done.inputs += len(job.inputs)
        settled = [part for part in job.inputs if part.name.is_settled]
        done.removed += self._remove(settled, done)
        return output

    def _remove(self, parts: Iterable[Part], done: Tidied) -> int:
        """Delete parts; how many went. Whoever may not delete may still merge."""
        removed = denied = 0
        for part in parts:
            if done.is_over or denied >= MAX_FAILURES_IN_A_ROW:
                break
            try:
                self._storage.delete(part.name.key)
            except StorageError as error:
                done.failed(error)
                denied += isinstance(error, StorageDenied)
            else:
                done.failures_in_a_row = 0
                removed += 1
        return removed

    def _remove_unfinished(self) -> None:
        for item in self._storage.unfinished():
            if item.written_unix < time.time() - UNFINISHED_KEPT_SECONDS:
                self._storage.delete(item.key)

    def _kept(self, stream: str, now: float | None, done: Tidied) -> list[Part]:
        """Remove what the stream's policy no longer keeps; returns the other parts.

        `now`: None where the clock cannot be trusted.
        """
        parts = catalog.all_parts(self._storage, stream)
        expired = retention.expired(self._schedule.policies.of(stream), parts, now)
        gone = {part.name for part in expired}
        removed = self._remove(expired, done)
        if removed:
            _tell_expired(stream, expired)
        done.expired += removed
        return [part for part in parts if part.name not in gone]

    def _merge(self, job: Job) -> tuple[Part, int, int]:
        """Fetch, merge, write; the output, its rows, and how many fewer than before they are.

        A crash anywhere leaves the inputs as they were.
        """
        spill = self._work / "spill"
        shutil.rmtree(spill, ignore_errors=True)  # what a crash left
        spill.mkdir()
        try:
            paths, against = (
                [spill / f"{kind}-{number:06d}.parquet" for number in range(len(parts))]
                for kind, parts in (("input", job.inputs), ("against", job.against))
            )
            keys = (part.name.key for part in (*job.inputs, *job.against))
            pairs = zip(keys, (*paths, *against), strict=True)
            for _ in side_by_side(lambda pair: self._storage.fetch(*pair), pairs):
                pass
            output = spill / "output.parquet"
            try:
                is_apart = self._apart and not is_small([*paths, *against])
                merging = merge_apart if is_apart else merge
                rows = merging(paths, output, job.output.stream, spill, against)
                repeated = rows_of(paths) - rows
            except (ValueError, KeyError, TypeError, OSError) as error:
                if not is_damage(error):
                    raise
                raise LakeError(
                    f"cannot merge {len(paths)} parts into '{job.output.key}': {error}",
                    hint="rayotel verify names the part that is damaged",
                ) from error
            name = put_named(self._storage, job.output, output)
            return Part(name, output.stat().st_size, time.time()), rows, repeated
        finally:
            shutil.rmtree(spill, ignore_errors=True)


@contextlib.contextmanager
def _noted(done: Tidied) -> Iterator[None]:
    try:
        yield
    except (LakeError, StorageError) as error:
        done.failed(error)


def _tell_expired(stream: str, expired: list[Part]) -> None:
    hours = sorted({part.name.hour for part in expired})
    log_event(
        logger,
        logging.INFO,
        "retention removed hours",
        stream=stream,
        hours=len(hours),
        first=_hour(hours[0]),
        last=_hour(hours[-1]),
        parts=len(expired),
        bytes=sum(part.size_bytes for part in expired),
    )


def _hour(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour * plan.SECONDS_PER_HOUR, UTC):%Y-%m-%dT%H}Z"
