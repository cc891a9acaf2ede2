"""The interface of a storage: bytes by key.

Two implementations stand beside this file: `directory` and `s3`. They make no decisions. Every
error that leaves them is a `StorageError`, whose class decides whether a retry can help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

MAX_PARALLEL_REQUESTS = 16

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing shows it; `key` is relative to the lake.

    `written_unix`: when it was written by the storage's clock, seconds since 1970.
    """

    key: str
    size_bytes: int
    written_unix: float


@dataclass(frozen=True, slots=True)
class S3Access:
    """What another client needs to read the same bucket. Never log it: it holds secrets."""

    endpoint: str
    region: str
    key_id: str
    secret: str
    session_token: str

    def __repr__(self) -> str:
        return f"S3Access(endpoint={self.endpoint!r}, region={self.region!r})"


class Storage(Protocol):
    """Objects by key. Keys are relative, with `/` between their parts."""

    @property
    def url(self) -> str:
        """The lake's address, without a slash at its end: an absolute directory or `s3://...`."""

    def access(self) -> S3Access | None:
        """What another client needs to read a bucket; None for a directory."""

    def put(self, key: str, content: memoryview) -> None:
        """Write an object whole and durably. Raises if it may not be there afterwards."""

    def put_new(self, key: str, content: memoryview) -> bool:
        """Write an object whole and durably unless the key is taken. False: it was taken.

        Also false where an earlier try of this very call has landed, for nobody can tell. What is
        there in either case is whole and durable. Raises if neither may be so.
        """

    def put_new_file(self, key: str, path: Path) -> bool:
        """Like `put_new`, from a file: for objects larger than memory should hold."""

    def fetch(self, key: str, path: Path) -> None:
        """Copy an object into a file. Raises StorageMissing where there is none."""

    def read(self, key: str) -> bytes:
        """All bytes of an object. Raises StorageMissing where there is none."""

    def read_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        """Some bytes of an object; fewer where it ends. Raises StorageMissing."""

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose key begins with `prefix`, in no promised order."""

    def unfinished(self) -> Iterator[StoredObject]:
        """Leftovers of writes that never ended; no listing of objects shows them."""

    def folders(self, prefix: str) -> list[str]:
        """Names directly below `prefix` (which ends with `/` or is empty) that have objects."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""

    def close(self) -> None:
        """Let go of connections."""


def side_by_side(ask: Callable[[Asked], Answer], items: Iterable[Asked]) -> Iterator[Answer]:
    """Requests to a storage, several at once; answers in the order asked. The first error ends it.

    A bucket answers after a wait, which many requests can share.
    """
    from concurrent.futures import ThreadPoolExecutor  # most questions need no request of many

    with ThreadPoolExecutor(MAX_PARALLEL_REQUESTS, thread_name_prefix="storage") as pool:
        try:
            yield from pool.map(ask, items)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
