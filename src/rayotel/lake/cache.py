"""The reader's cache of a lake on its own disk: footers of parts, and small parts of a bucket.

Parts never change, so a footer or a copy stays right. The cache is bounded, and anybody may delete
it at any moment. If its directory cannot be used, readers work without it. It holds the same data
as the lake, so only its owner may read it.

    <directory>/<lake>/footers.sqlite       rows, event times and columns of parts
    <directory>/<lake>/parts/<name>         copies of parts; the least recently used go first
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rayotel.errors import LakeError, StorageUnavailable
from rayotel.lake import footers as reading
from rayotel.lake.footers import Footer
from rayotel.lake.layout import Part
from rayotel.lake.storage.interface import Storage, side_by_side

FOOTERS_AT_ONCE = 500
FOOTER_GUESS_BYTES = 32 * 1024
MAX_FOOTERS_BYTES = 256 * 1024 * 1024
MAX_COPY_BYTES = 32 * 1024 * 1024
_BUSY_SECONDS = 2.0
_SCHEMA_VERSION = 3
_RENEWED = f"""
DROP TABLE IF EXISTS footers;
DROP TABLE IF EXISTS columns;
PRAGMA user_version = {_SCHEMA_VERSION};
"""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS columns (id INTEGER PRIMARY KEY, content BLOB UNIQUE);
CREATE TABLE IF NOT EXISTS footers (
    key TEXT PRIMARY KEY, size_bytes INTEGER, written_unix REAL,
    signal TEXT, rows INTEGER, first_unix_nano INTEGER, last_unix_nano INTEGER,
    source TEXT, overflow_rows INTEGER, columns INTEGER
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Cache:
    """A directory, and the bound of its copies in bytes."""

    directory: Path
    max_copies_bytes: int

    def of(self, storage: Storage) -> Path:
        """The directory of one lake."""
        access = storage.access()
        address = f"{access.endpoint if access else ''} {storage.url}"
        return self.directory / hashlib.blake2b(address.encode(), digest_size=16).hexdigest()


def footers(
    storage: Storage,
    parts: Sequence[Part],
    cache: Cache | None,
    progress: Callable[[int], object] = id,
) -> list[Footer]:
    """The footers of parts, in their order. Raises StorageError, and LakeError for no Parquet.

    `progress` is called with the number of finished parts.
    """
    with _database(storage, cache) as database:
        keyed = {part.name.key: part for part in parts}
        known = _known(database, keyed)
        missing = [(key, part) for key, part in keyed.items() if key not in known]
        # what was read is kept bit by bit: whoever interrupts this can go on
        for first in range(0, len(missing), FOOTERS_AT_ONCE):
            progress(len(known))
            some = dict(missing[first : first + FOOTERS_AT_ONCE])
            fresh = dict(zip(some, _read(storage, list(some.values())), strict=True))
            _remember(database, some, fresh)
            known |= fresh
    return [known[key] for key in keyed]


def _read(storage: Storage, missing: list[Part]) -> Iterator[Footer]:
    def read(part: Part) -> Footer:
        try:
            return _read_one(storage, part)
        except ValueError as error:
            raise LakeError(
                f"part '{part.name.key}' cannot be read: {error}",
                hint="'rayotel verify --repair' moves damaged parts aside",
            ) from None

    if storage.access() is None:
        return map(read, missing)
    return side_by_side(read, missing)


def _read_one(storage: Storage, part: Part) -> Footer:
    key, size = part.name.key, part.size_bytes
    guess = min(size, FOOTER_GUESS_BYTES)
    end = storage.read_range(key, size - guess, guess)
    wanted = reading.footer_bytes(end)
    if wanted > size:
        raise ValueError("its footer is longer than the file")
    if wanted > guess:
        end = storage.read_range(key, size - wanted, wanted)
    return reading.read_footer(end)


@contextlib.contextmanager
def _database(storage: Storage, cache: Cache | None) -> Iterator[sqlite3.Connection | None]:
    """The database of footers; None if it cannot be opened."""
    connection = None
    if cache is not None:
        path = cache.of(storage) / "footers.sqlite"
        with contextlib.suppress(OSError, sqlite3.Error):
            connection = _opened(path)
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_FOOTERS_BYTES:
        path.unlink()
    for is_last in (False, True):
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            # what a crash loses is read again
            connection.execute("PRAGMA synchronous = OFF")
            if connection.execute("PRAGMA user_version").fetchone() != (_SCHEMA_VERSION,):
                connection.executescript(_RENEWED)
            connection.executescript(_SCHEMA)
            return connection
        except sqlite3.OperationalError:  # locked, or a disk that is full
            connection.close()
            raise
        except sqlite3.DatabaseError:  # damaged
            connection.close()
            if is_last:
                raise
            path.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _known(database: sqlite3.Connection | None, keys: Mapping[str, Part]) -> dict[str, Footer]:
    """The footers that the database has of these very objects."""
    if database is None or not keys:
        return {}
    schemas: dict[int, pa.Schema] = {}
    known: dict[str, Footer] = {}
    with contextlib.suppress(sqlite3.Error, pa.ArrowException, OSError):
        for key, size, written, *about, source, overflow, columns in database.execute(
            "SELECT * FROM footers WHERE key BETWEEN ? AND ?", (min(keys), max(keys))
        ):
            part = keys.get(key)
            if part is None or (part.size_bytes, part.written_unix) != (size, written):
                continue
            schema = schemas.get(columns)
            if schema is None:
                (content,) = database.execute(
                    "SELECT content FROM columns WHERE id = ?", (columns,)
                ).fetchone()
                schema = schemas[columns] = pa.ipc.read_schema(pa.py_buffer(content))
            signal, rows, first, last = about
            known[key] = Footer(signal, rows, first, last, schema, source, overflow)
    return known


def _remember(
    database: sqlite3.Connection | None, missing: Mapping[str, Part], fresh: Mapping[str, Footer]
) -> None:
    if database is None or not missing:
        return
    with contextlib.suppress(sqlite3.Error):
        database.execute("BEGIN IMMEDIATE")
        for key, part in missing.items():
            footer = fresh[key]
            content = footer.schema.serialize().to_pybytes()
            database.execute("INSERT OR IGNORE INTO columns (content) VALUES (?)", (content,))
            database.execute(
                "INSERT OR REPLACE INTO footers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?,"
                " (SELECT id FROM columns WHERE content = ?))",
                (
                    key, part.size_bytes, part.written_unix, footer.signal,
                    footer.rows, footer.first_unix_nano, footer.last_unix_nano,
                    footer.source, footer.overflow_rows, content,
                ),
            )  # fmt: skip
        database.execute("COMMIT")


def copies(storage: Storage, parts: Sequence[Part], cache: Cache | None) -> dict[str, Path]:
    """Copies of a bucket's parts on this disk, by key: those that are small and fit together.

    A question opens a local file in a fraction of a millisecond, an object in several requests.
    """
    if cache is None or storage.access() is None:
        return {}
    small = [part for part in parts if part.size_bytes <= MAX_COPY_BYTES]
    if sum(part.size_bytes for part in small) > cache.max_copies_bytes // 2:
        return {}
    directory = cache.of(storage) / "parts"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        places = {part.name.key: directory / _copy_name(part) for part in small}
        missing = [part for part in small if not _is_there(places[part.name.key], part)]
        for _ in side_by_side(lambda part: _copy(storage, part, places[part.name.key]), missing):
            pass
        if missing:
            _let_go(directory, cache.max_copies_bytes)
    except OSError:  # a disk that is full or only readable: the bucket is read as it is
        return {}
    return places


def _copy_name(part: Part) -> str:
    """One file name; with the time, for a part that was repaired keeps its key."""
    return f"{part.name.key.replace('/', '+')}+{part.written_unix:.3f}.parquet"


def _is_there(place: Path, part: Part) -> bool:
    try:
        if place.stat().st_size != part.size_bytes:
            return False
        os.utime(place)  # used now
    except FileNotFoundError:
        return False
    return True


def _copy(storage: Storage, part: Part, place: Path) -> None:
    temporary = place.with_name(f".{uuid.uuid4().hex}")
    try:
        storage.fetch(part.name.key, temporary)
        if temporary.stat().st_size != part.size_bytes:
            raise StorageUnavailable(f"'{part.name.key}' came with another size than it is listed")
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def _let_go(directory: Path, max_bytes: int) -> None:
    """Remove copies, the longest unused first, until the rest is within the bound."""
    status = []
    for entry in os.scandir(directory):
        with contextlib.suppress(FileNotFoundError):
            status.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    total = sum(size for _, size, _ in status)
    for _, size, path in sorted(status):
        if total <= max_bytes:
            return
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        total -= size
