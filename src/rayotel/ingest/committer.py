"""From sealed WAL segments to Parquet parts: every few seconds, in order, until it works.

A segment becomes one part per stream and hour, named by the receiver and the segment's number.
Doing it again after a crash writes the same names, so nothing is ever stored twice. The segment is
released only when all of its parts are on storage. While storage fails, segments wait in the WAL;
the pause between tries doubles up to a bound.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rayotel.errors import RayotelError, StorageError, WalError
from rayotel.ingest.overflow import OverflowTelling
from rayotel.ingest.wal import segments
from rayotel.ingest.wal.journal import Journal, Segment
from rayotel.ingest.wal.recent_events import StoredEvents
from rayotel.ingest.wal.segments import Damage
from rayotel.ingest.wal.stream_signals import StreamSignals
from rayotel.lake import parts
from rayotel.lake.layout import PartName, Span
from rayotel.lake.parts import HourRows
from rayotel.lake.rows import by_signal as rows
from rayotel.lake.rows.stream_memory import StreamMemories
from rayotel.lake.signal import BY_NAME, Signal
from rayotel.lake.storage.interface import Storage
from rayotel.logs import Failing, log_event
from rayotel.model import Batch, Record
from rayotel.telemetry import Telemetry

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
MAX_STREAMS_TOLD = 1000

logger = logging.getLogger(__name__)
Decode = Callable[[Record], Batch]


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


@dataclass(slots=True)
class CommittedIds:
    """Results of a commit: `ids` stored, by stream; rows `repeated`; `parts` written."""

    ids: dict[str, Sequence[str]] = field(default_factory=dict)
    repeated: int = 0
    parts: int = 0


class Committer:
    """One background thread that moves segments to storage. `start`, then `stop`."""

    def __init__(
        self,
        journal: Journal,
        storage: Storage,
        telemetry: Telemetry,
        decode: Decode,
        stored: StoredEvents,
        signals: StreamSignals,
        *,
        interval_seconds: float,
        max_label_columns: int,
    ) -> None:
        self._journal = journal
        self._storage = storage
        self._telemetry = telemetry
        self._decode = decode
        self._stored = stored
        self._signals = signals
        self._interval_seconds = interval_seconds
        self._memories = StreamMemories(max_label_columns)
        self._storage_away = Failing()
        self._stuck = Failing()
        self._told_elsewhere: set[tuple[str, str]] = set()
        self._overflow = OverflowTelling(telemetry)
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
        return not self._thread.is_alive() and self._journal.oldest_sealed() is None

    def _run(self) -> None:
        backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        due = time.monotonic() + self._interval_seconds
        while True:
            stopping = self._stopping.is_set()
            if stopping or time.monotonic() >= due:
                # while older segments wait for storage the current one may go on growing
                if self._journal.oldest_sealed() is None:
                    self._journal.seal()
                due = time.monotonic() + self._interval_seconds
            segment = self._journal.oldest_sealed()
            if segment is None:
                if stopping:
                    return
                self._wake.wait(max(0.0, due - time.monotonic()))
                self._wake.clear()
                continue
            if self._try_commit(segment):
                backoff.reset()
                continue
            if stopping and time.monotonic() >= self._deadline:
                return
            pause = backoff.pause_seconds()
            if stopping:
                time.sleep(min(pause, 1.0))
            else:
                self._stopping.wait(pause)

    def _try_commit(self, segment: Segment) -> bool:
        started = time.monotonic()
        try:
            done = self.commit(segment)
            if done.parts:
                self._storage_is_back()
            self._stored.persist(segment.number, done.ids)
            self._journal.release(segment)
            self._stored.add(segment.number, done.ids)
        except StorageError as error:
            self._telemetry.commits.labels("failed").inc()
            self._storage_failed(error)
            return False
        except Exception as error:
            self._telemetry.commits.labels("failed").inc()
            self._stuck_at(segment, error)
            return False
        self._goes_on(segment)
        self._telemetry.rows_repeated.labels("commit").inc(done.repeated)
        self._telemetry.commits.labels("done").inc()
        self._telemetry.commit_seconds.observe(time.monotonic() - started)
        return True

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

    def _stuck_at(self, segment: Segment, error: Exception) -> None:
        is_news = self._stuck.begin((segment.number, type(error)))
        known = error if isinstance(error, RayotelError) else None
        log_event(
            logger,
            logging.ERROR if is_news else logging.DEBUG,
            "a WAL segment cannot be committed and is tried again",
            error=None if known else error,
            segment=segment.number,
            reason=known.message if known else type(error).__name__,
            hint=known.hint if known else None,
        )

    def _goes_on(self, segment: Segment) -> None:
        seconds = self._stuck.end()
        if seconds is not None:
            log_event(
                logger,
                logging.INFO,
                "the WAL segment is committed",
                segment=segment.number,
                failed_seconds=seconds,
            )

    def commit(self, segment: Segment) -> CommittedIds:
        """Write every part of a segment. Raises StorageError; doing it again is harmless."""
        done = CommittedIds()
        for (stream, signal), batches in sorted(self._by_place(segment).items()):
            is_stored = functools.partial(self._stored.has, stream)
            with self._memories.of(stream) as memory:
                made = rows.tables(BY_NAME[signal], batches, memory, is_stored)
                done.repeated += made.left_out
                if made.ids:
                    done.ids[stream] = made.ids
                for hour in made.hours:
                    self._put(stream, hour, segment.number, BY_NAME[signal])
                    done.parts += 1
        return done

    def _by_place(self, segment: Segment) -> dict[tuple[str, str], list[Batch]]:
        """The batches of a segment by the stream and signal that they are stored under."""
        by_pair: dict[tuple[str, str], list[Batch]] = {}
        for batch in self._batches(segment):
            pair = batch.arrival.stream, batch.arrival.signal
            by_pair.setdefault(pair, []).append(batch)
        by_place: dict[tuple[str, str], list[Batch]] = {}
        for pair, place in self._signals.places(by_pair).items():
            stream, signal = pair
            by_place.setdefault((place, signal), []).extend(by_pair[pair])
            if place != stream:
                count = sum(batch.accepted_rows for batch in by_pair[pair])
                self._telemetry.rows_elsewhere.labels(signal).inc(count)
                self._tell_elsewhere(stream, signal, place)
        return by_place

    def _tell_elsewhere(self, stream: str, signal: str, place: str) -> None:
        """Once a stream, for every commit meets the same."""
        if (stream, signal) in self._told_elsewhere:
            return
        if len(self._told_elsewhere) >= MAX_STREAMS_TOLD:
            self._told_elsewhere.clear()
        self._told_elsewhere.add((stream, signal))
        log_event(
            logger,
            logging.WARNING,
            "a stream holds another signal: rows are stored elsewhere",
            stream=stream,
            signal=signal,
            stored_in=place,
        )

    def _put(self, stream: str, hour: HourRows, number: int, signal: Signal) -> None:
        spans = (Span(self._journal.epoch, number, number),)
        name = PartName(stream, hour.hour, self._journal.receiver, spans, 0, is_settled=False)
        content = parts.to_parquet(hour, stream, signal, "")
        self._storage.put_new(name.key, content)
        self._overflow.stored(stream, hour.overflow_rows)
        self._telemetry.parts_written.inc()
        self._telemetry.part_bytes.inc(len(content))

    def _batches(self, segment: Segment) -> list[Batch]:
        """The decoded batches of a segment: from memory, or from the WAL where memory has none."""
        if segment.batches is not None and None not in segment.batches:
            return [batch for batch in segment.batches if batch is not None]
        try:
            content = segment.path.read_bytes()
        except OSError as error:
            raise WalError(f"cannot read '{segment.path}': {error.strerror}") from None
        batches: list[Batch] = []
        position = -1
        for item in segments.read_segment(content, segment.number):
            if isinstance(item, Damage):
                self._move_aside(segment, item)
                continue
            position += 1
            if position in segment.repeated:
                continue
            try:
                batches.append(self._decode(item))
            except ValueError as error:
                # it was decoded before it was acknowledged, so this is a defect: keep the bytes
                self._telemetry.undecodable_records.inc()
                log_event(
                    logger,
                    logging.ERROR,
                    "a record of the WAL cannot be decoded again and is moved aside",
                    segment=segment.number,
                    reason=str(error),
                )
                self._move_aside(segment, Damage(0, segments.payload_of(item), tail=False))
        return batches

    def _move_aside(self, segment: Segment, damage: Damage) -> None:
        where = segments.move_aside(self._journal.directory, segment.number, damage)
        self._telemetry.damaged_bytes.labels("tail" if damage.tail else "middle").inc(
            len(damage.content)
        )
        log_event(
            logger,
            logging.WARNING if damage.tail else logging.ERROR,
            "the WAL ends with an unfinished record, which is moved aside"
            if damage.tail
            else "a WAL segment is damaged: what cannot be read is moved aside",
            segment=segment.number,
            offset=damage.offset,
            bytes=len(damage.content),
            moved_to=str(where),
        )
