"""One at a time: whatever rewrites parts holds a lock in the data directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rayotel.errors import DataDirectoryBusy

_PAUSE_SECONDS = 0.2


@contextlib.contextmanager
def alone(work: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a directory, which is made. Raises DataDirectoryBusy after the wait."""
    work.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise DataDirectoryBusy(
                        "another compaction runs in this data directory", hint="try again later"
                    ) from None
            time.sleep(_PAUSE_SECONDS)
        yield
    finally:
        os.close(lock)
