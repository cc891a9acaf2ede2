"""A receiver without HTTP: its WAL is committed step by step, and it may crash."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rayotel import durable
from rayotel.ingest.commit.committer import Committer
from rayotel.ingest.commit.late import LateHours
from rayotel.ingest.commit.naming import Names
from rayotel.ingest.commit.reading import Reader
from rayotel.ingest.commit.writing import Writer
from rayotel.ingest.decode.decoder import Decoder
from rayotel.ingest.wal.journal import Journal
from rayotel.ingest.wal.recent_events import StoredEvents
from rayotel.ingest.wal.recent_requests import digest_of
from rayotel.ingest.wal.stream_signals import StreamSignals
from rayotel.lake import claims
from rayotel.lake.storage.directory import DirectoryStorage
from rayotel.lake.storage.interface import Storage
from rayotel.model import PROTOBUF, Arrival, Record
from rayotel.telemetry import Telemetry
from support.harness import ask, gauge_request


class Crash(BaseException):
    """The process is gone from here on."""


@contextlib.contextmanager
def crashing(storage: Watched, at: int, *, is_after: bool) -> Iterator[None]:
    """The process is gone before or after the next write number `at`, of the disk or the lake."""
    left = [at]

    def reached(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            if not is_after:
                reached()
            result = function(*args)
            if is_after:
                reached()
            return result

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name in ("overwrite", "append", "replace_file", "remove", "rename"):
            patch.setattr(durable, name, wrapped(getattr(durable, name)))
        setattr(storage, "after" if is_after else "before", reached)
        with contextlib.suppress(Crash):
            yield
        storage.before = storage.after = id


class Watched(DirectoryStorage):
    """A directory that knows what was written under each name, and may crash before or after it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.contents: dict[str, bytes] = {}
        self.overwritten: list[str] = []
        self.before: Callable[[str], object] = id
        self.after: Callable[[str], object] = id

    def put_new(self, key: str, content: memoryview) -> bool:
        """Write, and note what was written."""
        self.before(key)
        is_new = super().put_new(key, content)
        if is_new and self.contents.setdefault(key, bytes(content)) != bytes(content):
            self.overwritten.append(key)
        self.after(key)
        return is_new


class Run:
    """One run of a receiver over a data directory; nothing happens by itself."""

    def __init__(
        self,
        data_dir: Path,
        storage: Storage,
        *,
        late_wait_seconds: float = 300.0,
        late_after_seconds: float = 900.0,
    ) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.storage = storage
        self.telemetry = Telemetry()
        self.decoder = Decoder(max_inflated_body_bytes=1 << 26, max_series_cached_bytes=1 << 22)
        self.journal = Journal(
            data_dir,
            self.telemetry,
            segment_bytes=1 << 24,
            limit_bytes=1 << 30,
            max_waiting_columns_bytes=1 << 24,
            max_waiting_records=1000,
            dedupe_window_seconds=3600,
            max_requests_remembered=10_000,
        )
        self.stored = StoredEvents(self.journal.directory / "events", max_events=10_000)
        self.signals = StreamSignals(
            self.journal.directory / "signals.json",
            lambda stream: claims.holder(storage, stream),
            lambda wanted: claims.settle(storage, wanted, self.journal.receiver, id),
            max_streams=1000,
        )
        names = Names()
        self.late = LateHours(
            self.journal,
            names,
            wait_seconds=late_wait_seconds,
            after_seconds=late_after_seconds,
        )
        self.writer = Writer(
            storage, self.telemetry, self.stored, self.signals, self.journal, max_label_columns=512
        )
        self.committer = Committer(
            self.journal,
            Reader(self.journal.directory, self.decoder.decode, self.telemetry),
            self.writer,
            names,
            self.late,
            self.stored,
            self.telemetry,
            interval_seconds=5.0,
        )
        self.journal.open()
        self.signals.open()
        names.open(self.journal.epoch, self.journal.first_own)
        self.late.open()
        self.stored.open(self.journal.numbers)

    def take(self, body: bytes, stream: str = "raymetrics", **more: Any) -> bool:
        """Acknowledge one request; False: it was sent before."""
        how: dict[str, Any] = {"signal": "metrics", "content_type": PROTOBUF, **more}
        arrival = Arrival(
            stream=stream, content_encoding="identity", received_unix_nano=time.time_ns(),
            source_ip="127.0.0.1", user_agent="t", **how,
        )  # fmt: skip
        record = Record(arrival, body)
        digest = digest_of(record)
        if self.journal.earlier(digest) is not None:
            return False
        self.journal.append(record, self.decoder.decode(record), digest).result(60)
        return True

    def numbers(self, numbers: Iterable[int], hour: int, stream: str = "raymetrics") -> None:
        """Acknowledge a point for each number, all of an hour."""
        for number in numbers:
            self.take(gauge_request(number, time_unix_nano=hour * 3600 * 10**9 + number), stream)

    def step(self, *, stopping: bool = False, tries: int = 1) -> bool:
        """Do what there is to commit now, each piece up to so often; whether all of it worked."""
        self.journal.seal()
        while (work := self.committer._next_work(stopping)) is not None:
            if not any(self.committer._try(*work) for _ in range(tries)):
                return False
        return True

    def finish(self, tries: int = 1) -> bool:
        """Commit everything, as a server does that stops, and let go of the data directory."""
        done = self.step(stopping=True, tries=tries)
        self.end()
        return done

    def end(self) -> None:
        """The process ends, with all that the WAL holds."""
        self.journal.close()
        self.signals.close()


def values(storage: Storage, stream: str = "raymetrics") -> list[int]:
    """The values of all points of a stream, sorted."""
    rows = ask(storage, f'SELECT data_point_value AS v FROM "{stream}" ORDER BY v')
    return [int(row["v"]) for row in rows]


def keys(storage: Storage) -> list[str]:
    """The keys of all parts."""
    found = [item.key for item in storage.objects("")]
    return sorted(key for key in found if key.endswith(".parquet"))


def aside(data_dir: Path, folder: str = "damaged") -> Sequence[str]:
    """Names of files that were moved aside, or asked back."""
    where = data_dir / "wal" / folder
    return sorted(path.name for path in where.iterdir()) if where.is_dir() else []
