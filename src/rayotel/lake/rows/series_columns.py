"""Columns that are constant in a series: its id, fixed values, labels and overflow.

Everything comes from a `SeriesIndex`, in order of the series, and is repeated for their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayotel.lake import schema
from rayotel.lake.rows.dictionaries import (
    Codes,
    first_places,
    numbered,
    spread_column,
    text_column,
)
from rayotel.lake.rows.label_columns import LabelColumns, overflow_text
from rayotel.lake.rows.series_index import SeriesIndex

Indexes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

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


def fixed_columns(used: UsedSeries) -> dict[str, pa.Array]:
    """`series_id` and the fixed columns; those that are null throughout are left out."""
    ids = used.index.ids(used.numbers)
    columns = {"series_id": pa.array(ids.repeat(used.counts))}
    distinct, places = used.index.fixed(used.numbers)
    of_rows = used.of_rows(places)

    def spread(codes: Codes) -> Codes:
        return codes.take(of_rows)

    for name in _PER_SERIES:
        values = [fixed.get(name) for fixed in distinct]
        if all(value is None for value in values):
            continue
        kind = schema.METRIC_TYPES[name]
        if pa.types.is_string(kind):
            columns[name] = text_column(values, spread)
        else:
            columns[name] = pa.array(values, kind).take(pa.array(of_rows))
    return columns


class SeriesLabels:
    """The labels of a table's series.

    `_present` are the distinct pairs of column and text; other arrays have a value for each of
    them. `_pairs` are the pairs of all series, one series after another, as places in `_present`;
    `_owners` are the places of their series.
    """

    def __init__(self, used: UsedSeries, labels: LabelColumns) -> None:
        index = used.index
        pairs, self._owners = index.labels(used.numbers)
        first = first_places(pairs, index.pair_count)
        self._used = used
        self._present = np.flatnonzero(first >= 0)
        self._first = first.take(self._present)
        first[self._present] = np.arange(len(self._present))
        self._pairs = first.take(pairs)
        columns = index.columns(self._present)
        self._spelled = index.column_names
        self._column = columns
        used_columns = np.flatnonzero(np.bincount(columns)).tolist()
        spelling = labels.spelling(self._spelled[column] for column in used_columns)
        self._names = sorted(spelling.values())
        places = {name: place for place, name in enumerate(self._names)}
        target = np.full(len(self._spelled), -1, np.int64)
        is_own = np.zeros(len(self._spelled), np.bool_)
        for column in used_columns:
            name = spelling.get(self._spelled[column].lower())
            if name is not None:
                target[column] = places[name]
                is_own[column] = name == self._spelled[column]
        # the column of the table that holds the text, or -1; whether it has the label's spelling
        self._target = target.take(columns)
        self._is_own = is_own.take(columns)

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
        for number, name in enumerate(self._names):
            column = of_series[number * length : (number + 1) * length]
            distinct = pa.array(texts[starts[number] : starts[number + 1]], pa.string())
            yield name, spread_column(column, distinct, self._used.of_rows)

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

    def overflow(self) -> pa.Array:
        """Labels without a column of their own, as JSON."""
        index = self._used.index
        of_series = index.spares(self._used.numbers)
        texts: Sequence[str | None] = index.spare_texts
        if not self._is_own.all():
            of_series, texts = self._with_demoted(of_series, texts)
        present, places = numbered(of_series, len(texts))
        values = [texts[number] for number in present.tolist()]
        return text_column(values, lambda codes: self._used.of_rows(codes.take(places)))

    def _with_demoted(
        self, spares: Indexes, spare_texts: Sequence[str | None]
    ) -> tuple[Indexes, Sequence[str | None]]:
        """Numbers and texts of the overflow where labels other than spare ones are part of it."""
        index = self._used.index
        demoted = np.flatnonzero(~self._is_own)
        columns = [self._spelled[column] for column in self._column.take(demoted).tolist()]
        named = zip(columns, index.texts(self._present.take(demoted)), strict=True)
        pairs = dict(zip(demoted.tolist(), named, strict=True))
        chosen = np.flatnonzero(~self._is_own.take(self._pairs))
        pairs_of_owner: dict[int, list[int]] = {}
        owners = self._owners.take(chosen).tolist()
        for owner, pair in zip(owners, self._pairs.take(chosen).tolist(), strict=True):
            pairs_of_owner.setdefault(owner, []).append(pair)
        of_series, texts = spares.copy(), [*spare_texts]
        # few are ever different, and JSON costs more than all else of a series
        known: dict[tuple[tuple[int, ...], int], int] = {}
        for owner, some in pairs_of_owner.items():
            key = tuple(some), int(spares[owner])
            number = known.setdefault(key, len(texts))
            if number == len(texts):
                # of one label sent twice, the value that could have had the column was sent first
                spare = index.spare_pairs(key[1])
                texts.append(overflow_text([*map(pairs.__getitem__, some), *spare]))
            of_series[owner] = number
        return of_series, texts
