"""The WAL's fill level: logged once when it rises to a share of the limit, once when it falls.

Commits empty the WAL in steps, so a level ends only `MARGIN_PERCENT` below where it began.
"""

from __future__ import annotations

import logging
import threading

from rayotel.logs import log_event

LEVELS_PERCENT = (50, 80, 100)
MARGIN_PERCENT = 10.0

logger = logging.getLogger(__name__)


class FillLevel:
    """The level of one WAL. Safe for several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._level = 0
        self._ends_below = 0.0

    def update(self, size_bytes: int) -> None:
        """The WAL has this size now."""
        percent = 100.0 * size_bytes / self._limit_bytes
        level = max((level for level in LEVELS_PERCENT if percent >= level), default=0)
        with self._lock:
            if level > self._level:
                self._rise(level, percent, size_bytes)
            elif self._level and percent < self._ends_below:
                self._fall(level, size_bytes)

    def refused(self, size_bytes: int) -> None:
        """The WAL has this size and no room for a request: whatever its share, it is full."""
        with self._lock:
            if self._level < LEVELS_PERCENT[-1]:
                self._rise(LEVELS_PERCENT[-1], 100.0 * size_bytes / self._limit_bytes, size_bytes)

    def _rise(self, level: int, percent: float, size_bytes: int) -> None:
        self._level = level
        self._ends_below = min(level, percent) - MARGIN_PERCENT
        is_full = level == LEVELS_PERCENT[-1]
        log_event(
            logger,
            logging.ERROR if is_full else logging.WARNING,
            "the WAL is full: requests are answered 503" if is_full else "the WAL is filling",
            percent=level,
            wal_bytes=size_bytes,
            wal_limit_bytes=self._limit_bytes,
        )

    def _fall(self, level: int, size_bytes: int) -> None:
        below = next(percent for percent in LEVELS_PERCENT if percent > level)
        self._level = level
        self._ends_below = level - MARGIN_PERCENT
        log_event(
            logger,
            logging.INFO,
            "the WAL is less full",
            below_percent=below,
            wal_bytes=size_bytes,
            wal_limit_bytes=self._limit_bytes,
        )
