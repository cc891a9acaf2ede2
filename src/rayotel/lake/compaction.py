"""Which parts of an hour become one, and which may be removed: decisions from a listing alone.

An hour that is over becomes one part per receiver. Its name spans the segments of all its inputs at
the next level, so it hides them from the moment it is there, and a crash before their removal
changes no answer. The inputs linger for a while, for questions that began before.

Each receiver compacts only its own parts: its commits come in the order of its segments, so a part
that is written later never falls into a span that was merged before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rayotel.lake.layout import Part, PartName, visible

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Job:
    """Merge `inputs`, at least two visible parts of one receiver and hour, into `output`."""

    inputs: tuple[Part, ...]
    output: PartName


def jobs(parts: Iterable[Part], receiver: str, now_unix: float, after_seconds: float) -> list[Job]:
    """What to merge of one stream: hours that ended `after_seconds` ago, oldest first."""
    by_hour: dict[int, list[Part]] = {}
    for part in visible(parts):
        ended = (part.name.hour + 1) * SECONDS_PER_HOUR + after_seconds <= now_unix
        if part.name.receiver == receiver and ended:
            by_hour.setdefault(part.name.hour, []).append(part)
    return [_job(found) for _, found in sorted(by_hour.items()) if len(found) > 1]


def _job(found: list[Part]) -> Job:
    names = [part.name for part in found]
    output = PartName(
        names[0].stream,
        names[0].hour,
        names[0].receiver,
        min(name.first for name in names),
        max(name.last for name in names),
        max(name.level for name in names) + 1,
    )
    return Job(tuple(found), output)


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
            one.name.covers(part.name) and one.written_unix + grace_seconds <= now_unix
            for one in bigger
        )
    ]
