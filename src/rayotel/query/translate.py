"""DuckDB's errors in rayotel's own classes: the only place that reads them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import duckdb

from rayotel.errors import PartRemoved, QueryError
from rayotel.query.process.limits import TOO_MUCH_HINT

_GONE = re.compile(r"\.parquet/\*\*/|No files found that match|No such file or directory")
_INTERRUPTED = "Query interrupted"
_HTTP_FAILED = re.compile(r"HTTP Error: | error for HTTP ")
_UNREACHABLE_HINT = (
    "is the storage reachable, and are the credentials right? see RAYOTEL_S3_ENDPOINT, AWS_*"
)
_HINTS: tuple[tuple[type[duckdb.Error], str], ...] = (
    (
        duckdb.PermissionException,
        "a session only reads its lake; --unlocked gives all of DuckDB on your own machine",
    ),
    (
        duckdb.OutOfMemoryException,
        TOO_MUCH_HINT,
    ),
    (duckdb.CatalogException, "'rayotel streams' lists the streams, each a table of its name"),
)


@contextlib.contextmanager
def translated(*, is_own_sql: bool = False) -> Iterator[None]:
    """Turn DuckDB's errors into a QueryError.

    `is_own_sql`: nobody would know the statement that DuckDB shows the place in.
    """
    try:
        yield
    except (duckdb.PermissionException, duckdb.IOException) as error:
        # DuckDB takes a file that is gone for a directory, which the lock forbids
        if _GONE.search(str(error)):
            raise PartRemoved() from None
        raise _query_error(error, is_own_sql) from None
    except duckdb.Error as error:
        raise _query_error(error, is_own_sql) from None
    except RuntimeError as error:
        if str(error) == _INTERRUPTED:  # how DuckDB passes on a Ctrl-C
            raise KeyboardInterrupt from None
        raise


def _query_error(error: duckdb.Error, is_own_sql: bool) -> QueryError:
    hint = next((text for kind, text in _HINTS if isinstance(error, kind)), None)
    return words_of(str(error).partition("\n\nLINE ")[0] if is_own_sql else str(error), hint)


def words_of(text: str, hint: str | None = None) -> QueryError:
    """An error of DuckDB's by its text."""
    unreachable = _UNREACHABLE_HINT if _HTTP_FAILED.search(text) else None
    return QueryError(text.strip(), hint=hint or unreachable)
