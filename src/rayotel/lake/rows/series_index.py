"""What is known of a stream's series: found when a series comes, and used by each commit after.

A cluster sends the same series every few seconds. All that takes Python a step per series or label
is done here, once: each series gets a number, and so does each pair of a column and a text. By
these numbers a commit takes from arrays what it asks for.

An answer does not depend on what else is known, apart from the numbers themselves. So a part that
is made again with an empty index has the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from rayotel.lake.rows.dictionaries import numbered
from rayotel.lake.rows.grown import Grown
from rayotel.lake.rows.label_columns import overflow_text
from rayotel.lake.rows.series_order import SeriesOrder
from rayotel.model import Series

Indexes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Fixed = Mapping[str, str | bool | int | None]
Pair = tuple[str, str]
# what is done in one call keeps all other threads waiting
_SERIES_AT_A_TIME = 1000
# with keys and places in dictionaries and arrays, and with the objects that are held
SERIES_BYTES = 500
LABEL_BYTES = 12
PAIR_BYTES = 250
FIXED_BYTES = 3000


class _Pairs(dict[Pair, int]):
    """Numbers of pairs of a column and a text; a pair that is asked for gets one."""

    def __init__(self) -> None:
        super().__init__()
        self.columns: dict[str, int] = {}
        self.column_of = Grown(np.int32)
        self.text_of: list[str] = []
        self.size_bytes = 0
        self._new: list[int] = []

    def __missing__(self, pair: Pair) -> int:
        column, text = pair
        number = self[pair] = len(self)
        place = self.columns.get(column)
        if place is None:
            place = self.columns[column] = len(self.columns)
            self.size_bytes += PAIR_BYTES + sys.getsizeof(column)
        self._new.append(place)
        self.text_of.append(text)
        self.size_bytes += PAIR_BYTES + sys.getsizeof(text)
        return number

    def settle(self) -> None:
        """Move the columns of new pairs to where they are asked for."""
        self.column_of.add(np.array(self._new, np.int32))
        self._new.clear()


class SeriesIndex:
    """Numbers of series, and by these their order, values, labels and overflow.

    Series are told apart by identity, and are held, so that an identity is never another's.
    """

    def __init__(self) -> None:
        self._numbers: dict[Series, int] = {}
        self._order = SeriesOrder()
        self._ids = Grown(np.int64)
        self._fixed_of = Grown(np.int32)
        self._fixed: list[Fixed] = []
        self._fixed_by_text: dict[str, int] = {}
        self._fixed_by_identity: dict[int, tuple[int, str, str]] = {}
        self._spare_of = Grown(np.int32)
        self._spares: dict[tuple[Pair, ...], int] = {(): 0}
        self._spare_pairs: list[tuple[Pair, ...]] = [()]
        self._spare_texts: list[str | None] = [None]
        self._pairs = _Pairs()
        self._labels = Grown(np.int32)
        self._label_counts = Grown(np.int32)
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes, with the series that it holds."""
        return self._size_bytes + self._pairs.size_bytes

    def numbers(self, series: Sequence[Series]) -> Indexes:
        """The number of each of these."""
        known = self._numbers
        try:
            return np.fromiter(map(known.__getitem__, series), np.int32, len(series))
        except KeyError:
            new = list(dict.fromkeys([one for one in series if one not in known]))
        for start in range(0, len(new), _SERIES_AT_A_TIME):
            self._add(new[start : start + _SERIES_AT_A_TIME])
        return np.fromiter(map(known.__getitem__, series), np.int32, len(series))

    def placed(self, present: Indexes) -> tuple[Indexes, Indexes]:
        """Series in order of metric and labels, each content once; per one of `present` its place.

        Series of equal content that were made twice become one.
        """
        return self._order.placed(present)

    def ids(self, series: Indexes) -> Ints:
        """The `series_id` of each."""
        return self._ids.held.take(series)

    def fixed(self, series: Indexes) -> tuple[list[Fixed], Indexes]:
        """Values of fixed columns, each content once; and per series which of them it has."""
        present, places = numbered(self._fixed_of.held.take(series), len(self._fixed))
        return [self._fixed[one] for one in present.tolist()], places

    def spares(self, series: Indexes) -> Indexes:
        """A number for the spare labels of each series."""
        return self._spare_of.held.take(series)

    @property
    def spare_texts(self) -> Sequence[str | None]:
        """By the number of spare labels: their text for the overflow, None where there are none."""
        return self._spare_texts

    def spare_pairs(self, number: int) -> tuple[Pair, ...]:
        """Spare labels by their number."""
        return self._spare_pairs[number]

    def labels(self, series: Indexes) -> tuple[Indexes, Indexes]:
        """The pairs of each series, one series after another; and per pair the series' place."""
        ends = np.cumsum(self._label_counts.held, dtype=np.int64)
        counts = self._label_counts.held.take(series)
        # from a place in the answer to the place where the labels of the same series are
        moved = ends.take(series)
        moved -= np.cumsum(counts)
        places = moved.repeat(counts)
        places += np.arange(len(places))
        owners = np.arange(len(series), dtype=np.int32).repeat(counts)
        return self._labels.held.take(places), owners

    @property
    def pair_count(self) -> int:
        """Numbers of pairs are below this one."""
        return len(self._pairs)

    @property
    def column_names(self) -> Sequence[str]:
        """All columns of labels as spelled, by their places."""
        return tuple(self._pairs.columns)

    def columns(self, pairs: npt.NDArray[np.integer]) -> Indexes:
        """The place of each pair's column."""
        return self._pairs.column_of.held.take(pairs)

    def texts(self, pairs: npt.NDArray[np.integer]) -> list[str]:
        """The text of each pair."""
        texts = self._pairs.text_of
        return [texts[one] for one in pairs.tolist()]

    def _add(self, new: list[Series]) -> None:
        first = len(self._numbers)
        fixed_of, spare_of = [], []
        for number, one in enumerate(new, first):
            fixed, text, metric = self._fixed_by_identity.get(id(one.fixed)) or self._add_fixed(one)
            fixed_of.append(fixed)
            spare = self._spares.get(one.spare)
            spare_of.append(self._add_spare(one.spare) if spare is None else spare)
            key = (one.labels, text, one.spare, one.series_id, number)
            self._order.add(metric, key)
        self._numbers.update(zip(new, range(first, first + len(new)), strict=True))
        self._ids.add(np.array([one.series_id for one in new], np.int64))
        self._fixed_of.add(np.array(fixed_of, np.int32))
        self._spare_of.add(np.array(spare_of, np.int32))
        labels = [one.labels for one in new]
        counts = np.fromiter(map(len, labels), np.int32, len(labels))
        total = int(counts.sum())
        pairs = map(self._pairs.__getitem__, chain.from_iterable(labels))
        self._labels.add(np.fromiter(pairs, np.int32, total))
        self._label_counts.add(counts)
        self._pairs.settle()
        self._size_bytes += SERIES_BYTES * len(new) + LABEL_BYTES * total

    def _add_fixed(self, one: Series) -> tuple[int, str, str]:
        text = repr(one.fixed)
        number = self._fixed_by_text.setdefault(text, len(self._fixed))
        if number == len(self._fixed):
            self._fixed.append(one.fixed)
        # one text for all that have this content
        found = number, text, str(one.fixed["metric_name"])
        self._fixed_by_identity[id(one.fixed)] = found
        self._size_bytes += FIXED_BYTES + sys.getsizeof(text)
        return found

    def _add_spare(self, spare: tuple[Pair, ...]) -> int:
        text = overflow_text(spare)
        self._spare_pairs.append(spare)
        self._spare_texts.append(text)
        self._size_bytes += PAIR_BYTES * (1 + len(spare)) + 2 * sys.getsizeof(text)
        return self._spares.setdefault(spare, len(self._spares))
