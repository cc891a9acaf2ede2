"""A DuckDB session over one snapshot of the lake.

A session has one DuckDB instance and one listing; rows committed later appear in the next session.
A locked session can read the parts that it listed and nothing else. It cannot write or change its
settings, and is bounded in memory, threads and time.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa

from rayotel.errors import PartRemoved, QueryError, StorageMissing
from rayotel.lake import cache as caching
from rayotel.lake import catalog
from rayotel.lake.cache import Cache
from rayotel.lake.layout import Part
from rayotel.lake.storage.interface import S3Access, Storage
from rayotel.model import TimeRange
from rayotel.query import views
from rayotel.query.httpfs import load_httpfs
from rayotel.query.process.limits import Limits
from rayotel.query.ray import definitions, header
from rayotel.query.ray.definitions import Definition, Streams
from rayotel.query.result import Result
from rayotel.query.snapshot import Snapshot, no_parts, snapshot
from rayotel.query.sql import dialect, guard, mentions
from rayotel.query.translate import translated, words_of

ROWS_PER_BATCH = 8192
MAX_HTTP_WAIT_SECONDS = 30
# DuckDB takes a millisecond for each column beyond some hundreds, whether it is used or not
MANY_COLUMNS = 256


class Session:
    """Views over a lake. Use with `with`; not for several threads at once."""

    def __init__(
        self,
        storage: Storage,
        range_: TimeRange,
        limits: Limits,
        *,
        mentioned_in: str | None = None,
        unlocked: bool = False,
        cache: Cache | None = None,
        reads: Streams | None = None,
        spill_directory: str | None = None,
    ) -> None:
        """`mentioned_in`: SQL; only the streams and definitions that it could name are there.

        `cache`: what this disk keeps of the lake between sessions. `reads`: the streams that
        definitions are about, which the SQL finds by the names of the default streams.
        `spill_directory`: one that somebody else removes.
        """
        self._storage = storage
        self._range = range_
        self.limits = limits
        self._mentioned_in = mentioned_in
        self._unlocked = unlocked
        self._cache = cache
        self._reads = reads or Streams()
        self._names_streams = False
        self._spill_directory = spill_directory
        self._own_spill_directory: str | None = None
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._timer: threading.Timer | None = None
        self._is_timed_out = False

    def __enter__(self) -> Session:
        try:
            with translated(is_own_sql=True):
                self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of DuckDB and of what it spilled. Idempotent."""
        self._stop_timer()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._own_spill_directory is not None:
            shutil.rmtree(self._own_spill_directory, ignore_errors=True)
            self._own_spill_directory = None

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The open connection."""
        if self._connection is None:
            raise QueryError("the session is not open")
        return self._connection

    def _open(self) -> None:
        wanted = definitions.needed(self._mentioned_in)
        past = definitions.with_past(self._range) if any(d.reads_past for d in wanted) else None
        streams = self._snapshot(wanted, past or self._range)
        connection = self._connection = duckdb.connect(
            config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        )
        self._set_limits(connection)
        streams = self._narrowed(streams, wanted)
        urls = self._urls([part for held in streams.values() for part in held.parts])
        if any("://" in url for url in urls.values()):
            self._give_access(connection)
        taken: set[str] = set()
        for stream, held in streams.items():
            for name in self._reads.shown_as(stream):
                if name.lower() not in taken:  # SQL does not tell names apart by case
                    taken.add(name.lower())
                    connection.execute(_view(name, held, self._range, urls))
                    if past is not None:
                        connection.execute(_view(name + definitions.PAST, held, past, urls))
        self._define([definition for definition in wanted if definition.name not in taken])
        if not self._unlocked:
            files = ", ".join(views.literal(url) for url in urls.values())
            connection.execute(f"SET allowed_paths = [{files}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")

    def _define(self, wanted: list[Definition]) -> None:
        """Make views and macros; some are tables, computed here once, in the question's time."""
        self.connection.execute(definitions.range_begins(self._range))
        self._start_timer()
        try:
            for definition in wanted:
                is_data = definition is definitions.METRIC_FACTS
                self.connection.execute(views.metric_facts_view() if is_data else definition.sql)
        except duckdb.InterruptException as error:
            raise self._ended(error) from None
        self._stop_timer()

    def _snapshot(self, wanted: list[Definition], range_: TimeRange) -> dict[str, Snapshot]:
        """What there is to read at this moment, of the streams that the SQL could name.

        All, where it names none: it may ask which there are. A stream that only definitions name
        has no rows where it is not there.
        """
        streams = catalog.streams(self._storage)
        named = _mentioned(streams, self._reads, self._mentioned_in)
        inner = definitions.mentioned_streams(wanted, self._reads, self._mentioned_in)
        self._names_streams = bool(named or inner)
        folded = {name.lower() for name in streams}
        snapshots = {
            name: no_parts(self._reads.signal(name))
            for name in sorted(inner)
            if name.lower() not in folded
        }
        wanted_streams = [name for name in streams if name in named or name in inner]
        if self._mentioned_in is None or not (wanted_streams or inner):
            wanted_streams = streams
        try:
            for name in wanted_streams:
                snapshots[name] = snapshot(self._storage, name, range_, self._cache)
        except StorageMissing:
            raise PartRemoved() from None
        return snapshots

    def _narrowed(
        self, streams: dict[str, Snapshot], wanted: list[Definition]
    ) -> dict[str, Snapshot]:
        """Streams with thousands of columns without those that the SQL cannot need."""
        sql = self._mentioned_in
        is_wide = any(len(held.columns) > MANY_COLUMNS for held in streams.values())
        texts = [definition.sql for definition in wanted]
        if sql is None or not is_wide or mentions.any_unnamed(texts):
            return streams
        shown = (name for stream in streams for name in self._reads.shown_as(stream))
        names = [name.lower() + end for name in shown for end in ("", definitions.PAST)]
        passing = [definition.name for definition in wanted if definition.passes_all]
        closed = [definition.name for definition in wanted if not definition.passes_all]
        if mentions.needs_all(self.connection, sql, names, passing, closed):
            return streams
        return {
            stream: held.only(set(mentions.mentioned(held.columns, [sql, *texts])))
            for stream, held in streams.items()
        }

    def _urls(self, parts: list[Part]) -> dict[str, str]:
        """From where each part is read, by key: the lake, or a copy of a bucket's part here."""
        copied: Mapping[str, Path] = {}
        if self._names_streams:  # else nothing of them may be read at all
            try:
                copied = caching.copies(self._storage, parts, self._cache)
            except StorageMissing:
                raise PartRemoved() from None
        url = self._storage.url
        keys = [part.name.key for part in parts]
        return {key: str(copied[key]) if key in copied else f"{url}/{key}" for key in keys}

    def _give_access(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let DuckDB read the bucket."""
        access = self._storage.access()
        assert access is not None
        load_httpfs(connection)
        for name in ("s3_access_key_id", "s3_secret_access_key", "s3_session_token"):
            # httpfs copies them from the environment, and settings can be read in SQL
            connection.execute(f"SET {name} = ''")
        connection.execute(_secret(self._storage.url, access))
        # an interrupt does not reach DuckDB while it waits for an answer
        wait = min(MAX_HTTP_WAIT_SECONDS, math.ceil(self.limits.timeout_seconds))
        connection.execute(f"SET http_timeout = {wait}")

    def _set_limits(self, connection: duckdb.DuckDBPyConnection) -> None:
        limits = self.limits
        spill = self._spill_directory
        if spill is None:
            spill = self._own_spill_directory = tempfile.mkdtemp(prefix="rayotel-query-")
        settings = {
            "TimeZone": "UTC",
            "memory_limit": f"{limits.memory_bytes}B",
            "temp_directory": spill,
            "max_temp_directory_size": f"{limits.spill_bytes}B",
            "python_enable_replacements": "false",
            # a question may name a stream several times, and parts never change
            "parquet_metadata_cache": "true",
        }
        if limits.threads:
            settings["threads"] = str(limits.threads)
        for name, value in settings.items():
            connection.execute(f"SET {name} = {views.literal(value)}")

    def run(self, sql: str, parameters: Mapping[str, object] | None = None) -> Result:
        """Run one question. Raises QueryError; the result streams and must be closed."""
        if not _is_text(sql):
            raise QueryError("the SQL is not UTF-8 text")
        with _naming(parameters or {}), translated():
            ready = self._parsed(sql)
            self._start_timer()
            try:
                reader = self._reader(ready, parameters)
                return Result(reader.schema, self._read(reader))
            except duckdb.InterruptException as error:
                raise self._ended(error) from None
            except OSError as error:  # how Arrow passes on what it has no type for
                raise self._ended(error) from None

    def _read(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            with translated():
                yield from reader
        except OSError as error:  # how Arrow passes on an interrupt or an error of DuckDB
            raise self._ended(error) from None
        finally:
            self._stop_timer()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._is_timed_out = False
        self._timer = threading.Timer(self.limits.timeout_seconds, self._interrupt)
        self._timer.daemon = True
        self._timer.start()

    def _ended(self, error: Exception) -> QueryError:
        """The clock stops; in words, what an error of a result means."""
        self._stop_timer()
        if self._is_timed_out:
            return self.limits.too_long()
        return words_of(str(error))

    def _interrupt(self) -> None:
        self._is_timed_out = True
        self.connection.interrupt()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _parsed(self, sql: str) -> str:
        """The SQL, its aliases quoted where DuckDB needs that; refused where it may not run."""
        try:
            self._check(sql)
        except duckdb.ParserException:
            repaired = dialect.quote_reserved_aliases(sql, self._reserved_words())
            if repaired == sql:
                raise
            with contextlib.suppress(duckdb.ParserException):
                self._check(repaired)
                return repaired
            raise
        return sql

    def _check(self, sql: str) -> None:
        if self._unlocked:
            self.connection.extract_statements(sql)
        else:
            guard.check(self.connection, sql, definitions.table_macros())

    def _reserved_words(self) -> frozenset[str]:
        rows = self.connection.execute(
            "SELECT keyword_name FROM duckdb_keywords()"
            " WHERE keyword_category IN ('reserved', 'type_function')"
        ).fetchall()
        return frozenset(row[0] for row in rows)

    def _reader(self, sql: str, parameters: Mapping[str, object] | None) -> pa.RecordBatchReader:
        relation = self._relation(sql, dict(parameters or {}))
        if relation is None:  # a statement without rows, in an unlocked session
            return pa.RecordBatchReader.from_batches(pa.schema([]), [])
        reader: pa.RecordBatchReader = relation.to_arrow_reader(ROWS_PER_BATCH)
        return reader

    def _relation(self, sql: str, values: dict[str, object]) -> duckdb.DuckDBPyRelation | None:
        try:
            return self.connection.sql(sql, params=values)
        except duckdb.Error as error:
            has_place = "\nLINE " in str(error) or isinstance(error, duckdb.InterruptException)
            if not has_place and not self._unlocked:
                # asked another way, the same error also shows its place
                with contextlib.suppress(duckdb.InvalidInputException):
                    self.connection.execute(sql, values)
            raise


@contextlib.contextmanager
def _naming(parameters: Mapping[str, object]) -> Iterator[None]:
    """Say which parameter a value is of that cannot be converted."""
    try:
        yield
    except QueryError as error:
        if error.message.startswith("Conversion Error"):
            for name, value in parameters.items():
                if f"'{value}'" in error.message:
                    error.hint = error.hint or f"it is the value of the parameter '{name}'"
        raise


def _is_text(sql: str) -> bool:
    """Bytes of a command line that are not UTF-8 come as halves of surrogate pairs."""
    try:
        sql.encode()
    except UnicodeEncodeError:
        return False
    return True


def _view(name: str, held: Snapshot, range_: TimeRange, urls: Mapping[str, str]) -> str:
    """CREATE VIEW of a stream in a range."""
    parts, cut = held.within(range_)
    scanned = [urls[part.name.key] for part in parts]
    source = views.parts_scan(scanned, held.columns) if scanned else views.no_rows(held.columns)
    return views.stream_view(name, held.signal, held.columns, source, cut)


def _mentioned(streams: list[str], reads: Streams, sql: str | None) -> list[str]:
    """The streams that SQL could name, by any of their names."""
    folded = header.without_comments(sql or "").lower()
    return [
        stream
        for stream in streams
        if any(name.lower() in folded for name in reads.shown_as(stream))
    ]


def _secret(url: str, access: S3Access) -> str:
    """CREATE SECRET for the lake's own prefix; nothing outside it gets these credentials."""
    endpoint = urlsplit(access.endpoint)
    options = {
        "KEY_ID": access.key_id,
        "SECRET": access.secret,
        "SESSION_TOKEN": access.session_token,
        "REGION": access.region,
        "ENDPOINT": endpoint.netloc,
        "SCOPE": url + "/",
    }
    given = [f"{name} {views.literal(value)}" for name, value in options.items() if value]
    if endpoint.netloc:
        given += ["URL_STYLE 'path'", f"USE_SSL {str(endpoint.scheme == 'https').lower()}"]
    return f"CREATE SECRET lake (TYPE s3, PROVIDER config, {', '.join(given)})"
