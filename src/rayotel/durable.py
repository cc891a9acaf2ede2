"""The one way to make files and their names durable. All functions raise OSError.

Faults of a disk are injected here by tests: whoever needs a file to survive goes through it.
"""

from __future__ import annotations

import os
from pathlib import Path


def create(path: Path, content: bytes) -> int:
    """Make a file that was not there, with its first bytes; returns a descriptor to write on.

    Nothing stays where it fails.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
        sync_directory(path.parent)
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def write_all(descriptor: int, content: bytes) -> None:
    """Write all bytes; they are durable after `sync_data`."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_data(descriptor: int) -> None:
    """Make what was written durable."""
    os.fdatasync(descriptor)


def cut(descriptor: int, size_bytes: int) -> None:
    """Cut a file back to a size, and go on writing there."""
    os.ftruncate(descriptor, size_bytes)
    os.lseek(descriptor, size_bytes, os.SEEK_SET)
    os.fsync(descriptor)


def overwrite(path: Path, content: bytes) -> None:
    """Replace the first bytes of a file in place; needs no room on the disk."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        write_all(descriptor, content)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def append(path: Path, content: bytes) -> None:
    """Add bytes to the end of a file, which is made where it is not there."""
    is_new = not path.exists()
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_directory(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Give a file new content, whole or not at all."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def rename(path: Path, target: Path) -> None:
    """Move a file to another directory of its disk."""
    path.rename(target)
    sync_directory(target.parent)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove a file; nothing happens where there is none. A loss of power may bring it back."""
    path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make new and removed names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
