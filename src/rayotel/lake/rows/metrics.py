"""Decoded batches to Arrow tables, one per hour of event time.

All work is done by columns; Python touches no single point here. Values that are constant in a
series are remembered by an index of series, and repeated for their rows. Rows are sorted by metric,
series and time, so that equal texts stand together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayotel.lake import schema
from rayotel.lake.parts import HourRows
from rayotel.lake.rows.dictionaries import text_column
from rayotel.lake.rows.series_columns import SeriesLabels, UsedSeries, fixed_columns
from rayotel.lake.rows.series_index import SeriesIndex
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.rows.tables import Tables, Wanted
from rayotel.model import NANOSECONDS_PER_HOUR, Arrival, Lists, MetricBatch, Points

if TYPE_CHECKING:
    from rayotel.model import Column

Ints = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.int32]
Codes = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class _Rows:
    """All points of a commit by columns, in order of their kind, then of arrival."""

    chunks: list[Points]
    request: Indexes
    series: Indexes
    time: Ints


def tables(
    batches: Sequence[MetricBatch],
    memory: StreamMemory,
    is_stored: Callable[[str], bool],
    wanted: Wanted,
) -> Tables:
    """All points of `batches`, which are of one stream. None has an id by which it is known."""
    del is_stored
    return Tables(_hours(batches, memory, wanted))


def _hours(
    batches: Sequence[MetricBatch], memory: StreamMemory, wanted: Wanted
) -> Iterator[HourRows]:
    rows = _rows(batches, memory.series)
    if not len(rows.time):
        return
    arrivals = [batch.arrival for batch in batches]
    hours = rows.time // NANOSECONDS_PER_HOUR
    for hour in filter(wanted, np.unique(hours).tolist()):
        yield HourRows.of(hour, _table(rows, np.flatnonzero(hours == hour), arrivals, memory))


def _rows(batches: Sequence[MetricBatch], index: SeriesIndex) -> _Rows:
    """The points of all batches, with numbers of series that hold for all of them."""
    # batches that were read by one template share their series
    distinct = {id(batch.series): batch.series for batch in batches}
    # a batch at a time: what is done in one call keeps all other threads waiting
    numbers_of = {key: index.numbers(some) for key, some in distinct.items()}
    entries: list[tuple[int, Points, Indexes]] = []
    for number, batch in enumerate(batches):
        spread = numbers_of[id(batch.series)]
        entries += [(number, points, spread) for points in batch.chunks]
    # points of one kind one after another: a series is of one kind, so its points keep their order
    entries.sort(key=lambda entry: entry[1].kind)
    chunks = [points for _, points, _ in entries]
    numbers = np.array([number for number, _, _ in entries], np.int32)
    none = np.empty(0, np.int32)
    return _Rows(
        chunks,
        np.repeat(numbers, [len(points) for points in chunks]),
        np.concatenate([none, *(spread.take(points.series) for _, points, spread in entries)]),
        np.concatenate([none.astype(np.int64), *(points.time for points in chunks)]),
    )


def _table(
    rows: _Rows, chosen: Ints | None, arrivals: list[Arrival], memory: StreamMemory
) -> pa.Table:
    """The rows at `chosen` (None: all) as a table."""
    used, place = _placed(memory.series, rows.series if chosen is None else rows.series[chosen])
    time = rows.time if chosen is None else rows.time[chosen]
    order = _order(place, time)
    order = order if chosen is None else chosen[order]
    columns: dict[str, pa.Array] = {
        "time_unix_nano": pa.array(rows.time.take(order)).view(schema.TIMESTAMP)
    }
    columns.update(_request_columns(arrivals, rows.request.take(order)))
    columns.update(_point_columns(rows, pa.array(order)))
    columns.update(fixed_columns(used))
    labels = SeriesLabels(used, memory.labels)
    columns[schema.OVERFLOW] = labels.overflow()
    arrays, names = [], []
    for fixed in schema.METRIC_COLUMNS:
        array = columns.get(fixed.name)
        arrays.append(pa.nulls(len(order), fixed.type) if array is None else array)
        names.append(fixed.name)
    for name, array in labels.columns():
        arrays.append(array)
        names.append(name)
    return pa.table(arrays, names=names)


def _placed(index: SeriesIndex, of_rows: Indexes) -> tuple[UsedSeries, Indexes]:
    """The series that rows have, by metric and labels; and per row the place of its own."""
    is_used = np.zeros(len(index), np.bool_)
    is_used[of_rows] = True
    present = np.flatnonzero(is_used).astype(np.int32)
    numbers, places = index.placed(present)
    place_of = np.empty(len(index), np.int32)
    place_of[present] = places
    place = place_of.take(of_rows)
    # rows are in order of their series, so what is of a series is repeated for each of its rows
    return UsedSeries(index, numbers, np.bincount(place, minlength=len(numbers))), place


def _order(place: Indexes, time: Ints) -> Ints:
    """Rows by series, then time, then arrival."""
    # small integers are sorted by radix
    narrow = place.astype(np.uint16) if not len(place) or place.max() < 2**16 else place
    order = np.argsort(narrow, kind="stable")
    by_series, by_time = place.take(order), time.take(order)
    if ((np.diff(by_time) < 0) & (np.diff(by_series) == 0)).any():
        return np.lexsort((time, place))
    return order


def _point_columns(rows: _Rows, order: pa.Array) -> dict[str, pa.Array]:
    """What differs from point to point, apart from its time."""
    columns: dict[str, pa.Array] = {}
    if any(points.start is not None for points in rows.chunks):
        start = np.concatenate([_or_zeros(points.start, len(points)) for points in rows.chunks])
        columns["start_time_unix_nano"] = (
            pa.array(start, mask=start == 0).view(schema.TIMESTAMP).take(order)
        )
    if any(points.flags is not None for points in rows.chunks):
        flags = np.concatenate([_or_zeros(points.flags, len(points)) for points in rows.chunks])
        columns["data_point_flags"] = pa.array(flags).take(order)
    else:
        columns["data_point_flags"] = pa.array(np.zeros(len(order), np.int64))
    names = {name: None for points in rows.chunks for name in points.values}
    kinds = [list(same) for _, same in itertools.groupby(rows.chunks, key=_kind)]
    for name in names:
        pieces = [_column(name, chunks) for chunks in kinds]
        columns[name] = pa.concat_arrays(pieces).take(order)
    return columns


def _kind(points: Points) -> str:
    return points.kind


def _column(name: str, chunks: Sequence[Points]) -> pa.Array:
    """A column of all points of one kind."""
    kind = schema.METRIC_TYPES[name]
    pieces = [points.values.get(name) for points in chunks]
    if all(column is None for column in pieces):
        return pa.nulls(sum(map(len, chunks)), kind)
    plain = [column for column in pieces if isinstance(column, np.ndarray)]
    if len(plain) == len(pieces):
        return pa.array(np.concatenate(plain), kind)
    lists = [column for column in pieces if isinstance(column, Lists)]
    if len(lists) == len(pieces):
        return _list_array(lists)
    return pa.concat_arrays(
        [_arrow(column, len(points), kind) for column, points in zip(pieces, chunks, strict=True)]
    )


def _arrow(column: Column | None, length: int, kind: pa.DataType) -> pa.Array:
    if column is None:
        return pa.nulls(length, kind)
    if isinstance(column, Lists):
        return _list_array([column])
    return pa.array(column, kind) if isinstance(column, np.ndarray) else column


def _list_array(columns: Sequence[Lists]) -> pa.Array:
    lengths = np.concatenate([lists.lengths for lists in columns])
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    members = np.concatenate([lists.members for lists in columns])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(members))


def _or_zeros(values: Ints | None, length: int) -> Ints:
    return np.zeros(length, np.int64) if values is None else values


def _request_columns(arrivals: list[Arrival], request: Indexes) -> dict[str, pa.Array]:
    received = np.array([arrival.received_unix_nano for arrival in arrivals], np.int64)
    return {
        "p_timestamp": pa.array(received.take(request)).view(schema.TIMESTAMP),
        "p_src_ip": text_column(
            [arrival.source_ip for arrival in arrivals], lambda codes: codes.take(request)
        ),
        "p_user_agent": text_column(
            [arrival.user_agent for arrival in arrivals], lambda codes: codes.take(request)
        ),
    }
