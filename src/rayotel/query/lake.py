"""A lake for all readers: one object with its storage, its bounds and its cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from rayotel.config import Settings
from rayotel.errors import PartRemoved
from rayotel.lake import catalog
from rayotel.lake.cache import Cache
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import storage_of
from rayotel.model import TimeRange
from rayotel.query.ray.definitions import Streams
from rayotel.query.result import Result
from rayotel.query.session import Limits, Session


class Lake:
    """Reads one storage. Safe for several threads: each question has a session of its own.

    `reads`: the streams that the views of Ray read.
    """

    def __init__(
        self,
        storage: Storage,
        limits: Limits,
        *,
        cache: Cache | None = None,
        reads: Streams | None = None,
    ) -> None:
        self.storage = storage
        self.limits = limits
        self.cache = cache
        self.reads = reads or Streams()

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
        for is_last in (unlocked, True):
            with contextlib.ExitStack() as stack:
                try:
                    result = stack.enter_context(self._session(sql, range_, unlocked)).run(
                        sql, parameters
                    )
                    result.begin()
                except PartRemoved:
                    if is_last:
                        raise
                    continue
                yield result
                return

    def _session(self, sql: str, range_: TimeRange | None, unlocked: bool) -> Session:
        return Session(
            self.storage,
            range_ or TimeRange(),
            self.limits,
            mentioned_in=sql,
            unlocked=unlocked,
            cache=self.cache,
            reads=self.reads,
        )


def lake_of(settings: Settings) -> Lake:
    """The lake that the settings name. Touches nothing yet; raises UsageError."""
    storage = storage_of(settings, longest_wait_seconds=settings.query_timeout_seconds)
    limits = Limits(
        settings.query_memory_bytes, settings.query_threads, settings.query_timeout_seconds
    )
    cache = None
    if settings.cache_bytes:
        cache = Cache(settings.cache_dir, settings.cache_bytes)
    reads = Streams(settings.metrics_stream, settings.events_stream)
    return Lake(storage, limits, cache=cache, reads=reads)
