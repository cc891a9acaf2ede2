"""Moving a lake of 0.1.0 to the names and places of today.

Each part that counts is copied under its new name: the merged part of an hour that is over to its
settled place, everything else to the recent one. When all are copied, the lake says its version.
The old names are covered by the copies, and go with other covered parts when the grace is over.

Readers know both names, and a copy covers what it was made of: so each row counts once at every
moment. A crash leaves copies, and the next start goes on. Two servers that move one lake write the
same copies. A server of 0.1.0 that still writes to the lake is read as well.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rayotel.errors import StorageMissing
from rayotel.lake import catalog, layout, version
from rayotel.lake.layout import Part, PartName
from rayotel.lake.storage.interface import Storage, side_by_side
from rayotel.lake.upkeep.plan import SECONDS_PER_HOUR
from rayotel.logs import log_event

TOLD_EVERY_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A part, the key of its copy, and a file to carry it in."""

    part: Part
    target: str
    path: Path


def move_old_parts(
    storage: Storage, work: Path, after_seconds: float, is_stopping: Callable[[], bool] = bool
) -> int:
    """Move the lake if it is of version 1; how many parts were copied.

    An hour is over `after_seconds` after its end. `work`: a directory to copy through. Raises
    StorageError, and LakeError for a lake of a newer rayotel; doing it again goes on.
    """
    if version.read(storage) == version.CURRENT:
        return 0
    copied = 0
    carried = work / "moving"
    for stream in catalog.streams(storage):
        parts = catalog.all_parts(storage, stream)
        there = {part.name.key for part in parts}
        targets = _targets(layout.visible(parts), time.time() - after_seconds)
        missing = [
            _Copy(part, name.key, carried / f"{number:09d}.parquet")
            for number, (part, name) in enumerate(targets)
            if name.key not in there
        ]
        shutil.rmtree(carried, ignore_errors=True)  # what a crash left
        carried.mkdir(parents=True)
        try:
            copied += _copy_all(storage, stream, missing, is_stopping)
        finally:
            shutil.rmtree(carried, ignore_errors=True)
        if is_stopping():
            return copied
    version.write(storage)
    if copied:
        log_event(logger, logging.INFO, "the lake of an older rayotel is moved", parts=copied)
    return copied


def _targets(visible: Iterable[Part], over_before_unix: float) -> Iterable[tuple[Part, PartName]]:
    """Each old part that counts, and its new name."""
    hours: dict[tuple[int, str], list[Part]] = {}
    for part in visible:
        hours.setdefault((part.name.hour, part.name.receiver), []).append(part)
    for (hour, _), group in hours.items():
        is_over = (hour + 1) * SECONDS_PER_HOUR <= over_before_unix
        for part in group:
            if part.name.is_old:
                is_settled = is_over and len(group) == 1 and part.name.level > 0
                yield part, replace(part.name, is_settled=is_settled, is_old=False)


def _copy_all(
    storage: Storage, stream: str, copies: list[_Copy], is_stopping: Callable[[], bool]
) -> int:
    """Copy side by side; how many were done."""
    told = time.monotonic()

    def copy(one: _Copy) -> None:
        if is_stopping():
            return
        try:
            storage.fetch(one.part.name.key, one.path)
        except StorageMissing:  # its server, of 0.1.0, has merged and removed it
            return
        storage.put_new_file(one.target, one.path)
        one.path.unlink()

    if copies:
        log_event(
            logger,
            logging.INFO,
            "the lake of an older rayotel is being moved",
            stream=stream,
            parts=len(copies),
            bytes=sum(one.part.size_bytes for one in copies),
        )
    for number, _ in enumerate(side_by_side(copy, copies), start=1):
        if time.monotonic() - told >= TOLD_EVERY_SECONDS:
            told = time.monotonic()
            log_event(
                logger,
                logging.INFO,
                "the lake of an older rayotel is being moved",
                stream=stream,
                parts_moved=number,
                parts=len(copies),
            )
    return len(copies)
