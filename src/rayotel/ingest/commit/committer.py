"""From sealed WAL segments to Parquet parts: every few seconds, in order, until it works.

A segment's fresh rows become one part per stream and hour. A segment with rows of late hours is
held until these are written with those of others (see `late`). Doing it again after a crash writes
the same names, so nothing is ever stored twice. A segment is released only when all of its rows
are on storage. While storage fails, segments wait in the WAL; the pause between tries doubles up to
a bound. A record that makes a commit fail is set aside (see `failing`), and the rest goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from rayotel.errors import RayotelError, StorageError, WalError
from rayotel.ingest.commit.failing import FailingRecords
from rayotel.ingest.commit.late import LateHours, late_hours
from rayotel.ingest.commit.naming import Names, Place
from rayotel.ingest.commit.reading import Reader
from rayotel.ingest.commit.recovery import Recovery
from rayotel.ingest.commit.writing import Made, Target, Writer
from rayotel.ingest.wal.journal import Journal
from rayotel.ingest.wal.recent_events import StoredEvents
from rayotel.ingest.wal.waiting import Segment, source_of
from rayotel.lake.layout import Span
from rayotel.logs import Failing, log_event
from rayotel.model import Batch
from rayotel.telemetry import Telemetry

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
MAX_UNEXPECTED_TRIES = 3  # of one group, before its records are tried one by one

logger = logging.getLogger(__name__)


class Backoff:
    """Pauses that double from the first to the longest, and start anew after a success."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first, self._longest = first_seconds, longest_seconds
        self._next = first_seconds

    def pause_seconds(self) -> float:
        """The pause after one more failure."""
        pause = self._next
        self._next = min(self._longest, self._next * 2)
        return pause

    def reset(self) -> None:
        """After a success."""
        self._next = self._first


class Committer:
    """One background thread that moves segments to storage. `start`, then `stop`."""

    def __init__(
        self,
        journal: Journal,
        reader: Reader,
        writer: Writer,
        names: Names,
        late: LateHours,
        stored: StoredEvents,
        telemetry: Telemetry,
        *,
        interval_seconds: float,
    ) -> None:
        self._journal = journal
        self._reader = reader
        self._writer = writer
        self._names = names
        self._late = late
        self._stored = stored
        self._telemetry = telemetry
        self._interval_seconds = interval_seconds
        self._failing_records = FailingRecords(journal.directory, reader, writer, telemetry)
        self._recovery = Recovery(journal, reader.decode, telemetry)
        self._storage_away = Failing()
        self._stuck = Failing()
        self._unexpected_tries = 0
        self._searches = 0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        journal.on_sealed = self._wake.set

    def start(self) -> None:
        """Begin; segments of earlier runs come first."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Commit all that the WAL holds, for at most so long. Whether everything is on storage."""
        self._deadline = time.monotonic() + timeout_seconds
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout_seconds + LONGEST_PAUSE_SECONDS)
        is_empty = self._journal.oldest_sealed() is None and not self._journal.held
        return not self._thread.is_alive() and is_empty

    def _run(self) -> None:
        backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        due = time.monotonic() + self._interval_seconds
        while True:
            stopping = self._stopping.is_set()
            if stopping or time.monotonic() >= due:
                if not stopping:
                    self._recovery.take_in()
                # while older segments wait for storage the current one may go on growing
                if self._journal.oldest_sealed() is None:
                    self._journal.seal()
                due = time.monotonic() + self._interval_seconds
            work = self._next_work(stopping)
            if work is None:
                if stopping:
                    return
                self._wake.wait(max(0.0, due - time.monotonic()))
                self._wake.clear()
                continue
            if self._try(*work):
                backoff.reset()
                continue
            if stopping and time.monotonic() >= self._deadline:
                return
            pause = backoff.pause_seconds()
            if stopping:
                time.sleep(min(pause, 1.0))
            else:
                self._stopping.wait(pause)

    def _next_work(
        self, stopping: bool
    ) -> tuple[Callable[[list[Segment]], Made], list[Segment]] | None:
        """What to commit next: a segment's fresh rows, or the late rows of those that are held."""
        segment = self._journal.oldest_sealed()
        held = self._journal.held
        if segment is None or (held and self._late.is_overdue(held)):
            group = self._late.group(
                held,
                is_stopping=stopping and segment is None,
                quiet_seconds=1.5 * self._interval_seconds,
            )
            if group:
                return self._commit_late, group
        return None if segment is None else (self._commit_fresh, [segment])

    def _try(self, commit: Callable[[list[Segment]], Made], group: list[Segment]) -> bool:
        started = time.monotonic()
        try:
            made = commit(group)
        except StorageError as error:
            self._telemetry.commits.labels("failed").inc()
            self._storage_failed(error)
            return False
        except Exception as error:
            self._telemetry.commits.labels("failed").inc()
            self._stuck_at(group, error)
            if not isinstance(error, WalError):
                self._count_unexpected(group)
            return False
        self._goes_on(group)
        self._unexpected_tries = self._searches = 0
        self._telemetry.rows_repeated.labels("commit").inc(made.repeated)
        self._telemetry.commits.labels("done").inc()
        self._telemetry.commit_seconds.observe(time.monotonic() - started)
        return True

    def _commit_fresh(self, group: list[Segment]) -> Made:
        """Store the fresh rows of one segment; release it, or hold it for its late rows."""
        segment = group[0]
        now_fresh_from = self._late.fresh_from_hour(self._journal.held)
        fresh_from = self._journal.decide(segment, now_fresh_from)
        batches = self._reader.batches(segment)
        late = _late_rows(batches, fresh_from)
        made = self._write(group, batches, lambda hour: hour >= fresh_from)
        self._keep_ids(segment.number, made, is_late=False)
        if late:
            segment.columns_bytes = sum(batch.memory_bytes for batch in batches)
            self._journal.hold(segment)
            self._late.note(late)
        else:
            self._journal.release(group)
        self._stored.add(segment.number, made.ids)
        self._names.written(group, made.places)
        return made

    def _keep_ids(self, number: int, made: Made, *, is_late: bool) -> None:
        """Make the ids of stored events durable. Raises WalError.

        An id that cannot be kept, for no reason of the disk, keeps nobody waiting: a repetition of
        its event may be stored twice until the hour is merged.
        """
        try:
            self._stored.persist(number, made.ids, is_late=is_late)
        except WalError:
            raise
        except Exception as error:
            if self._unexpected_tries + 1 < MAX_UNEXPECTED_TRIES:
                raise
            log_event(logger, logging.ERROR, "ids of events cannot be kept", error=error)
            made.ids = {}

    def _commit_late(self, group: list[Segment]) -> Made:
        """Store the late rows of several segments, and release them."""
        limit = min(segment.fresh_from_hour or 0 for segment in group)
        self._late.plan(group)
        batches = [batch for segment in group for batch in self._reader.batches(segment)]
        made = self._write(group, batches, lambda hour: hour < limit)
        hours = _late_rows(batches, limit)
        last = group[-1].number
        self._keep_ids(last, made, is_late=True)
        self._journal.release(group)
        self._stored.add(last, made.ids)
        self._names.written(group, made.places)
        self._late.written(hours, is_last=not self._journal.held)
        return made

    def _write(
        self, group: list[Segment], batches: Sequence[Batch], wanted: Callable[[int], bool]
    ) -> Made:
        earlier = None
        if len(group) == 1 and group[0].earlier_epoch:
            earlier = Span(group[0].earlier_epoch, group[0].number, group[0].number)
        target = Target(
            self._journal.receiver,
            lambda place: self._names.spans(group, place),
            source_of(group),
            earlier,
        )
        made = self._writer.write(batches, wanted, target)
        if made.places:
            self._storage_is_back()
        return made

    def _count_unexpected(self, group: list[Segment]) -> None:
        """After several failures that no storage or disk explains, look for their records."""
        self._unexpected_tries += 1
        if self._unexpected_tries < MAX_UNEXPECTED_TRIES:
            return
        self._unexpected_tries = 0
        self._searches += 1
        try:
            for segment in group:
                # what no single record explains is set aside whole, or nothing would ever go on
                self._failing_records.set_aside(segment, all_of_it=self._searches > 1)
        except StorageError as error:
            self._searches -= 1
            self._storage_failed(error)
        except Exception as error:
            self._searches -= 1
            self._stuck_at(group, error)

    def _storage_failed(self, error: StorageError) -> None:
        is_news = self._storage_away.begin(type(error))
        log_event(
            logger,
            logging.WARNING if is_news else logging.DEBUG,
            "storage is away: acknowledged points wait in the WAL",
            reason=error.message,
            hint=error.hint,
            waiting_bytes=self._journal.waiting_bytes,
        )

    def _storage_is_back(self) -> None:
        seconds = self._storage_away.end()
        if seconds is not None:
            log_event(
                logger,
                logging.INFO,
                "storage is back",
                away_seconds=seconds,
                waiting_bytes=self._journal.waiting_bytes,
            )

    def _stuck_at(self, group: list[Segment], error: Exception) -> None:
        is_news = self._stuck.begin((group[0].number, type(error)))
        known = error if isinstance(error, RayotelError) else None
        log_event(
            logger,
            logging.ERROR if is_news else logging.DEBUG,
            "a WAL segment cannot be committed and is tried again",
            error=None if known else error,
            segment=group[0].number,
            reason=known.message if known else type(error).__name__,
            hint=known.hint if known else None,
        )

    def _goes_on(self, group: list[Segment]) -> None:
        seconds = self._stuck.end()
        if seconds is not None:
            log_event(
                logger,
                logging.INFO,
                "the WAL segment is committed",
                segment=group[0].number,
                failed_seconds=seconds,
            )


def _late_rows(batches: Sequence[Batch], fresh_from_hour: int) -> set[Place]:
    """The streams and hours of rows before an hour."""
    return {
        (batch.arrival.stream, hour)
        for batch in batches
        for hour in late_hours(batch, fresh_from_hour)
    }
