"""Columns that are constant in a series: its id, fixed values, labels and overflow.

Everything comes from a `SeriesIndex`, in order of the series, and is repeated for their rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayotel.lake import schema
from rayotel.lake.label_columns import ChosenLabels, member_text, overflow_text
from rayotel.lake.rows.dictionaries import (
    Codes,
    distinct,
    numbered,
    spread_column,
    text_column,
)
from rayotel.lake.rows.series_index import SeriesIndex

Indexes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

# labels of series that are looked at in one step
LABELS_AT_ONCE = 1 << 18
# below this, texts of fixed columns need not be counted one by one
MANY_TEXT_BYTES = 1 << 20
_PER_SERIES = (
    "metric_name", "metric_type", "metric_unit", "metric_description", "metric_metadata",
    "aggregation_temporality", "is_monotonic", "scope_name", "scope_version", "scope_schema_url",
    "scope_dropped_attributes_count", "resource_schema_url", "resource_dropped_attributes_count",
    "resource_entity_refs",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class UsedSeries:
    """The series of a table in order, as numbers of an index, and how many rows each has."""

    index: SeriesIndex
    numbers: Indexes
    counts: Ints

    def of_rows(self, codes: Codes) -> Codes:
        """What is of a series, for each of its rows."""
        return codes.repeat(self.counts)

    def stretches(self) -> Iterator[UsedSeries]:
        """The same series in stretches that have few labels each."""
        ends = np.cumsum(self.index.label_counts(self.numbers), dtype=np.int64)
        first = 0
        while first < len(ends):
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + LABELS_AT_ONCE, "right")))
            yield self.part(first, last)
            first = last

    def part(self, first: int, last: int) -> UsedSeries:
        """The series at these places, the last excluded."""
        return UsedSeries(self.index, self.numbers[first:last], self.counts[first:last])


class LabelPairs:
    """The labels of series as pairs of column and text.

    `present` are the distinct pairs, and `first` where each appears first; `pairs` are those of all
    series, one series after another, as places in `present`; `owners` are the places of their
    series.
    """

    __slots__ = ("first", "owners", "pairs", "present", "used")

    def __init__(self, used: UsedSeries) -> None:
        self.used = used
        numbers, self.owners = used.index.labels(used.numbers)
        self.present, self.first, self.pairs = distinct(numbers, used.index.pair_count)

    def columns(self) -> tuple[Ints, Indexes]:
        """The numbers of the columns, and per distinct pair the place of its own among them."""
        index = self.used.index
        columns, _, places = distinct(index.columns(self.present), index.column_count)
        return columns, places

    def add_to(self, series: Counter[str], texts: Counter[str]) -> None:
        """Count by column how many of the series have it, and its distinct texts."""
        columns, places = self.columns()
        names = [self.used.index.column_name(column) for column in columns.tolist()]
        of_columns = np.bincount(places.take(self.pairs), minlength=len(columns))
        series.update(dict(zip(names, of_columns.tolist(), strict=True)))
        of_columns = np.bincount(places, minlength=len(columns))
        texts.update(dict(zip(names, of_columns.tolist(), strict=True)))


def fixed_bytes(used: UsedSeries) -> Ints:
    """The bytes of the texts of fixed columns, each counted for the series that has it first."""
    index = used.index
    present, first, _ = distinct(index.fixed_numbers(used.numbers), index.fixed_count)
    sizes = np.zeros(len(used.numbers), np.int64)
    of_contents = index.fixed_sizes(present)
    if int(of_contents.sum()) >= MANY_TEXT_BYTES:
        seen: set[str] = set()
        for place in np.argsort(first).tolist():
            new = index.fixed_texts(int(present[place])) - seen
            seen |= new
            sizes[first[place]] = sum(map(len, new))
    return sizes


class LabelBytes:
    """What labels cost beside their codes: texts, each counted for the series that has it first."""

    def __init__(self, labels: ChosenLabels) -> None:
        self._labels = labels
        self._seen: Ints = np.empty(0, np.int64)
        self._overflows: set[int] = set()

    def of(self, stretch: LabelPairs) -> Ints:
        """Bytes for each series of the next stretch."""
        index, used = stretch.used.index, stretch.used
        of_pairs = index.text_sizes(stretch.present)
        is_new = np.isin(stretch.present, self._seen, invert=True, assume_unique=True)
        self._seen = np.append(self._seen, stretch.present[is_new])
        owners = stretch.owners.take(stretch.first)
        length = len(used.numbers)
        sizes = np.bincount(owners, of_pairs * is_new, minlength=length).astype(np.int64)
        if self._labels.beyond:
            self._add_overflow(sizes, stretch, of_pairs)
        return sizes

    def _add_overflow(self, sizes: Ints, stretch: LabelPairs, of_pairs: Ints) -> None:
        """Add the texts of labels beyond the bound: each distinct combination once."""
        columns, places = stretch.columns()
        names = [stretch.used.index.column_name(column) for column in columns.tolist()]
        lengths = np.array(
            [len(name) + 8 if name.lower() in self._labels.beyond else 0 for name in names]
        ).take(places)
        members = np.where(lengths > 0, lengths + of_pairs, 0)
        for owner, some in beyond_pairs(stretch, lengths > 0):
            content = hash(stretch.present.take(some).tobytes())
            if content not in self._overflows:
                self._overflows.add(content)
                sizes[owner] += int(members.take(some).sum())


def beyond_pairs(
    labels: LabelPairs, is_chosen: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, Indexes]]:
    """Places of series that have pairs of which each is chosen, and these pairs."""
    chosen_ones = is_chosen.take(labels.pairs)
    pairs, owners = labels.pairs[chosen_ones], labels.owners[chosen_ones]
    begins = np.flatnonzero(np.append(len(owners) > 0, owners[1:] != owners[:-1]))
    ends = np.append(begins[1:], len(owners))
    for owner, begin, end in zip(owners.take(begins), begins, ends, strict=True):
        yield int(owner), pairs[begin:end]


def fixed_columns(used: UsedSeries) -> dict[str, pa.Array]:
    """`series_id` and the fixed columns; those that are null throughout are left out."""
    ids = used.index.ids(used.numbers)
    columns = {"series_id": pa.array(ids.repeat(used.counts))}
    contents, places = used.index.fixed(used.numbers)
    of_rows = used.of_rows(places)

    def spread(codes: Codes) -> Codes:
        return codes.take(of_rows)

    for name in _PER_SERIES:
        values = [fixed.get(name) for fixed in contents]
        if all(value is None for value in values):
            continue
        kind = schema.METRIC_TYPES[name]
        if pa.types.is_string(kind):
            texts = [None if value is None else str(value) for value in values]
            columns[name] = text_column(texts, spread)
        else:
            columns[name] = pa.array(values, kind).take(pa.array(of_rows))
    return columns


class SeriesLabels:
    """The labels of a table's series. Arrays have a value for each distinct pair."""

    def __init__(self, pairs: LabelPairs, labels: ChosenLabels) -> None:
        self._used = pairs.used
        self._labels = pairs
        self._present, self._first, self._pairs = pairs.present, pairs.first, pairs.pairs
        self._owners = pairs.owners
        index = pairs.used.index
        self._names = sorted(labels.spelled.values())
        self._beyond = labels.beyond
        places = {name: place for place, name in enumerate(self._names)}
        used_columns, self._column = pairs.columns()
        self._column_names = [index.column_name(column) for column in used_columns.tolist()]
        target = np.full(len(used_columns), -1, np.int64)
        is_own = np.zeros(len(used_columns), np.bool_)
        for place, column in enumerate(self._column_names):
            name = labels.spelled.get(column.lower())
            if name is not None:
                target[place] = places[name]
                is_own[place] = name == column
        # the column of the table that holds the text, or -1; whether it has the label's spelling
        self._target = target.take(self._column)
        self._is_own = is_own.take(self._column)

    def columns(self) -> Iterator[tuple[str, pa.Array]]:
        """Label columns by name."""
        codes, order = self._codes()
        starts = np.searchsorted(self._target.take(order), np.arange(len(self._names) + 1))
        texts = self._used.index.texts(self._present.take(order))
        length = len(self._used.numbers)
        kind = np.int16 if np.diff(starts).max(initial=0) < 2**15 else np.int32
        of_series: Codes = np.full(len(self._names) * length, -1, kind)
        pairs, owners = self._pairs, self._owners
        if self._target.min(initial=0) < 0:
            has_column = (self._target >= 0).take(pairs)
            pairs, owners = pairs[has_column], owners[has_column]
        places = (self._target * length).take(pairs)
        places += owners
        of_series[places] = codes.astype(kind).take(pairs)
        del places, pairs, owners
        for number, name in enumerate(self._names):
            column = of_series[number * length : (number + 1) * length]
            of_column = texts[starts[number] : starts[number + 1]]
            yield name, spread_column(column, of_column, self._used.of_rows)

    def _codes(self) -> tuple[Indexes, Ints]:
        """The code of each pair's text in its column; and the pairs by column and code."""
        same = np.arange(len(self._present))
        first = self._first.copy()
        has_column = self._target >= 0
        # one text under two spellings is one text of their column
        shared = self._target[has_column & ~self._is_own]
        if len(shared):
            shared_pairs = np.flatnonzero(np.isin(self._target, shared))
            texts = self._used.index.texts(self._present.take(shared_pairs))
            known: dict[tuple[int, str], int] = {}
            for pair, text in zip(shared_pairs.tolist(), texts, strict=True):
                same[pair] = known.setdefault((int(self._target[pair]), text), pair)
                first[same[pair]] = min(first[same[pair]], first[pair])
        kept = np.flatnonzero(has_column & (same == np.arange(len(same))))
        order = kept[np.lexsort((first.take(kept), self._target.take(kept)))]
        target = self._target.take(order)
        codes = np.zeros(len(same), np.int32)
        codes[order] = np.arange(len(order)) - np.searchsorted(target, target)
        return codes.take(same), order

    def rows_beyond(self) -> int:
        """How many rows have a label that has no column because of a bound."""
        if not self._beyond:
            return 0
        is_beyond = np.array([name.lower() in self._beyond for name in self._column_names])
        owners = self._owners[is_beyond.take(self._column).take(self._pairs)]
        return int(self._used.counts.take(np.unique(owners)).sum())

    def overflow(self) -> pa.Array:
        """Labels without a column of their own, as JSON."""
        index = self._used.index
        present, places = numbered(index.spares(self._used.numbers), index.spare_count)
        texts: list[str | None] = [index.spare_text(number) for number in present.tolist()]
        of_series = places
        if not self._is_own.all():
            of_series = places.copy()
            self._add_demoted(of_series, texts, present)
        return text_column(texts, lambda codes: self._used.of_rows(codes.take(of_series)))

    def _add_demoted(self, of_series: Indexes, texts: list[str | None], spares: Ints) -> None:
        """Give series whose overflow has other labels than spare ones a text of their own."""
        demoted = np.flatnonzero(~self._is_own)
        columns = [self._column_names[column] for column in self._column.take(demoted).tolist()]
        values = self._used.index.texts(self._present.take(demoted))
        pairs = dict(zip(demoted.tolist(), zip(columns, values, strict=True), strict=True))
        members = {pair: member_text(*named) for pair, named in pairs.items()}
        # JSON has its members in order of their names
        _, ranks = np.unique(np.array(self._column_names, dtype=object), return_inverse=True)
        rank = ranks.take(self._column)
        # few are ever different, and JSON costs more than all else of a series
        known: dict[tuple[bytes, int], int] = {}
        for owner, some in beyond_pairs(self._labels, ~self._is_own):
            spare = int(of_series[owner])
            number = known.setdefault((some.tobytes(), spare), len(texts))
            if number == len(texts):
                in_order = some.take(np.argsort(rank.take(some))).tolist()
                texts.append(self._text(in_order, int(spares[spare]), pairs, members))
            of_series[owner] = number

    def _text(
        self,
        some: Sequence[int],
        spare: int,
        pairs: dict[int, tuple[str, str]],
        members: dict[int, str],
    ) -> str:
        spare_pairs = self._used.index.spare_pairs(spare)
        if not spare_pairs:
            return "{" + ", ".join(map(members.__getitem__, some)) + "}"
        # of one label sent twice, the value that could have had the column was sent first
        return overflow_text([*map(pairs.__getitem__, some), *spare_pairs])
