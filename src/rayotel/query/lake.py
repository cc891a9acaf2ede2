"""A lake for all readers: one object with its storage, its bounds, its cache and its processes."""

from __future__ import annotations

import contextlib
import functools
import json
import pickle
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rayotel import errors
from rayotel.config import Settings
from rayotel.errors import PartRemoved, QueryError, RayotelError
from rayotel.lake import catalog
from rayotel.lake.storage.interface import Storage
from rayotel.model import TimeRange
from rayotel.query.place import Form, Place, Question, cache_of, opened
from rayotel.query.process import frames
from rayotel.query.process.asking import Running, Supervised
from rayotel.query.process.limits import Limits
from rayotel.query.result import Result, Text

if TYPE_CHECKING:
    import pyarrow as pa

    from rayotel.lake.cache import Cache
    from rayotel.query.ray.definitions import Streams

WORKER = "rayotel.query.worker"
MAX_QUESTIONS_AT_ONCE = 8


class Lake:
    """Reads one storage. Safe for several threads: each question has a process of its own.

    The first question starts a process that imports what questions need, and stays. `with` starts
    it at once and ends it: where that comes before any heavy import, it costs least.
    """

    def __init__(
        self,
        storage: Storage | Place,
        limits: Limits,
        *,
        cache: Cache | None = None,
        reads: Streams | None = None,
    ) -> None:
        """A place is opened when it is needed. `reads`: the streams that the views of Ray read."""
        self.limits = limits
        self._given = storage
        self._cache = cache
        self._reads = reads
        self._supervised: Supervised | None = None
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_QUESTIONS_AT_ONCE)

    def __enter__(self) -> Lake:
        self._processes().start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes. Idempotent; the next question starts another."""
        if self._supervised is not None:
            self._supervised.close()

    @functools.cached_property
    def storage(self) -> Storage:
        """The storage, for what is no question."""
        given = self._given
        return opened(given) if isinstance(given, Place) else given

    @functools.cached_property
    def cache(self) -> Cache | None:
        """What this disk keeps of the lake."""
        return cache_of(self._given) if isinstance(self._given, Place) else self._cache

    @functools.cached_property
    def reads(self) -> Streams:
        """The streams that the views of Ray read."""
        from rayotel.query.ray.definitions import Streams

        if isinstance(self._given, Place):
            return Streams(self._given.metrics_stream, self._given.events_stream)
        return self._reads or Streams()

    def streams(self) -> list[str]:
        """Names of all streams, sorted. Raises StorageError."""
        return catalog.streams(self.storage)

    @contextlib.contextmanager
    def ask(
        self,
        sql: str,
        range_: TimeRange | None = None,
        parameters: Mapping[str, object] | None = None,
        *,
        unlocked: bool = False,
    ) -> Iterator[Result]:
        """One question, open while the result is read. Raises QueryError, StorageError, LakeError.

        Where a part goes away before the first rows come, the question is asked again, once, of
        what there is by then. Unlocked SQL is not: it may have written.
        """
        question = Question(sql, range_ or TimeRange(), dict(parameters or {}), unlocked, None)
        with self._running(question) as (running, begun):
            yield Result(_schema(begun), _batches(running))

    @contextlib.contextmanager
    def ask_for_text(
        self,
        form: Form,
        sql: str,
        range_: TimeRange | None = None,
        parameters: Mapping[str, object] | None = None,
        *,
        unlocked: bool = False,
        reader: int | None = None,
    ) -> Iterator[Text]:
        """Like `ask`, for an answer in a format: its process writes it, within the same bounds.

        `reader`: the descriptor that it will be written to. Where nobody can read from it any
        more, the question is ended with BrokenPipeError.
        """
        question = Question(sql, range_ or TimeRange(), dict(parameters or {}), unlocked, form)
        with self._running(question, reader) as (running, _):
            yield Text(functools.partial(_received, running, reader))

    @contextlib.contextmanager
    def _running(
        self, question: Question, reader: int | None = None
    ) -> Iterator[tuple[Running, bytearray]]:
        if not self._places.acquire(timeout=self.limits.timeout_seconds):
            raise QueryError("too many questions at once", hint="ask again when others are done")
        try:
            asked = pickle.dumps(question)
            for is_last in (question.unlocked, True):
                with contextlib.closing(self._ask(asked, question.unlocked)) as running:
                    try:
                        _, begun = _received(running, reader)
                    except PartRemoved:
                        if is_last:
                            raise
                        continue
                    yield running, begun
                    return
        finally:
            self._places.release()

    def _ask(self, asked: bytes, unlocked: bool) -> Running:
        running = self._processes().ask(self.limits, may_write=unlocked)
        running.send(frames.QUESTION, asked)
        return running

    def _processes(self) -> Supervised:
        with self._lock:
            if self._supervised is None:
                self._supervised = Supervised(WORKER, self._place())
            return self._supervised

    def _place(self) -> Place:
        given = self._given
        if isinstance(given, Place):
            return given
        access = given.access()
        return Place(
            url=given.url,
            s3_endpoint=access.endpoint if access else "",
            s3_region=access.region if access else "",
            limits=self.limits,
            cache_dir=self._cache.directory if self._cache else None,
            cache_bytes=self._cache.max_copies_bytes if self._cache else 0,
            metrics_stream=self.reads.metrics,
            events_stream=self.reads.events,
        )


def _received(running: Running, reader: int | None = None) -> tuple[bytes, bytearray]:
    """The next message of an answer; its error is raised."""
    kind, content = running.receive(reader)
    if kind == frames.ERROR:
        raise _error(json.loads(content))
    return kind, content


def _error(content: Mapping[str, str]) -> Exception:
    """The error of another process as one of this process."""
    if "class" not in content:
        return RuntimeError(content["message"])
    kind = getattr(errors, content["class"])
    if kind is PartRemoved:
        return PartRemoved()
    error: RayotelError = kind(content["message"], hint=content["hint"])
    return error


def _schema(content: bytearray) -> pa.Schema:
    import pyarrow as pa  # what is asked for as text needs none

    return pa.ipc.open_stream(pa.py_buffer(content)).schema


def _batches(running: Running) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    while (message := _received(running))[0] == frames.ROWS:
        yield from pa.ipc.open_stream(pa.py_buffer(message[1]))


def lake_of(settings: Settings) -> Lake:
    """The lake that the settings name. Touches nothing yet; raises UsageError."""
    limits = Limits(
        settings.query_memory_bytes, settings.query_threads, settings.query_timeout_seconds
    )
    place = Place(
        url=settings.storage_url,
        s3_endpoint=settings.s3_endpoint,
        s3_region=settings.s3_region,
        limits=limits,
        cache_dir=settings.cache_dir if settings.cache_bytes else None,
        cache_bytes=settings.cache_bytes,
        metrics_stream=settings.metrics_stream,
        events_stream=settings.events_stream,
    )
    return Lake(place, limits)
