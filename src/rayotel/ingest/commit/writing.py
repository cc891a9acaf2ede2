"""A group of segments becomes parts. All are made before the first is put.

A part's name lists the segments that it holds, and its footer has a digest of their records. Where
an object of that name exists with the same digest, it is this part. Where it has another, the part
is written under an epoch of this start: no name is ever written with two contents.
"""

from __future__ import annotations

import functools
import itertools
import logging
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rayotel.errors import StorageUnavailable, WalError
from rayotel.ingest.commit.naming import Place
from rayotel.ingest.commit.overflow import OverflowTelling
from rayotel.ingest.wal import segments
from rayotel.ingest.wal.journal import Journal
from rayotel.ingest.wal.recent_events import StoredEvents
from rayotel.ingest.wal.stream_signals import StreamSignals
from rayotel.lake import cache, layout, parts
from rayotel.lake.layout import OLD_EPOCH, Part, PartName, Span, Spans
from rayotel.lake.rows import by_signal as rows
from rayotel.lake.rows.stream_memory import StreamMemories
from rayotel.lake.rows.tables import every_hour
from rayotel.lake.signal import BY_NAME
from rayotel.lake.storage.interface import MAX_PARALLEL_REQUESTS, Storage, side_by_side
from rayotel.logs import Once, log_event
from rayotel.model import Batch
from rayotel.telemetry import Telemetry

# parts that are made and not put yet; beyond it they are on the disk
MAX_MADE_BYTES = 16 * 1024 * 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Names of the parts of a group. `source`: the digest of their records.

    `earlier`: where parts from the same records may be already, of one segment that had another
    epoch before.
    """

    receiver: str
    spans: Callable[[Place], Spans]
    source: str
    earlier: Span | None = None


@dataclass(slots=True)
class Made:
    """Results of a commit: `ids` stored, by stream; rows `repeated`; the `places` of its parts.

    `overflow_rows`: by stream, those with a label that found no column.
    """

    ids: dict[str, Sequence[str]] = field(default_factory=dict)
    repeated: int = 0
    places: list[Place] = field(default_factory=list)
    overflow_rows: Counter[str] = field(default_factory=Counter)


class _Spool:
    """Parts that were made and are not put yet: in memory, beyond a bound in a file."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(MAX_MADE_BYTES, dir=str(directory))  # noqa: SIM115
        self._names: list[tuple[PartName, int]] = []

    def add(self, name: PartName, content: memoryview) -> None:
        """Keep a part."""
        self._file.write(content)
        self._names.append((name, len(content)))

    def __iter__(self) -> Iterator[tuple[PartName, memoryview]]:
        self._file.seek(0)
        for name, size_bytes in self._names:
            yield name, memoryview(self._file.read(size_bytes))

    def close(self) -> None:
        """Let go of all."""
        self._file.close()


class Writer:
    """Makes and puts the parts of one receiver."""

    def __init__(
        self,
        storage: Storage,
        telemetry: Telemetry,
        stored: StoredEvents,
        signals: StreamSignals,
        journal: Journal,
        *,
        max_label_columns: int,
    ) -> None:
        self._storage = storage
        self._telemetry = telemetry
        self._stored = stored
        self._signals = signals
        self._journal = journal
        self._max_label_columns = max_label_columns
        self._memories = StreamMemories(max_label_columns)
        self._overflow = OverflowTelling(telemetry)
        self._told_elsewhere = Once()

    def write(
        self, batches: Sequence[Batch], wanted: Callable[[int], bool], target: Target
    ) -> Made:
        """Store the rows of `batches` whose hour is `wanted`. Raises StorageError, WalError."""
        made = Made()
        try:
            spool = _Spool(self._journal.directory)
            try:
                for name, content in self._made(batches, wanted, target, made):
                    spool.add(name, content)
                self._put_all(spool, target)
            finally:
                spool.close()
        except OSError as error:
            if error.errno is None:  # Arrow's own, about the content
                raise
            raise WalError(f"cannot keep parts on the disk: {error.strerror}") from None
        for stream, count in made.overflow_rows.items():
            self._overflow.stored(stream, count)
        return made

    def prove(self, batches: Sequence[Batch]) -> None:
        """Make the parts of these batches, put each under a name that nobody reads, and remove it.

        Raises whatever a commit of them would raise.
        """
        target = Target("0" * 12, lambda _: (Span(OLD_EPOCH, 0, 0),), "")
        memories, self._memories = self._memories, StreamMemories(self._max_label_columns)
        try:
            for _, content in self._made(batches, every_hour, target, Made()):
                key = layout.probe_key(uuid.uuid4().hex)
                self._storage.put_new(key, content)
                self._storage.delete(key)
        finally:
            self._memories = memories

    def _made(
        self,
        batches: Sequence[Batch],
        wanted: Callable[[int], bool],
        target: Target,
        made: Made,
    ) -> Iterator[tuple[PartName, memoryview]]:
        """All parts, one after another."""
        for (stream, signal), some in sorted(self._by_place(batches).items()):
            is_stored = functools.partial(self._stored.has, stream)
            with self._memories.of(stream) as memory:
                tables = rows.tables(BY_NAME[signal], some, memory, is_stored, wanted)
                made.repeated += tables.left_out
                if tables.ids:
                    made.ids[stream] = tables.ids
                for hour_rows in tables.hours:
                    place = stream, hour_rows.hour
                    name = PartName(*place, target.receiver, target.spans(place), 0, False)
                    made.places.append(place)
                    made.overflow_rows[stream] += hour_rows.overflow_rows
                    yield name, parts.to_parquet(hour_rows, stream, BY_NAME[signal], target.source)

    def _by_place(self, batches: Sequence[Batch]) -> dict[tuple[str, str], list[Batch]]:
        """Batches by the stream and signal that they are stored under."""
        by_pair: dict[tuple[str, str], list[Batch]] = {}
        for batch in batches:
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
        if not self._told_elsewhere.is_news((stream, signal)):
            return
        log_event(
            logger,
            logging.WARNING,
            "a stream holds another signal: rows are stored elsewhere",
            stream=stream,
            signal=signal,
            stored_in=place,
        )

    def _put_all(self, spool: _Spool, target: Target) -> None:
        """Put all parts, some at once: each waits for a disk or a server."""
        made = iter(spool)
        while some := list(itertools.islice(made, MAX_PARALLEL_REQUESTS)):
            if len(some) == 1:
                self._put(some[0], target)
            else:
                for _ in side_by_side(lambda one: self._put(one, target), some):
                    pass

    def _put(self, made: tuple[PartName, memoryview], target: Target) -> None:
        name, content = made
        source = target.source
        if target.earlier is not None and self._was_put(name, target.earlier, source):
            return
        for epoch in ("", self._journal.epoch, segments.new_epoch(), segments.new_epoch()):
            own = name if not epoch else _in_epoch(name, epoch)
            if self._storage.put_new(own.key, content):
                self._telemetry.parts_written.inc()
                self._telemetry.part_bytes.inc(len(content))
                return
            if self._is_there(own, source):
                return
            log_event(
                logger,
                logging.WARNING,
                "a part's name is taken by another part: it is written under another name",
                key=own.key,
            )
        raise StorageUnavailable(f"cannot find a free name for '{name.key}'")

    def _was_put(self, name: PartName, earlier: Span, source: str) -> bool:
        """Whether a part from the same records is there under the segment's earlier epoch."""
        prefix = layout.hour_prefix(name.stream, name.hour, is_settled=False)
        for item in self._storage.objects(prefix):
            other = layout.parse_key(item.key)
            if (
                other is not None
                and (other.receiver, other.level) == (name.receiver, 0)
                and len(other.spans) == 1
                and other.spans[0].holds(earlier)
                and self._is_there(other, source)
            ):
                return True
        return False

    def _is_there(self, name: PartName, source: str) -> bool:
        """Whether the object of this name was made from the same records."""
        found = [item for item in self._storage.objects(name.key) if item.key == name.key]
        if not found:
            return False
        part = Part(name, found[0].size_bytes, found[0].written_unix)
        known = cache.footers(self._storage, [part], None)[0].source
        is_old = not known and all(span.epoch == OLD_EPOCH for span in name.spans)
        return known == source or is_old


def _in_epoch(name: PartName, epoch: str) -> PartName:
    """The same part under the numbers of another epoch."""
    first, last = name.spans[0].first, name.spans[-1].last
    return replace(name, spans=(Span(epoch, min(first, last), max(first, last)),))
