"""A lake in a local directory.

An object becomes visible only when it is whole and durable: written to `.tmp/` inside the lake,
fsynced, renamed or linked to its place, and the directories on the way fsynced. A link never takes
a name that is taken. Where the file system knows no links, a lock in `.tmp/` lets one process at a
time look and rename, so that holds for processes of one machine there.

A directory that a removed object leaves empty goes too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from rayotel.durable import sync_directory
from rayotel.errors import StorageDenied, StorageError, StorageMissing, StorageUnavailable
from rayotel.lake.storage.interface import StoredObject

TEMPORARY = ".tmp"
_GUARD = "names.lock"
# an empty directory may go while an object is on its way into it
MAX_TRIES_TO_PLACE = 20
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}

_BY_ERRNO: dict[int, type[StorageError]] = {
    errno.ENOENT: StorageMissing,
    errno.ENOTDIR: StorageMissing,
    errno.EACCES: StorageDenied,
    errno.EPERM: StorageDenied,
    errno.EROFS: StorageDenied,
}


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = _BY_ERRNO.get(error.errno or 0, StorageUnavailable)
        raise kind(f"cannot {what}: {error.strerror or error}") from error


class DirectoryStorage:
    """Objects as files below one directory, which need not exist before the first `put`."""

    def __init__(self, path: str) -> None:
        self._root = Path(path).absolute()

    @property
    def url(self) -> str:
        """The absolute path of the directory."""
        return str(self._root)

    def access(self) -> None:
        """A directory needs no credentials."""

    def put(self, key: str, content: memoryview) -> None:
        """Write, fsync, rename, fsync the directories."""
        self._put(key, lambda file: file.write(content), _rename)

    def put_new(self, key: str, content: memoryview) -> bool:
        """Write, fsync, link, fsync the directories."""
        return self._put(key, lambda file: file.write(content), _link)

    def put_new_file(self, key: str, path: Path) -> bool:
        """The same, from a file."""
        with path.open("rb") as source:
            return self._put(key, lambda file: shutil.copyfileobj(source, file), _link)

    def _put(
        self,
        key: str,
        write: Callable[[IO[bytes]], object],
        place: Callable[[Path, Path], bool],
    ) -> bool:
        target = self._root / key
        temporary = self._root / TEMPORARY / uuid.uuid4().hex
        with _translated(f"write '{key}' in '{self._root}'"):
            made = _make_directories(temporary.parent)
            try:
                with temporary.open("xb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                return _placed(temporary, target, place, made)
            finally:
                temporary.unlink(missing_ok=True)

    def fetch(self, key: str, path: Path) -> None:
        """Copy the file."""
        with _translated(f"read '{key}' in '{self._root}'"):
            shutil.copyfile(self._root / key, path)

    def read(self, key: str) -> bytes:
        """The file's content."""
        with _translated(f"read '{key}' in '{self._root}'"):
            return (self._root / key).read_bytes()

    def read_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        """Some of the file's content."""
        with _translated(f"read '{key}' in '{self._root}'"), (self._root / key).open("rb") as file:
            file.seek(offset)
            return file.read(size_bytes)

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """Walk the directory that `prefix` names or begins in."""
        waiting = [prefix.rpartition("/")[0]]
        while waiting:
            folder = waiting.pop()
            for entry in self._entries(folder):
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if key != TEMPORARY and (
                        key.startswith(prefix) or prefix.startswith(f"{key}/")
                    ):
                        waiting.append(key)
                elif key.startswith(prefix) and not entry.is_dir():
                    with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                        status = entry.stat()
                        yield StoredObject(key, status.st_size, status.st_mtime)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """What is in a folder; nothing where there is none.

        One that cannot be listed is an error: parts left out are wrong answers.
        """
        path = f"{self._root}/{folder}"
        with _translated(f"list '{path}'"):
            try:
                with os.scandir(path) as entries:
                    return list(entries)
            except FileNotFoundError:
                return []

    def unfinished(self) -> Iterator[StoredObject]:
        """Files that were not renamed to their place, perhaps because they are being written."""
        with contextlib.suppress(StorageMissing), _translated(f"list '{self._root}'"):
            for path in (self._root / TEMPORARY).iterdir():
                if path.name == _GUARD:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    key = f"{TEMPORARY}/{path.name}"
                    yield StoredObject(key, status.st_size, status.st_mtime)

    def folders(self, prefix: str) -> list[str]:
        """Directories directly below."""
        start = self._root / prefix
        with _translated(f"list '{start}'"):
            if not start.is_dir():
                return []
            return sorted(
                entry.name
                for entry in start.iterdir()
                if entry.is_dir() and entry.name != TEMPORARY
            )

    def delete(self, key: str) -> None:
        """Unlink the file, and remove the directories that it leaves empty."""
        path = self._root / key
        with _translated(f"delete '{key}' in '{self._root}'"):
            path.unlink(missing_ok=True)
        for directory in path.parents:
            if directory == self._root or directory.name == TEMPORARY:
                return
            try:
                directory.rmdir()
            except OSError:  # most often: it is not empty
                return

    def close(self) -> None:
        """Nothing is held open."""


def _placed(
    temporary: Path, target: Path, place: Callable[[Path, Path], bool], made: list[Path]
) -> bool:
    """Give a file its name, durably; `made` have new directories. Whether it got the name."""
    for tries_left in reversed(range(MAX_TRIES_TO_PLACE)):
        try:
            made += _make_directories(target.parent)
            is_placed = place(temporary, target)
            # who finds the name taken relies on it as well
            for directory in dict.fromkeys((target.parent, *made)):
                sync_directory(directory)
        except FileNotFoundError:
            if not tries_left:
                raise
        else:
            return is_placed
    raise AssertionError("unreachable")


def _rename(temporary: Path, target: Path) -> bool:
    temporary.replace(target)
    return True


def _link(temporary: Path, target: Path) -> bool:
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_alone(temporary, target)
    return True


def _rename_alone(temporary: Path, target: Path) -> bool:
    guard = os.open(temporary.with_name(_GUARD), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if target.exists():
            return False
        temporary.replace(target)
        return True
    finally:
        os.close(guard)


def _make_directories(path: Path) -> list[Path]:
    """Make the directories up to `path`; returns the parents of new ones, which need an fsync."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
    return [directory.parent for directory in missing]
