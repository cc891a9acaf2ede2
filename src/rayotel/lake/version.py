"""The version of a lake's layout: the object `_rayotel/layout` holds its number.

    1   rayotel 0.1.0, which wrote no number: parts under the names of then
    2   parts named by epochs and spans; what is not settled lies under `_rayotel/recent/`

Whoever reads or writes a lake looks first, and refuses a number that it does not know. Readers know
the names of version 1 too, so a lake is readable while it is moved.
"""

from __future__ import annotations

import weakref

from rayotel.errors import LakeError, StorageMissing
from rayotel.lake.layout import VERSION_KEY
from rayotel.lake.storage.interface import Storage

CURRENT = 2
_checked: weakref.WeakSet[Storage] = weakref.WeakSet()


def check(storage: Storage) -> None:
    """Raise LakeError for a lake of a newer rayotel. Looks once for each storage object."""
    if storage not in _checked:
        read(storage)
        _checked.add(storage)


def read(storage: Storage) -> int:
    """The number, 1 if there is none. Raises LakeError for one that is not known, StorageError."""
    try:
        text = storage.read(VERSION_KEY)[:100].decode("ascii", "replace").strip()
    except StorageMissing:
        return 1
    if text not in {str(number) for number in range(1, CURRENT + 1)}:
        raise LakeError(
            f"the lake at '{storage.url}' has version '{text[:20]}' of the layout, and this"
            f" rayotel knows only up to {CURRENT}",
            hint="use the newest rayotel that writes to this lake",
        )
    return int(text)


def write(storage: Storage) -> None:
    """Say that the lake has the current version."""
    storage.put(VERSION_KEY, memoryview(f"{CURRENT}\n".encode()))
