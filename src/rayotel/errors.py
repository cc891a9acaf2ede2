"""What can go wrong, one class per decision that a caller can take.

RayotelError
├── UsageError              the command or a setting is wrong: never retry as it is, exit code 2
├── QueryError              the SQL is wrong, forbidden or took too much: never retry as it is
│   └── PartRemoved         a part went away meanwhile: ask again
├── BrokenInstallation      a library does something else than rayotel needs: install another first
├── DataDirectoryBusy       another server has the data directory: retry when it is gone
├── RequestRefused          an HTTP request is answered with an error status
│   ├── NeverAcceptable     4xx: the same request can never be accepted, the sender may drop it
│   └── TryLater            503: nothing is wrong with the request, the sender shall retry
├── LakeError               parts do not hold what their names promise: never retry as it is
├── WalError                the write-ahead log (WAL) could not make a record durable: retry
└── StorageError            the storage did not do what was asked
    ├── StorageMissing      the object is not there: never retry
    ├── StorageDenied       credentials or permissions: retry once somebody mended them
    └── StorageUnavailable  unreachable, slow, failing or full: retry; a write MAY have landed
"""

from __future__ import annotations


class RayotelError(Exception):
    """The root. `hint` says what to do, in one sentence, for people."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RayotelError):
    """A command line, a setting or a recording that cannot be used. Never retry as it is."""

    exit_code = 2


class QueryError(RayotelError):
    """SQL that is wrong, forbidden, or beyond the session's limits. Never retry as it is."""


class PartRemoved(QueryError):
    """Compaction or retention let a part go while a question was about to read it. Ask again."""

    def __init__(self) -> None:
        super().__init__(
            "a part was removed while the question ran: compaction or retention let it go",
            hint="ask again",
        )


class BrokenInstallation(RayotelError):
    """A library does not do what rayotel needs. Never retry before another version is there."""


class DataDirectoryBusy(RayotelError):
    """Another process holds the data directory. Retry when it has ended."""


class RequestRefused(RayotelError):
    """An HTTP request that is answered with an error. Its subclass says whether to retry."""

    def __init__(
        self,
        http_status: int,
        message: str,
        *,
        hint: str | None = None,
        allowed_methods: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.http_status = http_status
        self.allowed_methods = allowed_methods


class NeverAcceptable(RequestRefused):
    """The same request can never be accepted. Never retry."""


class TryLater(RequestRefused):
    """The request is fine and the server cannot take it now. Retry after the given time."""

    def __init__(self, http_status: int, message: str, retry_after_seconds: int) -> None:
        super().__init__(http_status, message)
        self.retry_after_seconds = retry_after_seconds


class WalError(RayotelError):
    """The WAL has no room or its disk failed; the record did not land. Retry."""


class LakeError(RayotelError):
    """A part that is damaged or is none. Never retry before it is moved aside."""


class StorageError(RayotelError):
    """The storage refused or failed. Its subclass says whether a retry can help."""


class StorageMissing(StorageError):
    """No such object, bucket or directory. Never retry."""


class StorageDenied(StorageError):
    """The storage knows us not or forbids it. Retry once the credentials are mended."""


class StorageUnavailable(StorageError):
    """The storage is unreachable, slow, full or failing. Retry; a write may have landed."""
