"""Decoded batches to Arrow tables, hour by hour of event time.

All work is done by columns; Python touches no single point here. Values that are constant in a
series are remembered by an index of series, and repeated for their rows. Rows are sorted once, by
hour, metric, series and time, so that equal texts stand together; then each hour is a stretch of
them, and costs no more than its own rows. An hour becomes pieces of a bounded size.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayotel.lake import repeats, schema
from rayotel.lake.label_columns import ChosenLabels, chosen
from rayotel.lake.parts import HourRows
from rayotel.lake.rows.points import CommitPoints
from rayotel.lake.rows.series_columns import (
    LabelBytes,
    LabelPairs,
    SeriesLabels,
    UsedSeries,
    fixed_bytes,
    fixed_columns,
)
from rayotel.lake.rows.series_index import SeriesIndex
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.rows.tables import Tables, Wanted, cuts_of, in_pieces
from rayotel.lake.signal import METRICS
from rayotel.model import NANOSECONDS_PER_HOUR, MetricBatch

Ints = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.int32]
# rough costs, which need only bound a piece: of a row its times, and a code for each label column;
# of a series the arrays in which each of its labels stands once
_ROW_BYTES = 40
_CODE_BYTES = 2
_LABEL_BYTES = 24
_RAY_LABELS = frozenset(label.lower() for label in METRICS.ray_labels)


@dataclass(frozen=True, slots=True)
class _Sorted:
    """The rows that are wanted, by hour, series, time and arrival.

    `rows` are places in `points`, `place` those of their series in `numbers`, which are numbers of
    the index. `begins`: where each hour begins, and where the last ends.
    """

    points: CommitPoints
    numbers: Indexes
    rows: Indexes
    place: Indexes
    hours: Indexes
    begins: Ints


def tables(
    batches: Sequence[MetricBatch],
    memory: StreamMemory,
    is_stored: Callable[[str], bool],
    wanted: Wanted,
) -> Tables:
    """All points of `batches`, which are of one stream. None has an id by which it is known.

    Of points that one request sent twice, with the same nanosecond and values, one is left out.
    """
    del is_stored
    points = CommitPoints(batches, memory.series)
    hours = (points.time // NANOSECONDS_PER_HOUR).astype(np.int32)
    some = _chosen(hours, wanted)
    if (some is not None and not len(some)) or not len(hours):
        return Tables(iter(()))
    ordered, left_out = _sorted(points, memory, hours, some)
    return Tables(_made(ordered, memory), (), left_out)


def _chosen(hours: Indexes, wanted: Wanted) -> Indexes | None:
    """The rows of the hours that are wanted; None: all."""
    if not len(hours):
        return None
    first, last = int(hours.min()), int(hours.max())
    present = [first] if first == last else np.unique(hours).tolist()
    unwanted = [hour for hour in present if not wanted(hour)]
    if not unwanted:
        return None
    return np.flatnonzero(np.isin(hours, unwanted, invert=True)).astype(np.int32)


def _sorted(
    points: CommitPoints, memory: StreamMemory, hours: Indexes, some: Indexes | None
) -> tuple[_Sorted, int]:
    """The rows at `some` (None: all) in order, and how many of them are left out."""
    time, series = points.time, points.take_series()
    if some is not None:
        time, series, hours = time.take(some), series.take(some), hours.take(some)
    numbers, place = _placed(memory.series, series)
    del series
    order = _order(hours, place, time)
    place, hours, time = place.take(order), hours.take(order), time.take(order)
    rows = order if some is None else some.take(order)
    del order
    same = (place[1:] == place[:-1]) & (time[1:] == time[:-1])
    del time
    left_out = 0
    if same.any():
        keep = _not_repeated(points, rows, place, same)
        left_out = len(keep) - int(keep.sum())
        if left_out:
            place, hours, rows = place[keep], hours[keep], rows[keep]
    begins = np.flatnonzero(np.append(True, hours[1:] != hours[:-1]))
    ends = np.append(begins, len(rows))
    return _Sorted(points, numbers, rows, place, hours.take(begins), ends), left_out


def _placed(index: SeriesIndex, series: Indexes) -> tuple[Indexes, Indexes]:
    """The series that rows have, in order; and per row the place of its own."""
    is_used = np.zeros(len(index), np.bool_)
    is_used[series] = True
    present = np.flatnonzero(is_used).astype(np.int32)
    numbers, places = index.placed(present)
    place_of = np.empty(len(index), np.int32)
    place_of[present] = places
    return numbers, place_of.take(series)


def _order(hours: Indexes, place: Indexes, time: Ints) -> Indexes:
    """Rows by hour, series, then time, then arrival."""
    if (hours != hours[0]).any():
        return np.lexsort((time, place, hours)).astype(np.int32)
    # small integers are sorted by radix
    narrow = place.astype(np.uint16) if place.max() < 2**16 else place
    order = np.argsort(narrow, kind="stable").astype(np.int32)
    by_series, by_time = place.take(order), time.take(order)
    if ((by_time[1:] < by_time[:-1]) & (by_series[1:] == by_series[:-1])).any():
        return np.lexsort((time, place)).astype(np.int32)
    return order


def _not_repeated(
    points: CommitPoints, rows: Indexes, place: Indexes, same: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which rows are the first of their request with their series, nanosecond and values.

    `same`: whether each row but the first has the series and time of the one before.
    """
    again = np.flatnonzero(np.append(False, same) | np.append(same, False))
    suspects = rows.take(again)
    columns = points.columns(suspects)
    if points.has_starts:
        columns["start_time_unix_nano"] = pa.array(points.starts(suspects))
    columns["series"] = pa.array(place.take(again))
    columns["time"] = pa.array(points.time.take(suspects))
    # merging tells requests apart by their arrival alone
    columns["request"] = pa.array(points.origins(suspects))
    codes = repeats.codes(columns.values())
    _, first = np.unique(codes, return_index=True)
    keep = np.ones(len(rows), np.bool_)
    keep[again] = False
    keep[again.take(first)] = True
    return keep


class _HourSeries:
    """The series of an hour in order, and where the rows of each begin."""

    def __init__(self, numbers: Indexes, place: Indexes, memory: StreamMemory) -> None:
        self.begins = np.flatnonzero(np.append(True, place[1:] != place[:-1]))
        self._rows = len(place)
        of_hour = numbers.take(place.take(self.begins))
        counts = np.diff(np.append(self.begins, len(place)))
        self.used = UsedSeries(memory.series, of_hour, counts)
        self._stretches = list(self.used.stretches())
        self._only = LabelPairs(self.used) if len(self._stretches) == 1 else None

    def labels(self) -> Iterator[LabelPairs]:
        """The labels of all series, a stretch of them at a time."""
        return map(LabelPairs, self._stretches) if self._only is None else iter([self._only])

    def of_rows(self, begin: int, end: int) -> LabelPairs:
        """The labels of the series of some of the rows."""
        if self._only is not None and end - begin == self._rows:
            return self._only
        first = int(np.searchsorted(self.begins, begin, "right")) - 1
        last = int(np.searchsorted(self.begins, end, "left"))
        begins = np.maximum(self.begins[first:last], begin)
        counts = np.diff(np.append(begins, end))
        return LabelPairs(UsedSeries(self.used.index, self.used.numbers[first:last], counts))


def _made(ordered: _Sorted, memory: StreamMemory) -> Iterator[HourRows]:
    list_bytes = ordered.points.list_bytes()
    for number, hour in enumerate(ordered.hours.tolist()):
        begin, end = ordered.begins[number : number + 2].tolist()
        series = _HourSeries(ordered.numbers, ordered.place[begin:end], memory)
        rows = ordered.rows[begin:end]
        labels, texts = _chosen_labels(series, memory.max_label_columns)
        cuts = cuts_of(_costs(ordered.points, rows, series, labels, list_bytes))
        pieces = _pieces(ordered.points, rows, series, labels, cuts)
        beyond = 0
        if labels.beyond:
            beyond = sum(SeriesLabels(some, labels).rows_beyond() for some in series.labels())
        if len(cuts) == 2:
            yield HourRows.of(hour, next(pieces), beyond)
        else:
            names = sorted(labels.spelled.values())
            texts += _texts_of_fixed(ordered.points, series.used)
            yield in_pieces(METRICS, hour, len(rows), names, texts, pieces, beyond)


def _chosen_labels(series: _HourSeries, max_columns: int) -> tuple[ChosenLabels, Counter[str]]:
    """The label columns of an hour, and at most how many texts each has."""
    counts: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    for some in series.labels():
        some.add_to(counts, texts)
    labels = chosen(counts, _RAY_LABELS, max_columns)
    by_column: Counter[str] = Counter()
    for name, count in texts.items():
        by_column[labels.spelled.get(name.lower(), "")] += count
    return labels, by_column


def _texts_of_fixed(points: CommitPoints, used: UsedSeries) -> Counter[str]:
    """At most how many texts the fixed columns have."""
    contents, _ = used.index.fixed(used.numbers)
    texts = Counter(dict.fromkeys(schema.METRIC_TYPES, len(contents)))
    texts.update(dict.fromkeys(("p_src_ip", "p_user_agent"), points.request_count))
    texts[schema.OVERFLOW] = len(used.numbers)
    return texts


def _costs(
    points: CommitPoints,
    rows: Indexes,
    series: _HourSeries,
    labels: ChosenLabels,
    list_bytes: Ints | None,
) -> Ints:
    """About how many bytes each row adds to a piece."""
    fixed = _ROW_BYTES + 8 * len(points.names) + _CODE_BYTES * len(labels.spelled)
    costs = np.full(len(rows), fixed, np.int64)
    if list_bytes is not None:
        costs += list_bytes.take(rows)
    of_labels = LabelBytes(labels)
    of_series = np.concatenate([of_labels.of(some) for some in series.labels()])
    of_series += fixed_bytes(series.used)
    of_series += _LABEL_BYTES * series.used.index.label_counts(series.used.numbers)
    # a label column has a place for each series too
    of_series += _CODE_BYTES * len(labels.spelled)
    costs[series.begins] += of_series
    return costs


def _pieces(
    points: CommitPoints,
    rows: Indexes,
    series: _HourSeries,
    labels: ChosenLabels,
    cuts: list[int],
) -> Iterator[pa.Table]:
    for begin, end in itertools.pairwise(cuts):
        some = series.of_rows(begin, end)
        yield _table(points, rows[begin:end], SeriesLabels(some, labels), some.used)


def _table(points: CommitPoints, rows: Indexes, labels: SeriesLabels, used: UsedSeries) -> pa.Table:
    """The rows as a table; `used` are their series, in order."""
    time = points.time.take(rows) // schema.NANOSECONDS
    columns: dict[str, pa.Array] = {"time_unix_nano": pa.array(time).view(schema.TIMESTAMP)}
    columns.update(points.of_requests(rows))
    columns.update(points.columns(rows))
    columns.update(fixed_columns(used))
    columns[schema.OVERFLOW] = labels.overflow()
    arrays, names = [], []
    nulls: dict[pa.DataType, pa.Array] = {}
    for fixed in schema.METRIC_COLUMNS:
        array = columns.get(fixed.name)
        if array is None:
            # one array serves all columns of a type
            array = nulls.get(fixed.type)
            if array is None:
                array = nulls[fixed.type] = pa.nulls(len(rows), fixed.type)
        arrays.append(array)
        names.append(fixed.name)
    for name, array in labels.columns():
        arrays.append(array)
        names.append(name)
    return pa.table(arrays, names=names)
