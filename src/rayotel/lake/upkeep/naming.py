"""Writing a part that replaces others: no name ever gets a second content."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from pathlib import Path

from rayotel.errors import LakeError
from rayotel.lake.layout import MAX_LEVEL, PartName
from rayotel.lake.storage.interface import Storage

MAX_TRIES_TO_NAME = 8


def put_named(storage: Storage, wanted: PartName, content: Path) -> PartName:
    """Write a part under its name, or a level higher where that has other bytes; its name.

    A name that has the same bytes is done: a crash came after it was written. Raises StorageError,
    and LakeError if too many names are taken.
    """
    for level in range(wanted.level, min(wanted.level + MAX_TRIES_TO_NAME, MAX_LEVEL + 1)):
        name = replace(wanted, level=level)
        if storage.put_new_file(name.key, content):
            return name
        there = content.with_name("there.parquet")
        storage.fetch(name.key, there)
        if filecmp.cmp(there, content, shallow=False):
            return name
    raise LakeError(
        f"cannot write '{wanted.key}': too many names like it are taken",
        hint="do several servers use copies of one data directory?",
    )
