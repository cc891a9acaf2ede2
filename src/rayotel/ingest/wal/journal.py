"""The WAL for the rest of the server: append and wait, seal, release, within a bound.

One thread writes. It takes all requests that wait at that moment, appends them together and pays
one fdatasync for all of them: the busier the server, the cheaper each acknowledgement. Decoded
batches wait beside their segment, up to a bound in bytes. Records beyond it, or from before a
restart, are decoded again from the WAL when their segment is committed.

A request that is sent again (see `recent_requests`) is not appended. It is answered when the first
one is durable.

The committer takes sealed segments in order. One whose late rows wait for others is held: it stays
on disk, and is released with those that it waited for.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from rayotel import durable
from rayotel.config import memory
from rayotel.errors import DataDirectoryBusy, WalError
from rayotel.ingest.wal import earlier, segments
from rayotel.ingest.wal.fill import FillLevel
from rayotel.ingest.wal.recent_requests import DIGEST_BYTES, SeenRequests
from rayotel.ingest.wal.waiting import Segment, keep_skipped, skipped_path
from rayotel.lake.layout import Span
from rayotel.logs import Failing, log_event
from rayotel.model import Batch, Record
from rayotel.telemetry import Telemetry

MAX_GROUP_RECORDS = 512
MIN_FREE_DISK_BYTES = 32 * 1024 * 1024
# A commit holds a whole segment decoded, and up to eight times that while it makes rows of it.
MAX_SEGMENT_COLUMNS_BYTES = memory.COMMIT_BYTES
# of digests of sealed segments that memory holds; those beyond it are computed again
MAX_DIGESTS_BYTES = 8 * 1024 * 1024

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    payload: bytes
    batch: Batch
    digest: bytes
    received_unix_nano: int
    done: Future[None] = field(default_factory=Future)


class Journal:
    """The open WAL of one data directory. `open` before use, `close` after; both may block."""

    def __init__(
        self,
        data_dir: Path,
        telemetry: Telemetry,
        *,
        segment_bytes: int,
        limit_bytes: int,
        max_waiting_columns_bytes: int,
        max_waiting_records: int,
        dedupe_window_seconds: int,
        max_requests_remembered: int,
    ) -> None:
        self._directory = data_dir / "wal"
        self._lock_path = data_dir / "lock"
        self._telemetry = telemetry
        self._segment_bytes = segment_bytes
        self._limit_bytes = limit_bytes
        self._max_waiting_columns_bytes = max_waiting_columns_bytes
        # written in C: a queue with a bound of its own costs a request more than its digest
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._max_waiting_records = max_waiting_records
        self._lock = threading.Lock()
        self._seen = SeenRequests(
            self._directory / "requests",
            window_seconds=dedupe_window_seconds,
            max_requests=max_requests_remembered,
        )
        self._pending: dict[bytes, Future[None]] = {}
        self._pending_lock = threading.Lock()
        self._sealed: deque[Segment] = deque()
        self._held: list[Segment] = []
        self._sealed_bytes = 0
        self._digests_bytes = 0
        self._waiting_columns_bytes = 0
        self._writer: segments.SegmentWriter | None = None
        self._current: Segment | None = None
        self._next_number = 0
        self._thread = threading.Thread(target=self._write_groups, name="wal-writer", daemon=True)
        self._lock_descriptor = -1
        self._closed = True
        self._fill = FillLevel(limit_bytes)
        self._failing = Failing()
        self.receiver = ""
        self.epoch = segments.new_epoch()
        self.first_own = 0  # the first segment of this epoch
        self.on_sealed: Callable[[], None] = lambda: None

    @property
    def directory(self) -> Path:
        """Where the segments are."""
        return self._directory

    def open(self) -> None:
        """Take the data directory, find the segments of earlier runs, start a new one."""
        self._take_data_directory()
        try:
            self.receiver = segments.receiver_id(self._directory)
            now = int(time.time())
            self._seen.load(now)
            found = earlier.segments_of(
                self._directory, self.epoch, lambda digest: self._seen.add(digest, now)
            )
            self._sealed.extend(found)
            self._sealed_bytes = sum(segment.size_bytes for segment in self._sealed)
            self._next_number = found[-1].number + 1 if found else 1
            own = [segment.number for segment in found if segment.epoch == self.epoch]
            self.first_own = min([*own, self._next_number])
            self._start_segment()
        except OSError as error:
            raise WalError(
                f"cannot open the WAL in '{self._directory}': {error.strerror}"
            ) from None
        self._closed = False
        self._report()
        self._thread.start()

    def _take_data_directory(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock_descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise WalError(
                f"cannot use the data directory '{self._lock_path.parent}': {error.strerror}",
                hint="choose another with --data-dir or RAYOTEL_DATA_DIR",
            ) from None
        try:
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_descriptor)
            raise DataDirectoryBusy(
                f"another rayotel serves the data directory '{self._lock_path.parent}'",
                hint="stop it, or give this one a --data-dir of its own",
            ) from None

    def earlier(self, digest: bytes) -> Future[None] | None:
        """The same request's first try, done or on its way; None where there was none."""
        with self._pending_lock:
            pending = self._pending.get(digest)
            if pending is None and digest in self._seen:
                pending = Future()
                pending.set_result(None)
            return pending

    def append(self, record: Record, batch: Batch, digest: bytes) -> Future[None]:
        """Queue a record; the future is done when it is durable, or fails with a WalError."""
        payload = segments.payload_of(record)
        if self._closed:
            raise WalError("the WAL is closing")
        if self.size_bytes + len(payload) > self._limit_bytes:
            self._fill.refused(self.size_bytes)
            raise WalError("the WAL is full: storage has not taken what waits in it")
        entry = _Entry(payload, batch, digest, record.arrival.received_unix_nano)
        entry.done.set_running_or_notify_cancel()  # a client that goes away cancels nothing
        with self._pending_lock:
            if self._entries.qsize() >= self._max_waiting_records:
                raise WalError("too many requests wait for the WAL")
            self._entries.put(entry)
            self._pending[digest] = entry.done
        return entry.done

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments that are not released yet."""
        current = self._writer
        return self._sealed_bytes + (current.size_bytes if current else 0)

    @property
    def waiting_bytes(self) -> int:
        """The same without what every segment begins with: 0 when nothing waits."""
        with self._lock:
            count = len(self._sealed) + len(self._held) + (self._writer is not None)
            return max(0, self.size_bytes - count * segments.HEADER_BYTES)

    @property
    def limit_bytes(self) -> int:
        """The bound of `size_bytes`."""
        return self._limit_bytes

    @property
    def numbers(self) -> set[int]:
        """The numbers of all segments that are not released."""
        with self._lock:
            return {segment.number for segment in (*self._sealed, *self._held)}

    @property
    def written(self) -> Span | None:
        """The segments of this run's epoch that are wholly on storage; None: none."""
        with self._lock:
            waiting = [segment.number for segment in (*self._sealed, *self._held)]
            last = min([*waiting, self._next_number - 1]) - 1
        return Span(self.epoch, 0, last) if last >= 0 else None

    @property
    def oldest_unix(self) -> float | None:
        """When the oldest record that is not committed arrived, seconds since 1970; None: none."""
        with self._lock:
            waiting = [*self._held[:1], *([self._sealed[0]] if self._sealed else [])]
            if waiting:
                return min(segment.oldest_unix for segment in waiting)
            has_records = self._current is not None and self._current.batches
            return self._current.oldest_unix if self._current and has_records else None

    def _write_groups(self) -> None:
        stopping = False
        while not stopping:
            group: list[_Entry] = []
            entry = self._entries.get()
            while entry is not None:
                group.append(entry)
                if len(group) >= MAX_GROUP_RECORDS:
                    break
                try:
                    entry = self._entries.get_nowait()
                except queue.Empty:
                    break
            stopping = entry is None
            if group:
                self._write_group(group)

    def _write_group(self, group: list[_Entry]) -> None:
        failure: WalError | None = None
        try:
            with self._lock:
                self._append_locked(group)
        except WalError as error:
            failure = error
        except Exception as error:  # the thread must outlive any surprise: requests wait for it
            log_event(logger, logging.ERROR, "unexpected error in the WAL", error=error)
            failure = WalError(f"the WAL failed: {type(error).__name__}")
        self._tell(failure)
        now = int(time.time())
        for entry in group:
            with self._pending_lock:
                self._pending.pop(entry.digest, None)
                if failure is None:
                    self._seen.add(entry.digest, now)
            if failure is None:
                entry.done.set_result(None)
            else:
                entry.done.set_exception(failure)
        self._report()

    def _tell(self, failure: WalError | None) -> None:
        """Report that requests are refused from now on, or are taken again."""
        if failure is None:
            seconds = self._failing.end()
            if seconds is not None:
                log_event(logger, logging.INFO, "the WAL is written again", failed_seconds=seconds)
        elif self._failing.begin():
            log_event(
                logger,
                logging.ERROR,
                "the WAL cannot be written: requests are answered 503",
                reason=failure.message,
            )

    def _append_locked(self, group: list[_Entry]) -> None:
        free = shutil.disk_usage(self._directory).free
        if free < MIN_FREE_DISK_BYTES + sum(len(entry.payload) for entry in group):
            raise WalError("the disk of the WAL is full")
        if self._writer is None:
            self._start_segment()
        if self._writer is None or self._current is None:
            raise WalError("the WAL has no segment")
        started = time.monotonic()
        try:
            self._writer.append([entry.payload for entry in group])
        except WalError:
            if self._writer.broken:
                self._seal_locked()
            raise
        self._telemetry.fsync_seconds.observe(time.monotonic() - started)
        self._keep_batches([entry.batch for entry in group])
        for entry in group:
            self._current.note(entry.digest, entry.received_unix_nano)
        self._current.size_bytes = self._writer.size_bytes
        is_large = self._current.columns_bytes >= MAX_SEGMENT_COLUMNS_BYTES
        if is_large or self._writer.size_bytes >= self._segment_bytes:
            self._seal_locked()

    def _keep_batches(self, batches: list[Batch]) -> None:
        segment = self._current
        if segment is None or segment.batches is None:
            return
        if not segment.batches:
            segment.oldest_unix = time.time()
        for batch in batches:
            size = batch.memory_bytes
            segment.columns_bytes += size
            if self._waiting_columns_bytes + size > self._max_waiting_columns_bytes:
                segment.batches.append(None)
                continue
            self._waiting_columns_bytes += size
            segment.waiting_bytes += size
            segment.batches.append(batch)

    def _start_segment(self) -> None:
        # a number whose file could not be made is not used again
        number = self._next_number
        self._next_number += 1
        writer = segments.SegmentWriter(self._directory, number, self.epoch)
        self._writer = writer
        self._current = Segment(
            number, self.epoch, writer.path, writer.size_bytes, time.time(), batches=[]
        )

    def _seal_locked(self) -> None:
        writer, segment = self._writer, self._current
        if writer is None or segment is None:
            return
        writer.close()
        self._writer = self._current = None
        if segment.digests is not None:
            self._digests_bytes += len(segment.digests)
            if self._digests_bytes > MAX_DIGESTS_BYTES:
                self._digests_bytes -= len(segment.digests)
                segment.digests = None
        self._sealed.append(segment)
        self._sealed_bytes += segment.size_bytes
        self.on_sealed()

    def seal(self) -> None:
        """Close the current segment if it has records, so that it can be committed."""
        with self._lock:
            if self._writer is not None and self._writer.records:
                self._seal_locked()

    def oldest_sealed(self) -> Segment | None:
        """The next segment to commit."""
        with self._lock:
            return self._sealed[0] if self._sealed else None

    def decide(self, segment: Segment, fresh_from_hour: int) -> int:
        """Seal a segment durably, before its first part; returns the first hour of fresh rows.

        A segment that was sealed before keeps what was decided then. Raises WalError.
        """
        if segment.fresh_from_hour is None:
            if segment.skipped:
                keep_skipped(segment)
            segments.seal(
                segment.path,
                segments.Header(
                    segment.number, segment.epoch, segment.size_bytes, segment.records,
                    fresh_from_hour, segment.earlier_epoch,
                ),
            )  # fmt: skip
            segment.fresh_from_hour = fresh_from_hour
        return segment.fresh_from_hour

    def hold(self, segment: Segment) -> None:
        """The oldest segment's fresh rows are stored; it stays for its late rows."""
        with self._lock:
            self._sealed.remove(segment)
            self._held.append(segment)

    @property
    def held(self) -> list[Segment]:
        """Segments whose late rows wait, in order."""
        with self._lock:
            return [*self._held]

    def release(self, some: Sequence[Segment]) -> None:
        """Forget committed segments. Raises WalError where a file cannot be removed.

        The last one goes first: what is then left of a group is a part of what is stored.
        """
        for segment in reversed(some):
            self._release(segment)
        self._report()

    def _release(self, segment: Segment) -> None:
        digests = segment.digests
        if digests is None:
            digests = earlier.digests_of(segment)
        with self._lock:
            if self._writer is None:
                # the highest number must stay on disk: start its successor before removing it
                self._start_segment()
            try:
                # from here on only the files of `seen` know these requests
                several = range(0, len(digests), DIGEST_BYTES)
                self._seen.persist(
                    [bytes(digests[at : at + DIGEST_BYTES]) for at in several],
                    segment.number,
                    int(time.time()),
                )
                durable.remove(segment.path)
                if segment.skipped:
                    durable.remove(skipped_path(segment.path))
            except OSError as error:
                raise WalError(f"cannot release '{segment.path}': {error.strerror}") from None
            (self._held if segment in self._held else self._sealed).remove(segment)
            self._sealed_bytes -= segment.size_bytes
            self._waiting_columns_bytes -= segment.waiting_bytes
            if segment.digests is not None:
                self._digests_bytes -= len(segment.digests)

    def _report(self) -> None:
        size_bytes = self.size_bytes
        self._telemetry.wal_bytes.set(size_bytes)
        self._fill.update(size_bytes)
        oldest = self.oldest_unix
        self._telemetry.oldest_uncommitted.set(oldest if oldest is not None else 0)

    def stop_appending(self) -> None:
        """Write what is queued, then take no more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._entries.put(None)
        self._thread.join()

    def close(self) -> None:
        """Let go of the data directory. Idempotent."""
        self.stop_appending()
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        if self._lock_descriptor >= 0:
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1
