"""The one way to make files and their names durable. All functions raise OSError."""

from __future__ import annotations

import os
from pathlib import Path


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


def sync_directory(path: Path) -> None:
    """Make new and removed names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
