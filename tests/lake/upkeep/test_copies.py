"""Two servers on copies of one data directory, as names and rows alone: nothing is lost for good.

Each holds the same first segments, and then segments of its own epoch. They commit, merge and
remove in any order, are interrupted, and commit again what a crash let them forget.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest

from rayotel.lake import layout
from rayotel.lake.layout import Part, PartName, Span, joined
from rayotel.lake.upkeep import plan
from rayotel.lake.upkeep.plan import Job
from support.examples import examples
from support.lakes import HOUR, RECEIVER

SHARED = "5" * 10
Segment = tuple[str, int]


class Lake:
    """Parts by name, with their rows and the time of their writing."""

    def __init__(self) -> None:
        self.parts: dict[PartName, tuple[frozenset[str], float]] = {}

    def put(self, name: PartName, rows: set[str]) -> None:
        """Write a part; where the name has other rows, a level higher."""
        while name in self.parts and self.parts[name][0] != rows:
            name = replace(name, level=name.level + 1)
        self.parts.setdefault(name, (frozenset(rows), 1e9 + len(self.parts)))

    def listed(self) -> list[Part]:
        """All parts."""
        return [Part(name, 1, written) for name, (_, written) in self.parts.items()]

    def rows(self) -> Counter[str]:
        """The rows that count."""
        visible = layout.visible(self.listed())
        return Counter(row for part in visible for row in self.parts[part.name][0])

    def merge(self, job: Job) -> None:
        """Do a job."""
        kinds = (job.inputs, job.against)
        inputs, against = (
            {row for part in parts for row in self.parts[part.name][0]} for parts in kinds
        )
        self.put(job.output, inputs - against)


class Copy:
    """A server: its epoch, its next segment, and what it still has to commit."""

    def __init__(self, epoch: str, found: list[Segment]) -> None:
        self.epoch, self.next = epoch, len(found) + 1
        self.waiting = list(found)

    def written(self) -> Span:
        """The segments of its epoch that are wholly on storage."""
        return Span(self.epoch, 0, min([self.next, *(n for _, n in self.waiting)]) - 1)


def name_of(segments: list[Segment]) -> PartName:
    """The part of a commit."""
    spans = joined(Span(epoch, number, number) for epoch, number in segments)
    return PartName("s", HOUR, RECEIVER, spans, 0, is_settled=False)


def settle(lake: Lake, written: Span | None, chance: random.Random | None) -> None:
    """Merge until nothing is left to merge, or until a crash."""
    while jobs := plan.jobs(lake.listed(), RECEIVER, 1e12, 0, written):
        lake.merge(jobs[0])
        if chance is None or chance.random() < 0.9:
            for part in jobs[0].inputs:
                if part.name.is_settled:
                    del lake.parts[part.name]
        if chance is not None and chance.random() < 0.3:
            return


@pytest.mark.parametrize("seed", range(examples(60)))
def test_two_copies_lose_nothing_and_count_once_in_the_end(seed: int) -> None:
    """What was committed counts at every moment; when all is settled each row is there once."""
    chance = random.Random(seed)
    lake = Lake()
    rows: dict[Segment, set[str]] = {(SHARED, n): {f"shared {n}"} for n in (1, 2, 3)}
    copies = [Copy(epoch * 10, list(rows)) for epoch in "ab"]
    values = itertools.count()
    committed: set[str] = set()
    for _ in range(120):
        copy, act = chance.choice(copies), chance.random()
        if act < 0.35:
            segment = copy.epoch, copy.next
            copy.next += 1
            repeated = chance.sample(sorted(set().union(*rows.values())), chance.random() < 0.2)
            rows[segment] = {f"own {next(values)}", *repeated}
            copy.waiting.append(segment)
        elif act < 0.65 and copy.waiting:
            some = copy.waiting[: chance.randint(1, 4)]
            stored = set().union(*(rows[segment] for segment in some))
            lake.put(name_of(some), stored)
            committed |= stored
            if chance.random() < 0.8:
                del copy.waiting[: len(some)]
        elif act < 0.9:
            settle(lake, copy.written(), chance)
        else:
            for part in plan.removable(lake.listed(), RECEIVER, 1e12, 0):
                if chance.random() < 0.7:
                    del lake.parts[part.name]
        assert committed <= set(lake.rows())
    for copy in copies:
        for segment in copy.waiting:
            lake.put(name_of([segment]), rows[segment])
    settle(lake, None, None)
    assert lake.rows() == Counter(set().union(*rows.values()))
