"""Which parts of an hour to merge, and which to remove: decisions from a listing alone.

**An hour that is over** and quiet is settled: its recent parts become one part in the stream's
folder. The output's name has the segments of all inputs, so it covers them as soon as it exists,
and a crash before their removal changes no answer. The inputs stay for the grace, for questions
that began before. What comes later becomes a further settled part beside the first, without the
rows that the first has. So in a stream's folder nothing covers anything, and any engine reads each
row once.

**An hour that still gets points** has a small part for every commit. Opening a part costs a
question as much as reading thousands of rows. So as soon as there are `FAN_IN` neighbours of one
level, they become one of the next. Each point is rewritten once a level, and an hour has two
levels. Only segments of the server's own run are merged so early.

**Parts that overlap**, and neither covers the other, come from copies of one data directory. One
merge covers both. What would have more than `MAX_SPANS` spans stays as it is.

A merge closes a gap between its segments only where it is known to hold nothing: inside `written`,
the segments of the own run that are wholly on storage, and where no other part has segments.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rayotel.lake import layout
from rayotel.lake.layout import MAX_LEVEL, MAX_SPANS, Part, PartName, Span, Spans, overlap, visible

SECONDS_PER_HOUR = 3600
FAN_IN = 16
MAX_YOUNG_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """Merge `inputs`, visible parts of one receiver and hour, into `output`, which covers them.

    `against`: settled parts of the hour that stay. They share no segment with the output, so rows
    that they have may be left out of it.
    """

    inputs: tuple[Part, ...]
    output: PartName
    against: tuple[Part, ...] = ()


def jobs(
    parts: Iterable[Part],
    receiver: str,
    now_unix: float,
    after_seconds: float,
    written: Span | None = None,
) -> list[Job]:
    """What to merge next of one stream, oldest hour first; at most one settling for each hour.

    An hour is settled when it ended `after_seconds` ago and got nothing since; with 0, as soon as
    it is over, whatever it gets. `written`: read before the parts were listed; None: of no run.
    """
    by_hour: dict[int, list[Part]] = {}
    for part in visible(parts):
        if part.name.receiver == receiver and part.name.level < MAX_LEVEL:
            by_hour.setdefault(part.name.hour, []).append(part)
    planned: list[Job] = []
    for hour, group in sorted(by_hour.items()):
        last_change = float((hour + 1) * SECONDS_PER_HOUR)
        if after_seconds:
            arrived = (part.written_unix for part in group if not part.name.is_settled)
            last_change = max(last_change, *arrived, 0.0)
        if last_change + after_seconds > now_unix:
            planned += _young_jobs(group, written)
        else:
            planned += _settling(group, written)
    return planned


def _young_jobs(group: Sequence[Part], written: Span | None) -> list[Job]:
    """Small neighbours of one level. Others may not be merged: a name covers its whole span."""
    if written is None:
        return []
    own = [
        part
        for part in group
        if not part.name.is_settled and all(written.holds(span) for span in part.name.spans)
    ]
    planned = []
    for (_, is_small), run in itertools.groupby(
        sorted(own, key=lambda part: part.name.spans),
        key=lambda part: (part.name.level, part.size_bytes <= MAX_YOUNG_BYTES),
    ):
        members = list(run)
        if is_small and len(members) >= FAN_IN:
            job = _job(members, group, written, is_settled=False)
            if len(job.output.spans) <= MAX_SPANS:
                planned.append(job)
    return planned


def _settling(group: Sequence[Part], written: Span | None) -> list[Job]:
    """The next merge of an hour that is over; none if all its parts are settled and apart."""
    for cluster in _clusters(group):
        members = cluster[:1]
        for part in cluster[1:]:
            job = _job([*members, part], group, written, is_settled=True)
            if len(job.output.spans) <= MAX_SPANS:
                members.append(part)
        if len(members) > 1:
            return [_job(members, group, written, is_settled=True)]
    recent = [part for part in group if not part.name.is_settled]
    if not recent:
        return []
    others = layout.joined(span for part in group for span in part.name.spans)
    spans: Spans = ()
    members = []
    for part in sorted(recent, key=lambda part: part.name.spans):
        wider = _closed((*spans, *part.name.spans), others, written)
        if len(wider) > MAX_SPANS:
            break
        spans = wider
        members.append(part)
    return [_job(members, group, written, is_settled=True)]


def _clusters(group: Sequence[Part]) -> list[list[Part]]:
    """Parts that hang together because they share segments; only those that are several."""
    leader = list(range(len(group)))

    def leading(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    entries = sorted(
        (span, number) for number, part in enumerate(group) for span in part.name.spans
    )
    reach: Span | None = None
    of_reach = 0
    for span, number in entries:
        if reach is not None and span.meets(reach):
            leader[leading(number)] = leading(of_reach)
        if reach is None or span.epoch != reach.epoch or span.last > reach.last:
            reach, of_reach = span, number
    clusters: dict[int, list[Part]] = {}
    for number, part in enumerate(group):
        clusters.setdefault(leading(number), []).append(part)
    return [cluster for cluster in clusters.values() if len(cluster) > 1]


def _job(
    members: Sequence[Part], group: Sequence[Part], written: Span | None, *, is_settled: bool
) -> Job:
    names = [part.name for part in members]
    taken = set(map(id, members))
    others = [part for part in group if id(part) not in taken]
    spans = _closed(
        [span for name in names for span in name.spans],
        layout.joined(span for part in others for span in part.name.spans),
        written,
    )
    level = max(name.level for name in names) + 1
    output = replace(names[0], spans=spans, level=level, is_settled=is_settled, is_old=False)
    against = [
        part for part in others if part.name.is_settled and not overlap(part.name.spans, spans)
    ]
    return Job(tuple(members), output, tuple(against) if is_settled else ())


def _closed(spans: Iterable[Span], others: Spans, written: Span | None) -> Spans:
    """Spans joined, with the gaps closed that hold nothing: all written, and of no other part."""
    plain = layout.joined(spans)
    if written is None:
        return plain
    gaps = [
        Span(one.epoch, one.last + 1, other.first - 1)
        for one, other in itertools.pairwise(plain)
        if one.epoch == other.epoch
    ]
    empty = [gap for gap in gaps if written.holds(gap) and not _is_among(gap, others)]
    return layout.joined((*plain, *empty))


def _is_among(gap: Span, others: Spans) -> bool:
    """Whether joined spans have a segment of the gap."""
    place = bisect.bisect_left(others, gap)
    return any(gap.meets(span) for span in others[max(0, place - 1) : place + 1])


def removable(
    parts: Iterable[Part], receiver: str, now_unix: float, grace_seconds: float
) -> list[Part]:
    """Parts of a receiver that are covered for long enough, and any with a name of 0.1.0.

    A part that is covered goes `grace_seconds` after its cover came. A settled part goes at once,
    so that no engine reads both, and only if its cover is settled too.
    """
    listed = list(parts)
    covers: dict[tuple[int, str], list[Part]] = {}
    for part in visible(listed):
        covers.setdefault((part.name.hour, part.name.receiver), []).append(part)
    return [
        part
        for part in listed
        if (part.name.receiver == receiver or part.name.is_old)
        and any(
            cover.name.covers(part.name) and _has_lasted(cover, part, now_unix, grace_seconds)
            for cover in covers[part.name.hour, part.name.receiver]
        )
    ]


def _has_lasted(cover: Part, part: Part, now_unix: float, grace_seconds: float) -> bool:
    if part.name.is_settled:
        return cover.name.is_settled
    return cover.written_unix + grace_seconds <= now_unix
