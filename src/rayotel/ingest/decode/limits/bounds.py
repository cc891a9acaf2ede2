"""Bounds of a row of any signal."""

from __future__ import annotations

from datetime import UTC, datetime

from rayotel.model import NANOSECONDS_PER_SECOND

EARLIEST_UNIX_NANO = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * NANOSECONDS_PER_SECOND
LATEST_AFTER_ARRIVAL_NANO = 24 * 3600 * NANOSECONDS_PER_SECOND
