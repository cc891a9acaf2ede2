"""The order in which series stand in a part: by metric, then by labels.

To sort is Python's work, so it is done once per series. Series of a metric that came together are a
run, which is sorted once. Runs become one when rows have series of both. Runs of workers that are
gone are never touched again: in a cluster whose series all change, only new series are sorted.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from rayotel.lake.rows.grown import Grown

Indexes = npt.NDArray[np.int32]
_Pairs = tuple[tuple[str, str], ...]
# of each fixed value its column, type and text
Content = tuple[tuple[str, str, str], ...]
# labels, what is fixed, spare labels and id are the content of a series; its number is the last
Key = tuple[_Pairs, Content, _Pairs, int, int]


@dataclass(frozen=True, slots=True)
class _Run:
    """Series of one metric in order. `repeats`: whether a series equals the one before it."""

    keys: list[Key]
    numbers: Indexes
    repeats: npt.NDArray[np.bool_]


class SeriesOrder:
    """The order of all series that were added, which have numbers from 0 without a gap."""

    def __init__(self) -> None:
        self._new: dict[str, list[Key]] = {}
        self._metrics: dict[str, int] = {}
        self._metric_ranks = np.zeros(0, np.int64)
        self._runs: list[_Run | None] = []
        self._metric_of_run = Grown(np.int32)
        self._run_of_series = Grown(np.int32)
        self._rank_of_series = Grown(np.int32)

    def keys_of(self, metric: str) -> list[Key]:
        """Where the keys of new series of this metric are put; all numbers have one in the end."""
        return self._new.setdefault(metric, [])

    def placed(self, present: Indexes) -> tuple[Indexes, Indexes]:
        """Series in order, each content once; and per series of `present` its place among them."""
        self._sort_what_is_new()
        self._join_what_meets(present)
        runs = self._run_of_series.held.take(present)
        metrics = self._metric_ranks.take(self._metric_of_run.held.take(runs))
        ranks = (metrics << 32) + self._rank_of_series.held.take(present)
        order = np.argsort(ranks)
        in_order = ranks.take(order)
        is_other = np.ones(len(present), np.bool_)
        is_other[1:] = in_order[1:] != in_order[:-1]
        place = np.empty(len(present), np.int32)
        place[order] = np.cumsum(is_other) - 1
        return present.take(order[is_other]), place

    def _sort_what_is_new(self) -> None:
        if not self._new:
            return
        added = np.zeros(sum(map(len, self._new.values())), np.int32)
        self._run_of_series.add(added)
        self._rank_of_series.add(added)
        # a sort keeps all other threads waiting: many short ones instead of a long one
        for metric, keys in self._new.items():
            keys.sort()
            self._remember(self._metrics.setdefault(metric, len(self._metrics)), _run(keys))
        self._new = {}
        if len(self._metrics) > len(self._metric_ranks):
            names = sorted(self._metrics)
            self._metric_ranks = np.empty(len(names), np.int64)
            self._metric_ranks[[self._metrics[name] for name in names]] = np.arange(len(names))

    def _remember(self, metric: int, run: _Run) -> None:
        self._run_of_series.held[run.numbers] = len(self._runs)
        self._rank_of_series.held[run.numbers] = np.cumsum(~run.repeats)
        self._metric_of_run.add(np.array([metric], np.int32))
        self._runs.append(run)

    def _join_what_meets(self, present: Indexes) -> None:
        counts = np.bincount(self._run_of_series.held.take(present), minlength=len(self._runs))
        used = np.flatnonzero(counts)
        metrics = self._metric_of_run.held.take(used)
        for metric in np.flatnonzero(np.bincount(metrics) > 1).tolist():
            meeting = used[metrics == metric].tolist()
            runs = [run for number in meeting if (run := self._runs[number]) is not None]
            for number in meeting:
                self._runs[number] = None
            self._remember(metric, _joined(sorted(runs, key=_length)))


def _length(run: _Run) -> int:
    return len(run.keys)


def _run(keys: list[Key]) -> _Run:
    """A run of sorted keys."""
    repeats = np.zeros(len(keys), np.bool_)
    # almost all have another id than the one before, and few keys need be looked at
    ids = np.fromiter(map(itemgetter(3), keys), np.int64, len(keys))
    _judge(keys, repeats, np.flatnonzero(ids[1:] == ids[:-1]) + 1)
    return _Run(keys, _numbers(keys), repeats)


def _numbers(keys: list[Key]) -> Indexes:
    return np.fromiter(map(itemgetter(-1), keys), np.int32, len(keys))


def _joined(runs: list[_Run]) -> _Run:
    """One run of several, of which the longest is the last."""
    large = runs[-1]
    keys = sorted(key for run in runs[:-1] for key in run.keys)
    places: list[int] = []
    joined: list[Key] = []
    done = 0
    for key in keys:
        place = bisect_left(large.keys, key, done)
        joined += large.keys[done:place]
        joined.append(key)
        places.append(place)
        done = place
    joined += large.keys[done:]
    moved = np.array(places) + np.arange(len(places))
    repeats = np.insert(large.repeats, places, False)
    # only those that came, and those behind them, have another one before them
    behind = np.append(moved, moved + 1)
    _judge(joined, repeats, behind[(behind > 0) & (behind < len(joined))])
    repeats[0] = False
    return _Run(joined, np.insert(large.numbers, places, _numbers(keys)), repeats)


def _judge(keys: list[Key], repeats: npt.NDArray[np.bool_], places: npt.NDArray[np.int64]) -> None:
    """Set whether the keys at these places have the content of the one before."""
    for place in places.tolist():
        repeats[place] = keys[place][:-1] == keys[place - 1][:-1]
