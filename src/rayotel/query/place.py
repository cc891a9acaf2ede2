"""What the process of a question is told: which lake, what is asked, and in what form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import TimeRange
from rayotel.query.process.limits import Limits

if TYPE_CHECKING:
    from rayotel.lake.cache import Cache


@dataclass(frozen=True, slots=True)
class Place:
    """A lake by its address, with what bounds its questions. `cache_dir` None: no cache."""

    url: str
    s3_endpoint: str
    s3_region: str
    limits: Limits
    cache_dir: Path | None
    cache_bytes: int
    metrics_stream: str
    events_stream: str


@dataclass(frozen=True, slots=True)
class Form:
    """A format of results; `width`: of the terminal that a table is for, None where it is none."""

    format: str
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """SQL with its range and parameters. `form` None: rows as Arrow."""

    sql: str
    range: TimeRange
    parameters: Mapping[str, object]
    unlocked: bool
    form: Form | None


def opened(place: Place) -> Storage:
    """Its storage. Touches nothing yet; raises UsageError."""
    return open_storage(
        place.url,
        s3_endpoint=place.s3_endpoint,
        s3_region=place.s3_region,
        longest_wait_seconds=place.limits.timeout_seconds,
    )


def cache_of(place: Place) -> Cache | None:
    """What this disk keeps of it."""
    from rayotel.lake.cache import Cache  # heavy, and a command that only asks needs none

    if place.cache_dir is None:
        return None
    return Cache(place.cache_dir, place.cache_bytes)
