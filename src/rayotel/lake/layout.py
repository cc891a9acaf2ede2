"""Names of objects on storage: the only author and the only reader of object keys.

    <stream>/date=YYYY-MM-DD/hour=HH/<receiver>-<first>-<last>-<level>.parquet

    _rayotel/claims/<stream>/<signal>-<receiver>

`date` and `hour` are the UTC hour of event time. `receiver` is the id of the server that wrote the
part. `first` and `last` are the numbers of the WAL segments in it (12 digits). `level` is 0 for a
part from a commit, and more for a part that replaces others.

**Parts cover parts by name**: a part covers every part of the same receiver and hour whose range of
segments lies inside its own and whose level is lower. So a listing is the catalog.

What begins with `_rayotel/` is rayotel's own; no stream's name begins with `_`. A claim names the
signal of a stream (see `claims`); its stream is in lower case, for SQL does not tell case apart.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

_RECEIVER = re.compile(r"[0-9a-f]{12}")
# each part has exactly one key that matches: no leading zeros, no digits but ASCII's
_KEY = re.compile(
    r"([A-Za-z0-9-][A-Za-z0-9_-]{0,99})/date=(\d{4}-\d\d-\d\d)/hour=(\d\d)/"
    r"([0-9a-f]{12})-(\d{12})-(\d{12})-(0|[1-9]\d{0,2})\.parquet",
    re.ASCII,
)
_CLAIM = re.compile(r"_rayotel/claims/[a-z0-9_-]{1,100}/([a-z]+)-[0-9a-f]{12}", re.ASCII)
_EPOCH = date(1970, 1, 1).toordinal()
_DAYS_REMEMBERED = 4096


def is_receiver_id(text: str) -> bool:
    """Twelve hexadecimal digits."""
    return _RECEIVER.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """Fields of a part's key. `hour` counts from 1970; `first` and `last` are segment numbers."""

    stream: str
    hour: int
    receiver: str
    first: int
    last: int
    level: int

    @property
    def key(self) -> str:
        """The object key, relative to the lake."""
        name = f"{self.receiver}-{self.first:012d}-{self.last:012d}-{self.level}.parquet"
        return f"{hour_prefix(self.stream, self.hour)}{name}"

    def covers(self, other: PartName) -> bool:
        """Whether this part covers `other`."""
        return (
            self.level > other.level
            and self.first <= other.first
            and other.last <= self.last
            and (self.stream, self.hour, self.receiver)
            == (other.stream, other.hour, other.receiver)
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is on storage, as a listing shows it."""

    name: PartName
    size_bytes: int
    written_unix: float = 0.0


def claims_prefix(stream: str) -> str:
    """Prefix of all claims of a stream."""
    return f"_rayotel/claims/{stream.lower()}/"


def claim_key(stream: str, signal: str, receiver: str) -> str:
    """The key of a receiver's claim that a stream holds a signal."""
    return f"{claims_prefix(stream)}{signal}-{receiver}"


def claimed_signal(key: str) -> str | None:
    """The signal that a claim names; None for the key of anything else."""
    match = _CLAIM.fullmatch(key)
    return None if match is None else match[1]


def stream_prefix(stream: str) -> str:
    """Prefix of all parts of a stream."""
    return f"{stream}/"


def date_prefix(stream: str, hour: int) -> str:
    """Prefix of all parts of the day that an hour is in."""
    return f"{stream}/date={_date_text(hour // 24)}/"


def hour_prefix(stream: str, hour: int) -> str:
    """Prefix of all parts of one hour."""
    return f"{date_prefix(stream, hour)}hour={hour % 24:02d}/"


@functools.lru_cache(_DAYS_REMEMBERED)
def _date_text(day: int) -> str:
    return date.fromordinal(_EPOCH + day).isoformat()


@functools.lru_cache(_DAYS_REMEMBERED)
def _day(text: str) -> int | None:
    """Days since 1970 of a date; None where there is no such date."""
    try:
        return date.fromisoformat(text).toordinal() - _EPOCH
    except ValueError:
        return None


def parse_key(key: str) -> PartName | None:
    """The part that a key names; None for anything that rayotel did not write."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    stream, date_text, hour, receiver, first, last, level = match.groups()
    day, in_day = _day(date_text), int(hour)
    if day is None or in_day > 23 or first > last:
        return None
    return PartName(stream, day * 24 + in_day, receiver, int(first), int(last), int(level))


def visible(parts: Iterable[Part]) -> list[Part]:
    """The parts that no other part covers, in order of their names."""
    groups: dict[tuple[str, int, str], list[Part]] = {}
    for part in parts:
        name = part.name
        groups.setdefault((name.stream, name.hour, name.receiver), []).append(part)
    kept: list[Part] = []
    for group in groups.values():
        bigger = [part for part in group if part.name.level > 0]
        kept += [p for p in group if not any(b.name.covers(p.name) for b in bigger)]
    return sorted(kept, key=lambda part: part.name)
