"""Names of objects on storage: the only author and the only reader of object keys.

    <stream>/date=YYYY-MM-DD/hour=HH/<part>                     settled: each row once
    _rayotel/recent/<stream>/date=YYYY-MM-DD/hour=HH/<part>     not settled yet, or covered

    <part> = <receiver>-<level>-<epoch>.<first>.<last>[-<epoch>.<first>.<last>...].parquet

`date` and `hour` are the UTC hour of event time. `receiver` is the id of the server that wrote the
part. An epoch (ten hexadecimal digits) is one run of a server; a span is its WAL segments from
`first` to `last`. Spans are sorted, and joined where they are adjacent. Numbers have no zeros in
front. `level` is 0 for a part from a commit, and more for a part that replaces others.

**A part holds all rows of its hour that its segments have**, unless a part beside it has the same
row. So **parts cover parts by name**: a part covers another of its stream, hour and receiver if
each span of the other lies inside one of its own, and its spans are larger or its level is higher
or it is settled and the other is not. A listing is the catalog.

    _rayotel/claims/<stream>/<signal>-<receiver>    the signal of a stream (see `claims`), whose
                                                    name is in lower case, as SQL takes it
    _rayotel/layout                                 the version of all this (see `version`)
    _rayotel/damaged/<key>                          what `rayotel verify --repair` moved aside

No stream's name begins with `_`. rayotel 0.1.0 had another name for a part, in the stream's folder:
`<receiver>-<first>-<last>-<level>.parquet`, with segments of 12 digits. It is read as a part of the
epoch `0000000000`, until `migration` has moved it.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import NamedTuple

MAX_SPANS = 6  # a file's name has at most 255 bytes
MAX_LEVEL = 999
OLD_EPOCH = "0000000000"
OWN = "_rayotel/"
RECENT = f"{OWN}recent/"
VERSION_KEY = f"{OWN}layout"
DAMAGED = f"{OWN}damaged/"

_RECEIVER = re.compile(r"[0-9a-f]{12}")
# each part has exactly one key that matches: no leading zeros, no digits but ASCII's
_NUMBER = r"(?:0|[1-9]\d{0,11})"
_SPAN = rf"[0-9a-f]{{10}}\.{_NUMBER}\.{_NUMBER}"
_KEY = re.compile(
    r"([A-Za-z0-9-][A-Za-z0-9_-]{0,99})/date=(\d{4}-\d\d-\d\d)/hour=(\d\d)/"
    r"([0-9a-f]{12})-(?:"
    rf"(0|[1-9]\d{{0,2}})-({_SPAN}(?:-{_SPAN}){{0,{MAX_SPANS - 1}}})"
    r"|(\d{12})-(\d{12})-(0|[1-9]\d{0,2}))\.parquet",
    re.ASCII,
)
_CLAIM = re.compile(r"_rayotel/claims/[a-z0-9_-]{1,100}/([a-z]+)-[0-9a-f]{12}", re.ASCII)
_EPOCH = date(1970, 1, 1).toordinal()
_DAYS_REMEMBERED = 4096


def is_receiver_id(text: str) -> bool:
    """Twelve hexadecimal digits."""
    return _RECEIVER.fullmatch(text) is not None


class Span(NamedTuple):
    """WAL segments of one epoch, from number `first` to number `last`, both included."""

    epoch: str
    first: int
    last: int

    def holds(self, other: Span) -> bool:
        """Whether all segments of the other are among its own."""
        return self.epoch == other.epoch and self.first <= other.first and other.last <= self.last

    def meets(self, other: Span) -> bool:
        """Whether they share a segment."""
        is_apart = self.last < other.first or other.last < self.first
        return self.epoch == other.epoch and not is_apart


Spans = tuple[Span, ...]


def joined(spans: Iterable[Span], written: Span | None = None) -> Spans:
    """The same segments as a name has them: sorted, and joined where they touch.

    `written`: segments which will never give a part again that is not on storage yet. Gaps inside
    it are closed, for they hold nothing.
    """
    result: list[Span] = []
    for span in sorted(spans):
        before = result[-1] if result else None
        if before is None or before.epoch != span.epoch:
            result.append(span)
        elif span.first <= before.last + 1 or (
            written is not None and written.holds(Span(span.epoch, before.last + 1, span.first - 1))
        ):
            result[-1] = Span(span.epoch, before.first, max(before.last, span.last))
        else:
            result.append(span)
    return tuple(result)


def overlap(spans: Spans, others: Spans) -> bool:
    """Whether two parts of one hour and receiver share a segment."""
    return any(span.meets(other) for span in spans for other in others)


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """Fields of a part's key. `hour` counts from 1970; `spans` are as `joined` gives them.

    `is_old`: under its name of 0.1.0, in the stream's folder; it is not settled.
    """

    stream: str
    hour: int
    receiver: str
    spans: Spans
    level: int
    is_settled: bool
    is_old: bool = False

    @property
    def key(self) -> str:
        """The object key, relative to the lake. Raises ValueError for spans that are not joined."""
        folder = hour_prefix(self.stream, self.hour, is_settled=self.is_settled or self.is_old)
        if self.is_old:
            (span,) = self.spans
            return (
                f"{folder}{self.receiver}-{span.first:012d}-{span.last:012d}-{self.level}.parquet"
            )
        if not self.spans or (len(self.spans) > 1 and self.spans != joined(self.spans)):
            raise ValueError(f"not sorted and joined: {self.spans}")
        spans = "-".join(f"{span.epoch}.{span.first}.{span.last}" for span in self.spans)
        return f"{folder}{self.receiver}-{self.level}-{spans}.parquet"

    @property
    def rank(self) -> tuple[int, bool, bool]:
        """Which of several parts of the same segments counts: the greatest."""
        return self.level, self.is_settled, not self.is_old

    @property
    def segments(self) -> int:
        """How many segments its spans have."""
        return sum(span.last - span.first + 1 for span in self.spans)

    def covers(self, other: PartName) -> bool:
        """Whether this part covers `other`: a strict partial order."""
        if (self.stream, self.hour, self.receiver) != (other.stream, other.hour, other.receiver):
            return False
        if self.spans == other.spans:
            return self.rank > other.rank
        return all(any(own.holds(span) for own in self.spans) for span in other.spans)


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is on storage, as a listing shows it."""

    name: PartName
    size_bytes: int
    written_unix: float = 0.0


def claims_prefix(stream: str) -> str:
    """Prefix of all claims of a stream."""
    return f"{OWN}claims/{stream.lower()}/"


def claim_key(stream: str, signal: str, receiver: str) -> str:
    """The key of a receiver's claim that a stream holds a signal."""
    return f"{claims_prefix(stream)}{signal}-{receiver}"


def claimed_signal(key: str) -> str | None:
    """The signal that a claim names; None for the key of anything else."""
    match = _CLAIM.fullmatch(key)
    return None if match is None else match[1]


def stream_prefix(stream: str, *, is_settled: bool) -> str:
    """Prefix of all parts of a stream, of those that are settled or of those that are not."""
    return f"{'' if is_settled else RECENT}{stream}/"


def date_prefix(stream: str, hour: int, *, is_settled: bool) -> str:
    """Prefix of all parts of the day that an hour is in."""
    return f"{stream_prefix(stream, is_settled=is_settled)}date={_date_text(hour // 24)}/"


def hour_prefix(stream: str, hour: int, *, is_settled: bool) -> str:
    """Prefix of all parts of one hour."""
    return f"{date_prefix(stream, hour, is_settled=is_settled)}hour={hour % 24:02d}/"


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
    is_recent = key.startswith(RECENT)
    match = _KEY.fullmatch(key, len(RECENT) if is_recent else 0)
    if match is None:
        return None
    stream, date_text, in_day, receiver, level, text, *old = match.groups()
    day = _day(date_text)
    if day is None or int(in_day) > 23:
        return None
    hour = day * 24 + int(in_day)
    if text is None:
        first, last = int(old[0]), int(old[1])
        if is_recent or first > last:
            return None
        spans: Spans = (Span(OLD_EPOCH, first, last),)
        return PartName(stream, hour, receiver, spans, int(old[2]), is_settled=False, is_old=True)
    spans = tuple(_span(piece) for piece in text.split("-"))
    if any(span.first > span.last for span in spans) or not all(
        one.epoch < other.epoch or (one.epoch == other.epoch and one.last + 1 < other.first)
        for one, other in pairwise(spans)
    ):
        return None
    return PartName(stream, hour, receiver, spans, int(level), is_settled=not is_recent)


def _span(text: str) -> Span:
    epoch, first, last = text.split(".")
    return Span(epoch, int(first), int(last))


_BY_NAME = operator.attrgetter(
    "name.stream", "name.hour", "name.receiver", "name.spans", "name.level", "name.is_settled",
    "name.is_old",
)  # fmt: skip


def visible(parts: Iterable[Part]) -> list[Part]:
    """The parts that no other part covers, in order of their names."""
    groups: dict[tuple[str, int, str], list[Part]] = {}
    for part in parts:
        name = part.name
        groups.setdefault((name.stream, name.hour, name.receiver), []).append(part)
    kept: list[Part] = []
    for group in groups.values():
        kept += group if len(group) == 1 else _uncovered(group)
    return sorted(kept, key=_BY_NAME)


def _uncovered(group: list[Part]) -> list[Part]:
    """Of parts of one hour and receiver those that no other covers.

    Spans are sorted so that a cover's come before those that it covers. The one that reaches
    furthest is asked first, for it is nearly always the cover where there is any.
    """
    entries = sorted(
        (span.epoch, span.first, -span.last, -part.name.segments, _falling(part.name), number)
        for number, part in enumerate(group)
        for span in part.name.spans
    )
    reach: list[int] = []  # of the entries of one epoch so far, which one reaches furthest
    covered: set[int] = set()
    for place, (epoch, first, minus_last, _, _, number) in enumerate(entries):
        is_new_epoch = not reach or entries[reach[-1]][0] != epoch
        name = group[number].name
        if not is_new_epoch and name.spans[0][:2] == (epoch, first):
            furthest = group[entries[reach[-1]][5]].name
            if furthest.covers(name) or any(
                group[entries[at][5]].name.covers(name)
                for at in _back(reach, entries, place, minus_last)
            ):
                covered.add(number)
        goes_further = is_new_epoch or minus_last < entries[reach[-1]][2]
        reach.append(place if goes_further else reach[-1])
    return [part for number, part in enumerate(group) if number not in covered]


_Entry = tuple[str, int, int, int, tuple[int, bool, bool], int]


def _back(reach: list[int], entries: list[_Entry], place: int, minus_last: int) -> Iterator[int]:
    """The entries before a place, from there back to where none reaches as far."""
    epoch = entries[place][0]
    for at in range(place - 1, -1, -1):
        if entries[reach[at]][0] != epoch or entries[reach[at]][2] > minus_last:
            return
        yield at


def _falling(name: PartName) -> tuple[int, bool, bool]:
    level, is_settled, is_new = name.rank
    return -level, not is_settled, not is_new
