"""An index of a stream's series: a new series is added once, and used by each later commit.

A cluster sends the same series every few seconds. Work that takes Python a step per series or label
is done here, once: each series gets a number, and so does each pair of a column and a text. A
commit uses these numbers as places in arrays.

Answers do not depend on other series in the index, apart from the numbers themselves. So a part
that is made again with an empty index has the same bytes.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, count, islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rayotel.lake.label_columns import overflow_text
from rayotel.lake.rows.dictionaries import numbered
from rayotel.lake.rows.grown import Grown
from rayotel.lake.rows.series_order import Content, Key, SeriesOrder
from rayotel.model import Series

Indexes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Fixed = Mapping[str, str | bool | int | None]
Pair = tuple[str, str]
Numbered = TypeVar("Numbered")
# what is done in one call keeps all other threads waiting
_SERIES_AT_A_TIME = 1000
# upper estimates: keys and places in dictionaries and arrays, and the objects that are held
SERIES_BYTES = 500
LABEL_BYTES = 12
PAIR_BYTES = 250
FIXED_BYTES = 1000


def _newest(numbers: dict[Numbered, int], length: int) -> list[Numbered]:
    """The last of a dictionary that numbers its keys, by their numbers."""
    newest = [*islice(reversed(numbers), length)]
    newest.reverse()
    return newest


def _kind(value: str | bool | int | None) -> str:
    return type(value).__name__


class _Pairs:
    """Numbers of pairs of a column and a text. A new pair gets the next number."""

    def __init__(self) -> None:
        # no step of Python for a pair, new or known
        self.numbers = defaultdict[Pair, int](count().__next__)
        self.columns: dict[str, int] = {}
        self.column_names: list[str] = []
        self.column_of = Grown(np.int32)
        self.text_of: list[str] = []
        self.size_of = Grown(np.int64)
        self.size_bytes = 0

    def settle(self) -> None:
        """Know the columns and texts of new pairs."""
        new = _newest(self.numbers, len(self.numbers) - len(self.text_of))
        columns = [column for column, _ in new]
        texts = [text for _, text in new]
        for column in set(columns).difference(self.columns):
            self.columns[column] = len(self.columns)
            self.column_names.append(column)
            self.size_bytes += PAIR_BYTES + sys.getsizeof(column)
        places = map(self.columns.__getitem__, columns)
        self.column_of.add(np.fromiter(places, np.int32, len(columns)))
        self.text_of += texts
        self.size_of.add(np.fromiter(map(len, texts), np.int64, len(texts)))
        self.size_bytes += PAIR_BYTES * len(texts) + sum(map(sys.getsizeof, texts))


class SeriesIndex:
    """Numbers of series, and by these their order, values, labels and overflow.

    Series are told apart by identity, and are held, so that an identity is never another's.
    """

    def __init__(self) -> None:
        self._numbers = defaultdict[Series, int](count().__next__)
        self._order = SeriesOrder()
        self._ids = Grown(np.int64)
        self._fixed_of = Grown(np.int32)
        self._fixed: list[Fixed] = []
        self._fixed_sizes = Grown(np.int64)
        self._fixed_contents: dict[Content, int] = {}
        self._fixed_by_identity: dict[int, tuple[int, Content, str]] = {}
        self._fixed_texts: set[str] = set()
        self._spare_of = Grown(np.int32)
        self._spares: dict[tuple[Pair, ...], int] = {(): 0}
        self._spare_pairs: list[tuple[Pair, ...]] = [()]
        self._spare_texts: list[str | None] = [None]
        self._pairs = _Pairs()
        self._labels = Grown(np.int32)
        self._label_counts = Grown(np.int32)
        self._label_ends = Grown(np.int64)
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes, with the series that it holds."""
        return self._size_bytes + self._pairs.size_bytes

    def numbers(self, series: Sequence[Series]) -> Indexes:
        """The number of each of these."""
        numbers = self._numbers.__getitem__
        of_series = np.fromiter(map(numbers, series), np.int32, len(series))
        new = _newest(self._numbers, len(self._numbers) - len(self._label_counts))
        for start in range(0, len(new), _SERIES_AT_A_TIME):
            self._add(new[start : start + _SERIES_AT_A_TIME])
        return of_series

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
        return [self._fixed[number] for number in present.tolist()], places

    def fixed_numbers(self, series: Indexes) -> Indexes:
        """A number for the values of fixed columns of each series."""
        return self._fixed_of.held.take(series)

    @property
    def fixed_count(self) -> int:
        """Such numbers are below this one."""
        return len(self._fixed)

    def fixed_sizes(self, numbers: Ints) -> Ints:
        """How many characters the texts of each of these have."""
        return self._fixed_sizes.held.take(numbers)

    def fixed_texts(self, number: int) -> set[str]:
        """The texts among the values of fixed columns."""
        return {value for value in self._fixed[number].values() if isinstance(value, str)}

    def spares(self, series: Indexes) -> Indexes:
        """A number for the spare labels of each series."""
        return self._spare_of.held.take(series)

    @property
    def spare_count(self) -> int:
        """Numbers of spare labels are below this one."""
        return len(self._spare_texts)

    def spare_text(self, number: int) -> str | None:
        """Spare labels by their number, as text for the overflow; None where there are none."""
        return self._spare_texts[number]

    def spare_pairs(self, number: int) -> tuple[Pair, ...]:
        """Spare labels by their number."""
        return self._spare_pairs[number]

    def label_counts(self, series: Indexes) -> Indexes:
        """How many labels each has, apart from spare ones."""
        return self._label_counts.held.take(series)

    def labels(self, series: Indexes) -> tuple[Indexes, Indexes]:
        """The pairs of each series, one series after another; and per pair the series' place."""
        counts = self.label_counts(series)
        # from a place in the answer to the place where the labels of the same series are
        moved = self._label_ends.held.take(series)
        moved -= np.cumsum(counts)
        places = moved.repeat(counts)
        places += np.arange(len(places))
        owners = np.arange(len(series), dtype=np.int32).repeat(counts)
        return self._labels.held.take(places), owners

    @property
    def pair_count(self) -> int:
        """Numbers of pairs are below this one."""
        return len(self._pairs.text_of)

    @property
    def column_count(self) -> int:
        """Numbers of columns are below this one."""
        return len(self._pairs.columns)

    def column_name(self, column: int) -> str:
        """A column as spelled, by its number."""
        return self._pairs.column_names[column]

    def columns(self, pairs: npt.NDArray[np.integer]) -> Indexes:
        """The number of each pair's column."""
        return self._pairs.column_of.held.take(pairs)

    def text_sizes(self, pairs: npt.NDArray[np.integer]) -> Ints:
        """How many characters the text of each pair has."""
        return self._pairs.size_of.held.take(pairs)

    def texts(self, pairs: npt.NDArray[np.integer]) -> list[str]:
        """The text of each pair."""
        texts = self._pairs.text_of
        return [texts[pair] for pair in pairs.tolist()]

    def _add(self, new: list[Series]) -> None:
        first = len(self._label_counts)
        shared: Fixed | None = None
        content: Content = ()
        keys: list[Key] = []
        fixed, begins = [], []
        for number, series in enumerate(new, first):
            # series of one metric stand together
            if series.fixed is not shared:
                shared = series.fixed
                known = self._fixed_by_identity.get(id(shared)) or self._add_fixed(shared)
                of_these, content, metric = known
                keys = self._order.keys_of(metric)
                fixed.append(of_these)
                begins.append(number)
            keys.append((series.labels, content, series.spare, series.series_id, number))
        lengths = np.diff([*begins, first + len(new)])
        self._fixed_of.add(np.array(fixed, np.int32).repeat(lengths))
        self._add_spares([series.spare for series in new])
        self._ids.add(np.array([series.series_id for series in new], np.int64))
        labels = [series.labels for series in new]
        counts = np.fromiter(map(len, labels), np.int32, len(labels))
        total = int(counts.sum())
        pairs = map(self._pairs.numbers.__getitem__, chain.from_iterable(labels))
        self._labels.add(np.fromiter(pairs, np.int32, total))
        before = self._label_ends.held[-1] if first else 0
        self._label_counts.add(counts)
        self._label_ends.add(before + np.cumsum(counts, dtype=np.int64))
        self._pairs.settle()
        self._size_bytes += SERIES_BYTES * len(new) + LABEL_BYTES * total

    def _add_fixed(self, fixed: Fixed) -> tuple[int, Content, str]:
        # texts stay where they are: one of a megabyte may be in thousands of contents
        content: Content = tuple(
            [(name, _kind(value), str(value)) for name, value in sorted(fixed.items())]
        )
        number = self._fixed_contents.setdefault(content, len(self._fixed))
        if number == len(self._fixed):
            self._fixed.append(fixed)
            size = sum([len(text) for _, _, text in content])
            self._fixed_sizes.add(np.array([size], np.int64))
            new = {text for _, _, text in content} - self._fixed_texts
            self._fixed_texts |= new
            self._size_bytes += FIXED_BYTES + sum(map(sys.getsizeof, new))
        known = number, content, str(fixed["metric_name"])
        self._fixed_by_identity[id(fixed)] = known
        self._size_bytes += FIXED_BYTES
        return known

    def _add_spares(self, spares: list[tuple[Pair, ...]]) -> None:
        for spare in set(spares).difference(self._spares):
            text = overflow_text(spare)
            self._spares[spare] = len(self._spares)
            self._spare_pairs.append(spare)
            self._spare_texts.append(text)
            self._size_bytes += PAIR_BYTES * (1 + len(spare)) + 2 * sys.getsizeof(text)
        spare_of = map(self._spares.__getitem__, spares)
        self._spare_of.add(np.fromiter(spare_of, np.int32, len(spares)))
