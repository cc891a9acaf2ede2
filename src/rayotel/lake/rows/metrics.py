"""Decoded batches to Arrow tables, one per hour of event time.

All work is done by columns; Python touches no single point here. Values that are constant in a
series are looked up once per series, and rows take them from a table of series. Rows are sorted by
metric, series and time, so that equal texts stand together.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayotel.lake import schema
from rayotel.lake.rows.label_columns import LabelColumns
from rayotel.lake.rows.tables import Tables
from rayotel.model import NANOSECONDS_PER_HOUR, Arrival, Lists, MetricBatch, Points, Series

if TYPE_CHECKING:
    from rayotel.model import Column

Ints = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.int32]
Codes = npt.NDArray[np.signedinteger[Any]]

_PER_SERIES = (
    "metric_name", "metric_type", "metric_unit", "metric_description", "metric_metadata",
    "aggregation_temporality", "is_monotonic", "scope_name", "scope_version", "scope_schema_url",
    "scope_dropped_attributes_count", "resource_schema_url", "resource_dropped_attributes_count",
    "resource_entity_refs",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Rows:
    """All points of a commit by columns, in order of their kind, then of arrival."""

    chunks: list[Points]
    request: Indexes
    series: Indexes
    time: Ints


def tables(
    batches: Sequence[MetricBatch], labels: LabelColumns, is_stored: Callable[[str], bool]
) -> Tables:
    """All points of `batches`, which are of one stream. None has an id by which it is known."""
    del is_stored
    return Tables(tables_by_hour(batches, labels))


def tables_by_hour(batches: Sequence[MetricBatch], labels: LabelColumns) -> dict[int, pa.Table]:
    """Tables of all points of `batches`, which are of one stream, by hour since 1970.

    Rows are sorted by metric, series and time. Deterministic: the same batches and the same label
    columns give the same tables.
    """
    rows, series = _rows(batches)
    if not len(rows.time):
        return {}
    arrivals = [batch.arrival for batch in batches]
    hours = rows.time // NANOSECONDS_PER_HOUR
    first, last = int(hours.min()), int(hours.max())
    found = {}
    for hour in [first] if first == last else np.unique(hours).tolist():
        chosen = None if first == last else np.flatnonzero(hours == hour)
        found[int(hour)] = _table(rows, chosen, series, arrivals, labels)
    return found


def _rows(batches: Sequence[MetricBatch]) -> tuple[_Rows, list[Series]]:
    """The points of all batches, with indexes that hold for all of them; the distinct series."""
    # batches that were read by one template share their series
    distinct = {id(batch.series): batch.series for batch in batches}
    known: dict[Series, int] = {}
    shared: dict[int, Indexes] = {}
    # a batch at a time: what is done in one call keeps all other threads waiting
    for key, some in distinct.items():
        new = dict.fromkeys([one for one in some if one not in known])
        known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
        shared[key] = np.fromiter(map(known.__getitem__, some), np.int32, len(some))
    found: list[tuple[int, Points, Indexes]] = []
    for number, batch in enumerate(batches):
        spread = shared[id(batch.series)]
        found += [(number, points, spread) for points in batch.chunks]
    # points of one kind one after another: a series is of one kind, so its points keep their order
    found.sort(key=lambda one: one[1].kind)
    chunks = [points for _, points, _ in found]
    numbers = np.array([number for number, _, _ in found], np.int32)
    none = np.empty(0, np.int32)
    rows = _Rows(
        chunks,
        np.repeat(numbers, [len(points) for points in chunks]),
        np.concatenate([none, *(spread.take(points.series) for _, points, spread in found)]),
        np.concatenate([none.astype(np.int64), *(points.time for points in chunks)]),
    )
    return rows, list(known)


def _table(
    rows: _Rows,
    chosen: Ints | None,
    series: list[Series],
    arrivals: list[Arrival],
    labels: LabelColumns,
) -> pa.Table:
    """The rows at `chosen` (None: all) as a table."""
    used, place = _ranked(series, rows.series if chosen is None else rows.series[chosen])
    time = rows.time if chosen is None else rows.time[chosen]
    order = _order(place, time)
    # rows are in order of their series, so what is of a series is repeated for each of its rows
    counts = np.bincount(place, minlength=len(used))
    order = order if chosen is None else chosen[order]
    columns: dict[str, pa.Array] = {
        "time_unix_nano": pa.array(rows.time.take(order)).view(schema.TIMESTAMP)
    }
    columns.update(_request_columns(arrivals, rows.request.take(order)))
    columns.update(_point_columns(rows, pa.array(order)))
    columns.update(_series_columns(used, counts))
    by_label, overflow = _label_columns(used, labels)

    def of_series(codes: Codes) -> Codes:
        return codes.repeat(counts)

    columns[schema.OVERFLOW] = _text(overflow, of_series)
    arrays, names = [], []
    for fixed in schema.METRIC_COLUMNS:
        array = columns.get(fixed.name)
        arrays.append(pa.nulls(len(order), fixed.type) if array is None else array)
        names.append(fixed.name)
    for name in sorted(by_label):
        arrays.append(_text(by_label[name], of_series))
        names.append(name)
    return pa.table(arrays, names=names)


_Pairs = tuple[tuple[str, str], ...]
_Key = tuple[_Pairs, str, _Pairs, int]


def _ranked(series: list[Series], of_rows: Indexes) -> tuple[list[Series], Indexes]:
    """The series that rows have, by metric and labels; and per row the place of its own.

    Series of equal content that were made twice become one.
    """
    is_used = np.zeros(len(series), np.bool_)
    is_used[of_rows] = True
    fixed: dict[int, str] = {}
    by_metric: dict[str, list[int]] = {}
    for position in np.flatnonzero(is_used).tolist():
        one = series[position]
        if id(one.fixed) not in fixed:
            fixed[id(one.fixed)] = repr(one.fixed)
        by_metric.setdefault(str(one.fixed["metric_name"]), []).append(position)
    place = np.empty(len(series), np.int32)
    used: list[Series] = []
    # a sort keeps all other threads waiting: many short ones instead of a long one, and few keys
    # at a time, or garbage collection would walk everything that is remembered
    for _, positions in sorted(by_metric.items()):
        keys: list[_Key] = []
        for position in positions:
            one = series[position]
            keys.append((one.labels, fixed[id(one.fixed)], one.spare, position))
        keys.sort()
        last = None
        for labels, rest, spare, position in keys:
            if (labels, rest, spare) != last:
                used.append(series[position])
                last = (labels, rest, spare)
            place[position] = len(used) - 1
    return used, place.take(of_rows)


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
        start = np.concatenate([_or_zeros(one.start, len(one)) for one in rows.chunks])
        columns["start_time_unix_nano"] = (
            pa.array(start, mask=start == 0).view(schema.TIMESTAMP).take(order)
        )
    if any(points.flags is not None for points in rows.chunks):
        flags = np.concatenate([_or_zeros(one.flags, len(one)) for one in rows.chunks])
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
    found = [points.values.get(name) for points in chunks]
    if all(one is None for one in found):
        return pa.nulls(sum(map(len, chunks)), kind)
    plain = [one for one in found if isinstance(one, np.ndarray)]
    if len(plain) == len(found):
        return pa.array(np.concatenate(plain), kind)
    lists = [one for one in found if isinstance(one, Lists)]
    if len(lists) == len(found):
        return _list_array(lists)
    return pa.concat_arrays(
        [_arrow(one, len(points), kind) for one, points in zip(found, chunks, strict=True)]
    )


def _arrow(column: Column | None, length: int, kind: pa.DataType) -> pa.Array:
    if column is None:
        return pa.nulls(length, kind)
    if isinstance(column, Lists):
        return _list_array([column])
    return pa.array(column, kind) if isinstance(column, np.ndarray) else column


def _list_array(columns: Sequence[Lists]) -> pa.Array:
    lengths = np.concatenate([one.lengths for one in columns])
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    members = np.concatenate([one.members for one in columns])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(members))


def _or_zeros(found: Ints | None, length: int) -> Ints:
    return np.zeros(length, np.int64) if found is None else found


def _request_columns(arrivals: list[Arrival], request: Indexes) -> dict[str, pa.Array]:
    received = np.array([one.received_unix_nano for one in arrivals], np.int64)
    return {
        "p_timestamp": pa.array(received.take(request)).view(schema.TIMESTAMP),
        "p_src_ip": _text([one.source_ip for one in arrivals], lambda codes: codes.take(request)),
        "p_user_agent": _text(
            [one.user_agent for one in arrivals], lambda codes: codes.take(request)
        ),
    }


def _series_columns(used: list[Series], counts: Ints) -> dict[str, pa.Array]:
    ids = np.fromiter((one.series_id for one in used), np.int64, len(used))
    columns = {"series_id": pa.array(ids.repeat(counts))}
    # series of one metric share what is fixed
    metrics: dict[int, int] = {}
    distinct: list[Mapping[str, str | bool | int | None]] = []
    of_series = np.empty(len(used), np.int32)
    for position, one in enumerate(used):
        number = metrics.setdefault(id(one.fixed), len(distinct))
        if number == len(distinct):
            distinct.append(one.fixed)
        of_series[position] = number
    metric = of_series.repeat(counts)

    def of_metric(codes: Codes) -> Codes:
        return codes.take(metric)

    for name in _PER_SERIES:
        values = [fixed.get(name) for fixed in distinct]
        if all(value is None for value in values):
            continue
        kind = schema.METRIC_TYPES[name]
        if pa.types.is_string(kind):
            columns[name] = _text(values, of_metric)
        else:
            columns[name] = pa.array(values, kind).take(pa.array(metric))
    return columns


def _label_columns(
    used: list[Series], labels: LabelColumns
) -> tuple[dict[str, list[str | None]], list[str | None]]:
    """Label columns with a value per series, and the overflow of each series as JSON."""
    spelling: dict[str, str] = {}
    for column in sorted({column for one in used for column, _ in one.labels}):
        if labels.admit(column):
            spelling.setdefault(column.lower(), column)
    values: dict[str, list[str | None]] = {name: [None] * len(used) for name in spelling.values()}
    overflow: list[str | None] = [None] * len(used)
    texts: dict[_Pairs, str] = {}
    for position, one in enumerate(used):
        demoted = []
        for column, text in one.labels:
            found = values.get(column)
            if found is not None:
                found[position] = text
                continue
            name = spelling.get(column.lower())
            if name is not None:
                values[name][position] = text
            demoted.append((column, text))
        # of one label sent twice, the value that could have had the column was sent first
        if demoted or one.spare:
            pairs = (*demoted, *one.spare)
            # few are ever different, and JSON costs more than all else of a series
            if pairs not in texts:
                texts[pairs] = _overflow_text(pairs)
            overflow[position] = texts[pairs]
    return values, overflow


def _overflow_text(pairs: Iterable[tuple[str, str]]) -> str:
    grouped: dict[str, list[str]] = {}
    for column, text in pairs:
        grouped.setdefault(column, []).append(text)
    flat = {column: texts[0] if len(texts) == 1 else texts for column, texts in grouped.items()}
    return json.dumps(flat, ensure_ascii=False, sort_keys=True)


def _text(values: Sequence[object], spread: Callable[[Codes], Codes]) -> pa.Array:
    """Text per series, metric or request to text per row, each distinct text kept once.

    `spread` takes a code per series, or what it may be, to a code per row.
    """
    encoded = pa.array(values, pa.string()).dictionary_encode()
    size = len(encoded.dictionary)
    # the narrowest codes that hold all texts: a commit has a code per row and label column
    kind = np.int8 if size < 2**7 else np.int16 if size < 2**15 else np.int32
    codes = spread(encoded.indices.fill_null(-1).to_numpy().astype(kind))
    bitmap = None
    if encoded.indices.null_count:
        is_valid = codes >= 0
        bitmap = pa.py_buffer(np.packbits(is_valid, bitorder="little"))
        codes *= is_valid
    buffers = [bitmap, pa.py_buffer(codes)]
    rows = pa.Array.from_buffers(pa.from_numpy_dtype(codes.dtype), len(codes), buffers)
    # codes come from the dictionary itself: there is nothing to check
    return pa.DictionaryArray.from_arrays(rows, encoded.dictionary, safe=False)
