"""One pass over a lake: remove hours beyond retention, merge hours, remove covered parts.

The server's background thread and `rayotel compact` run the same pass. A lock file in the data
directory allows one of them at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rayotel.errors import DataDirectoryBusy, LakeError, RayotelError, StorageError
from rayotel.lake import catalog
from rayotel.lake.layout import Part
from rayotel.lake.merge.by_signal import merge, rows_of
from rayotel.lake.merge.process import IN_PROCESS_BYTES, is_damage, merge_apart
from rayotel.lake.storage.interface import Storage, side_by_side
from rayotel.lake.upkeep import plan, retention
from rayotel.lake.upkeep.plan import Job
from rayotel.logs import Failing, log_event
from rayotel.model import NANOSECONDS_PER_HOUR, Policies, TimeRange

STOP_TIMEOUT_SECONDS = 60.0
YOUNG_INTERVAL_SECONDS = 30.0
YOUNG_HOURS = 2
UNFINISHED_KEPT_SECONDS = 86_400.0  # whoever still writes is long done

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Tidied:
    """Counts of one pass."""

    hours: int = 0
    inputs: int = 0
    rows: int = 0
    repeated: int = 0
    removed: int = 0
    expired: int = 0
    damage: LakeError | None = None

    def or_raise(self) -> Tidied:
        """Itself, if no part was damaged; raises the error of a damaged part."""
        if self.damage is not None:
            raise self.damage
        return self


@dataclass(frozen=True, slots=True)
class Schedule:
    """When. `after_seconds`: how long an hour must be over, and nothing come for it, before it is
    merged whole; `grace_seconds`: how long covered parts linger for questions that began before."""

    after_seconds: float
    grace_seconds: float
    policies: Policies = field(default_factory=Policies)


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

    def run(
        self,
        receiver: str,
        *,
        streams: list[str] | None = None,
        is_stopping: Callable[[], bool] = bool,
        progress: Callable[[Job], object] = id,
    ) -> Tidied:
        """One pass over all streams, or those named. Raises StorageError, LakeError, OSError.

        An hour with a damaged part stops no other: its error is raised at the end.
        """
        done = Tidied()
        with self._alone():
            self._remove_unfinished()
            for stream in catalog.streams(self._storage) if streams is None else streams:
                now = time.time()
                parts = self._kept(stream, now, done)
                for part in plan.removable(parts, receiver, now, self._schedule.grace_seconds):
                    self._storage.delete(part.name.key)
                    done.removed += 1
                self._merge_all(self._jobs(parts, receiver), done, is_stopping, progress)
                if is_stopping():
                    break
        return done.or_raise()

    def run_young(self, receiver: str, *, is_stopping: Callable[[], bool] = bool) -> Tidied:
        """The same for hours that still get points: only they are listed, and only merged."""
        done = Tidied()
        now = time.time_ns()
        recent = TimeRange(now - YOUNG_HOURS * NANOSECONDS_PER_HOUR, now + NANOSECONDS_PER_HOUR)
        with self._alone():
            for stream in catalog.streams(self._storage):
                parts = catalog.all_parts(self._storage, stream, recent)
                self._merge_all(self._jobs(parts, receiver), done, is_stopping, id)
        return done.or_raise()

    def _jobs(self, parts: list[Part], receiver: str) -> list[Job]:
        return plan.jobs(parts, receiver, time.time(), self._schedule.after_seconds)

    def _merge_all(
        self,
        jobs: list[Job],
        done: Tidied,
        is_stopping: Callable[[], bool],
        progress: Callable[[Job], object],
    ) -> None:
        for job in jobs:
            if is_stopping():
                return
            progress(job)
            try:
                rows, repeated = self._merge(job)
            except LakeError as error:
                done.damage = done.damage or error
                continue
            done.hours += 1
            done.rows += rows
            done.repeated += repeated
            done.inputs += len(job.inputs)

    def _remove_unfinished(self) -> None:
        for item in self._storage.unfinished():
            if item.written_unix < time.time() - UNFINISHED_KEPT_SECONDS:
                self._storage.delete(item.key)

    def _kept(self, stream: str, now: float, done: Tidied) -> list[Part]:
        """Remove what the stream's policy no longer keeps; returns the other parts."""
        parts = catalog.all_parts(self._storage, stream)
        expired = retention.expired(self._schedule.policies.of(stream), parts, now)
        for part in expired:
            self._storage.delete(part.name.key)
        if expired:
            _tell_expired(stream, expired)
        done.expired += len(expired)
        gone = {part.name for part in expired}
        return [part for part in parts if part.name not in gone]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._work.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._work / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataDirectoryBusy(
                    "another compaction runs in this data directory", hint="try again later"
                ) from None
            yield
        finally:
            os.close(lock)

    def _merge(self, job: Job) -> tuple[int, int]:
        """Fetch, merge, write; rows of the output, and how many fewer than before they are.

        A crash anywhere leaves the inputs as they were.
        """
        spill = self._work / "spill"
        shutil.rmtree(spill, ignore_errors=True)  # what a crash left
        spill.mkdir()
        try:
            paths = [spill / f"input-{number:06d}.parquet" for number in range(len(job.inputs))]
            pairs = zip((part.name.key for part in job.inputs), paths, strict=True)
            for _ in side_by_side(lambda pair: self._storage.fetch(*pair), pairs):
                pass
            output = spill / "output.parquet"
            try:
                size_bytes = sum(part.size_bytes for part in job.inputs)
                is_apart = self._apart and size_bytes > IN_PROCESS_BYTES
                merging = merge_apart if is_apart else merge
                rows = merging(paths, output, job.output.stream, spill)
                repeated = rows_of(paths) - rows
            except (ValueError, KeyError, TypeError, OSError) as error:
                if not is_damage(error):
                    raise
                raise LakeError(
                    f"cannot merge {len(paths)} parts into '{job.output.key}': {error}",
                    hint="rayotel verify names the part that is damaged",
                ) from error
            self._storage.put_file(job.output.key, output)
            return rows, repeated
        finally:
            shutil.rmtree(spill, ignore_errors=True)


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


class CompactorThread:
    """Runs a pass every so often. `start`, then `stop`; a failure is reported and tried again."""

    def __init__(
        self,
        compactor: Compactor,
        receiver: Callable[[], str],
        interval_seconds: float,
        done: Callable[[Tidied], None],
    ) -> None:
        self._compactor = compactor
        self._receiver = receiver
        self._interval_seconds = interval_seconds
        self._done = done
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="compactor", daemon=True)
        self._failing = Failing()
        self._is_damage = False

    def start(self) -> None:
        """Begin; the first pass comes after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """End after the hour that is being merged; a longer one is given up unharmed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_SECONDS)

    def _run(self) -> None:
        due = time.monotonic() + self._interval_seconds
        pause = min(self._interval_seconds, YOUNG_INTERVAL_SECONDS)
        while not self._stopping.wait(pause):
            is_whole = time.monotonic() >= due
            if is_whole:
                due = time.monotonic() + self._interval_seconds
            try:
                self._pass(is_whole)
            except (StorageError, LakeError, DataDirectoryBusy, OSError) as error:
                self._tell_failure(error)
            except Exception as error:
                log_event(logger, logging.ERROR, "unexpected error in compaction", error=error)

    def _pass(self, is_whole: bool) -> None:
        run = self._compactor.run if is_whole else self._compactor.run_young
        started = time.monotonic()
        done = run(self._receiver(), is_stopping=self._stopping.is_set)
        self._done(done)
        if done.hours or done.removed:
            log_event(
                logger,
                logging.INFO if is_whole else logging.DEBUG,
                "compaction merged parts" if done.hours else "compaction removed covered parts",
                hours=done.hours,
                parts_merged=done.inputs,
                rows=done.rows,
                repeats_removed=done.repeated,
                parts_removed=done.removed,
                seconds=round(time.monotonic() - started, 1),
            )
        # a pass over young hours does not meet the part that is damaged
        seconds = self._failing.end() if is_whole or not self._is_damage else None
        if seconds is not None:
            log_event(logger, logging.INFO, "compaction works again", failed_seconds=seconds)

    def _tell_failure(self, error: Exception) -> None:
        self._is_damage = isinstance(error, LakeError)
        words = error.message if isinstance(error, RayotelError) else str(error)
        is_news = self._failing.begin(words if self._is_damage else type(error))
        level = logging.ERROR if self._is_damage else logging.WARNING
        log_event(
            logger,
            level if is_news else logging.DEBUG,
            "compaction fails and is tried again",
            reason=words,
            hint=error.hint if isinstance(error, RayotelError) else None,
        )
