"""Which parts of an hour to merge, and which to remove: decisions from a listing alone.

An hour that is over becomes one part per receiver. The part's name spans the segments of all inputs
at the next level, so the part covers them as soon as it exists, and a crash before their removal
changes no answer. The inputs stay for the grace, for questions that began before.

An hour that still gets points has a small part for every commit. Opening a part costs a question as
much as reading thousands of rows. So as soon as there are `FAN_IN` neighbours of one level, they
become one of the next. Each point is rewritten once a level, and an hour has two levels.

Each receiver compacts only its own parts. Its commits follow the order of its segments, so a later
part never falls into a span that was merged before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from rayotel.lake.layout import Part, PartName, joined, visible

SECONDS_PER_HOUR = 3600
FAN_IN = 16
MAX_YOUNG_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """Merge `inputs`, at least two visible parts of one receiver and hour, into `output`."""

    inputs: tuple[Part, ...]
    output: PartName


def jobs(parts: Iterable[Part], receiver: str, now_unix: float, after_seconds: float) -> list[Job]:
    """What to merge of one stream, oldest hour first.

    An hour is merged whole when it ended `after_seconds` ago and got nothing since; with 0, as soon
    as it is over, whatever it gets.
    """
    by_hour: dict[int, list[Part]] = {}
    for part in visible(parts):
        if part.name.receiver == receiver:
            by_hour.setdefault(part.name.hour, []).append(part)
    planned = []
    for hour, group in sorted(by_hour.items()):
        last_change = float((hour + 1) * SECONDS_PER_HOUR)
        if after_seconds:
            last_change = max(last_change, *(part.written_unix for part in group))
        if last_change + after_seconds > now_unix:
            planned += _young_jobs(group)
        elif len(group) > 1:
            planned.append(_job(group))
    return planned


def _young_jobs(group: list[Part]) -> list[Job]:
    """Small neighbours of one level. Others may not be merged: a name covers its whole span."""
    in_order = sorted(group, key=lambda part: part.name.spans)
    planned = []
    for (_, is_small), run in itertools.groupby(
        in_order, key=lambda part: (part.name.level, part.size_bytes <= MAX_YOUNG_BYTES)
    ):
        members = list(run)
        if is_small and len(members) >= FAN_IN:
            planned.append(_job(members))
    return planned


def _job(members: list[Part]) -> Job:
    names = [part.name for part in members]
    output = PartName(
        names[0].stream,
        names[0].hour,
        names[0].receiver,
        joined(span for name in names for span in name.spans),
        max(name.level for name in names) + 1,
        is_settled=False,
    )
    return Job(tuple(members), output)


def removable(
    parts: Iterable[Part], receiver: str, now_unix: float, grace_seconds: float
) -> list[Part]:
    """Parts of a receiver that another has covered for at least `grace_seconds`."""
    mine = [part for part in parts if part.name.receiver == receiver]
    bigger = [part for part in mine if part.name.level > 0]
    return [
        part
        for part in mine
        if any(
            cover.name.covers(part.name) and cover.written_unix + grace_seconds <= now_unix
            for cover in bigger
        )
    ]
