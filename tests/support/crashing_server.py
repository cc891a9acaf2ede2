"""`rayotel` in a process that kills itself: `crashing_server.py STEP COUNT ARGUMENTS`.

At the COUNT-th time that the step is reached, the process gets SIGKILL, as if its machine had lost
power for it. The steps are functions of rayotel, wrapped here; rayotel itself knows nothing of it.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayotel.cli.main import main
from rayotel.ingest.wal import segments
from rayotel.ingest.wal.journal import Journal
from rayotel.ingest.wal.recent_events import StoredEvents
from rayotel.ingest.wal.recent_requests import SeenRequests
from rayotel.lake.storage.directory import DirectoryStorage
from rayotel.lake.storage.s3 import S3Storage
from rayotel.lake.upkeep.compactor import Compactor


def die() -> None:
    """No finally, no flush, no exit handler."""
    os.kill(os.getpid(), signal.SIGKILL)


def half(descriptor: int, content: bytes) -> None:
    """Write part of a record and die: a torn tail."""
    os.write(descriptor, content[: len(content) // 2])
    die()


Target = tuple[object, str]
STORAGES: tuple[object, ...] = (DirectoryStorage, S3Storage)
BEFORE: dict[str, list[Target]] = {
    "before the log is written": [(segments, "_write_all")],
    "before the log is synced": [(os, "fdatasync")],
    "before a part is written": [(one, "put_new") for one in STORAGES],
    "before a file is renamed": [(Path, "replace")],
    "before a part is linked": [(Path, "hardlink_to")],
    "before a segment is released": [(Journal, "release")],
    "before a merge": [(Compactor, "_merge")],
    "before a merged part is written": [(one, "put_new_file") for one in STORAGES],
    "before a covered part is removed": [(one, "delete") for one in STORAGES],
}
AFTER: dict[str, list[Target]] = {
    "after the log is synced": [(os, "fdatasync")],
    "after a segment is begun": [(segments.SegmentWriter, "__init__")],
    "after a segment is sealed": [(Journal, "_seal_locked")],
    "after a part is linked": [(Path, "hardlink_to")],
    "after a part is written": [(one, "put_new") for one in STORAGES],
    "after digests are kept": [(SeenRequests, "persist")],
    "after ids of events are kept": [(StoredEvents, "persist")],
    "after a segment is released": [(Journal, "release")],
    "after a merged part is written": [(one, "put_new_file") for one in STORAGES],
    "after a covered part is removed": [(one, "delete") for one in STORAGES],
}
TORN = "in the middle of a record"
STEPS = (*BEFORE, *AFTER, TORN)


def arm(step: str, count: int) -> None:
    """Make the process die at the `count`-th time that the step is reached."""
    left = [count]

    def reached() -> bool:
        left[0] -= 1
        return left[0] == 0

    if step == TORN:
        write = segments._write_all

        def torn(descriptor: int, content: bytes) -> None:
            (half if reached() else write)(descriptor, content)

        segments._write_all = torn
        return
    for owner, name in BEFORE.get(step, []) + AFTER.get(step, []):
        setattr(owner, name, _wrapped(getattr(owner, name), reached, before=step in BEFORE))


def _wrapped(
    function: Callable[..., Any], reached: Callable[[], bool], *, before: bool
) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if before and reached():
            die()
        result = function(*args, **kwargs)
        if not before and reached():
            die()
        return result

    return wrapper


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["rayotel", *sys.argv[3:]]
    main()
