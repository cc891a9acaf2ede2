"""The time by which hours expire: the machine's clock, unless it has jumped ahead.

A clock that is years ahead would let retention delete a whole lake. So it is believed only if

- it is at most `JUMP_SECONDS` (two days) ahead of the last time that was believed, which is kept in
  a file; or
- the newest part of the lake was written at most two days ago. On S3 the storage's own clock says
  so, which is enough. In a directory it is the same clock that says so. There the parts written
  since the last pause of two days must span two days themselves, or be all there are.

So after a pause of more than two days nothing expires by age before new parts come, and in a
directory two days more. A clock that is behind lets less go, never more.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from rayotel.durable import replace_file
from rayotel.lake import catalog
from rayotel.lake.storage.interface import Storage
from rayotel.logs import Failing, log_event

JUMP_SECONDS = 2 * 86_400.0
KEPT_EVERY_SECONDS = 3600.0  # the file is written so often at most

logger = logging.getLogger(__name__)


def is_believable(now_unix: float, written_unix: Iterable[float], *, same_clock: bool) -> bool:
    """Whether what was written agrees with a clock: the times of all parts of a lake.

    `same_clock`: the storage has no clock of its own. A lake without parts agrees with any.
    """
    newest_first = sorted(written_unix, reverse=True)
    since = now_unix
    for place, written in enumerate(newest_first):
        if since - written > JUMP_SECONDS:  # the pause before what was written lately
            is_lasting = not same_clock or now_unix - since >= JUMP_SECONDS
            return place > 0 and is_lasting
        since = min(since, written)
    return True


class TrustedTime:
    """The clock with a memory. `path`: the file of the last time that was believed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._doubted = Failing()

    def now(self, storage: Storage, streams: Iterable[str], *, keep: bool = True) -> float | None:
        """Seconds since 1970; None, told once in the log, if the clock may be far ahead.

        `keep`: remember the time if it is believed. Raises StorageError.
        """
        now, known = time.time(), self._known()
        if known is None or now > known + JUMP_SECONDS:
            written = [
                part.written_unix
                for stream in streams
                for part in catalog.all_parts(storage, stream)
            ]
            if not is_believable(now, written, same_clock=storage.access() is None):
                self._tell(now, max(written))
                return None
        if self._doubted.end() is not None:
            log_event(logger, logging.INFO, "the clock is believed: retention goes on")
        if keep and (known is None or now > known + KEPT_EVERY_SECONDS):
            with contextlib.suppress(OSError):  # then it is looked at anew
                self._path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(self._path, f"{now:.0f}\n".encode())
        return now

    def _known(self) -> float | None:
        try:
            return float(self._path.read_text("ascii"))
        except (OSError, ValueError):
            return None

    def _tell(self, now: float, newest: float) -> None:
        if self._doubted.begin():
            log_event(
                logger,
                logging.ERROR,
                "the clock may be far ahead: nothing expires by age",
                clock=f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M}Z",
                newest_part_written=f"{datetime.fromtimestamp(newest, UTC):%Y-%m-%dT%H:%M}Z",
                hint="if the clock is right, 'rayotel retention --force' lets old hours go now",
            )
