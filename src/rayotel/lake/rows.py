"""From decoded batches to Arrow tables, one per hour of event time.

Everything is done by columns. What is constant in a series is looked up once per series and spread
over its points by taking from a table of series; Python touches no single point here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayotel.lake import schema
from rayotel.model import NANOSECONDS_PER_HOUR, Arrival, MetricBatch, Points, Series

Ints = npt.NDArray[np.int64]

_PER_SERIES = (
    "metric_name", "metric_type", "metric_unit", "metric_description", "metric_metadata",
    "aggregation_temporality", "is_monotonic", "scope_name", "scope_version", "scope_schema_url",
    "scope_dropped_attributes_count", "resource_schema_url", "resource_dropped_attributes_count",
    "resource_entity_refs",
)  # fmt: skip


class LabelColumns:
    """Which label columns a stream has, first come first served, up to a bound.

    Compared without case: names that differ only in case share a column (rule 2 of `schema`).
    """

    def __init__(self, max_columns: int) -> None:
        self._max_columns = max_columns
        self._known: set[str] = set()

    def admit(self, column: str) -> bool:
        """Whether this column may be used; a new one is remembered while there is room."""
        folded = column.lower()
        if folded in self._known:
            return True
        if len(self._known) >= self._max_columns or not schema.fits_a_column(column):
            return False
        self._known.add(folded)
        return True


@dataclass(slots=True)
class _Chunk:
    """The points of one kind in one request, with indexes that hold for the whole table."""

    points: Points
    request: int
    series: Ints
    time: Ints


def tables_by_hour(batches: Sequence[MetricBatch], labels: LabelColumns) -> dict[int, pa.Table]:
    """Tables of all points of `batches`, which are of one stream, by hour since 1970.

    Rows keep the order of arrival within a kind of metric. Deterministic: the same batches and the
    same label columns give the same tables.
    """
    positions: dict[Series, int] = {}
    chunks: list[_Chunk] = []
    for number, batch in enumerate(batches):
        spread = np.array(
            [positions.setdefault(one, len(positions)) for one in batch.series], dtype=np.int64
        )
        for points in batch.kinds.values():
            index = np.array(points.series, dtype=np.int64)
            time = np.array(points.time, dtype=np.int64)
            chunks.append(_Chunk(points, number, spread[index], time))
    series = list(positions)
    arrivals = [batch.arrival for batch in batches]
    pieces: dict[int, list[tuple[_Chunk, Ints | None]]] = {}
    for chunk in chunks:
        hours = chunk.time // NANOSECONDS_PER_HOUR
        present = np.unique(hours)
        for hour in present:
            rows = None if len(present) == 1 else np.flatnonzero(hours == hour)
            pieces.setdefault(int(hour), []).append((chunk, rows))
    return {hour: _table(pieces[hour], series, arrivals, labels) for hour in sorted(pieces)}


def _table(
    pieces: list[tuple[_Chunk, Ints | None]],
    series: list[Series],
    arrivals: list[Arrival],
    labels: LabelColumns,
) -> pa.Table:
    tables = [_points_table(chunk, rows) for chunk, rows in pieces]
    points = pa.concat_tables(tables, promote_options="default").combine_chunks()
    request = points.column("request").to_numpy()
    used, index = np.unique(points.column("series").to_numpy(), return_inverse=True)
    chosen = [series[i] for i in used]
    columns: dict[str, pa.Array] = {}
    columns.update(_request_columns(arrivals, request))
    columns.update(_series_columns(chosen, index))
    by_label, overflow = _label_columns(chosen, labels)
    columns[schema.OVERFLOW] = _spread(overflow, index)
    for name in points.column_names:
        if name not in ("request", "series"):
            columns[name] = points.column(name).combine_chunks()
    arrays, names = [], []
    for fixed in schema.METRIC_COLUMNS:
        array = columns.get(fixed.name)
        arrays.append(pa.nulls(len(index), fixed.type) if array is None else array)
        names.append(fixed.name)
    for name in sorted(by_label):
        arrays.append(_spread(by_label[name], index))
        names.append(name)
    return pa.table(arrays, names=names)


def _points_table(chunk: _Chunk, rows: Ints | None) -> pa.Table:
    """What differs from point to point, of one kind and one request."""
    points = chunk.points
    start = np.array(points.start, dtype=np.int64)
    arrays: dict[str, pa.Array] = {
        "request": pa.array(np.full(len(points), chunk.request, dtype=np.int64)),
        "series": pa.array(chunk.series),
        "time_unix_nano": pa.array(chunk.time).cast(schema.TIMESTAMP),
        "start_time_unix_nano": pa.array(start, mask=start == 0).cast(schema.TIMESTAMP),
        "data_point_flags": pa.array(points.flags, pa.int64()),
    }
    for name, values in points.values.items():
        arrays[name] = pa.array(values, schema.METRIC_TYPES[name])
    table = pa.table(arrays)
    return table if rows is None else table.take(pa.array(rows))


def _request_columns(arrivals: list[Arrival], request: Ints) -> dict[str, pa.Array]:
    received = pa.array([a.received_unix_nano for a in arrivals], pa.int64())
    return {
        "p_timestamp": received.take(pa.array(request)).cast(schema.TIMESTAMP),
        "p_src_ip": _spread([a.source_ip for a in arrivals], request),
        "p_user_agent": _spread([a.user_agent for a in arrivals], request),
    }


def _series_columns(chosen: list[Series], index: Ints) -> dict[str, pa.Array]:
    take = pa.array(index)
    ids = pa.array([one.series_id for one in chosen], pa.int64())
    columns = {"series_id": ids.take(take)}
    for name in _PER_SERIES:
        values = [one.fixed.get(name) for one in chosen]
        kind = schema.METRIC_TYPES[name]
        if pa.types.is_string(kind):
            columns[name] = _spread(values, index)
        else:
            columns[name] = pa.array(values, kind).take(take)
    return columns


def _label_columns(
    chosen: list[Series], labels: LabelColumns
) -> tuple[dict[str, list[str | None]], list[str | None]]:
    """Label columns with a value per series, and the overflow of each series as JSON."""
    spelling: dict[str, str] = {}
    for column in sorted({column for one in chosen for column, _ in one.labels}):
        if labels.admit(column):
            spelling.setdefault(column.lower(), column)
    values: dict[str, list[str | None]] = {name: [None] * len(chosen) for name in spelling.values()}
    overflow: list[str | None] = [None] * len(chosen)
    for position, one in enumerate(chosen):
        demoted = []
        for column, text in one.labels:
            name = spelling.get(column.lower())
            if name is not None:
                values[name][position] = text
            if name != column:
                demoted.append((column, text))
        # of one label sent twice, the value that could have had the column was sent first
        if demoted or one.spare:
            overflow[position] = _overflow_text([*demoted, *one.spare])
    return values, overflow


def _overflow_text(pairs: Iterable[tuple[str, str]]) -> str:
    grouped: dict[str, list[str]] = {}
    for column, text in pairs:
        grouped.setdefault(column, []).append(text)
    flat = {column: texts[0] if len(texts) == 1 else texts for column, texts in grouped.items()}
    return json.dumps(flat, ensure_ascii=False, sort_keys=True)


def _spread(values: Sequence[object], index: Ints) -> pa.Array:
    """Text per series (or request) to text per row, each distinct text kept once."""
    encoded = pa.array(values, pa.string()).dictionary_encode()
    codes = pc.take(encoded.indices, pa.array(index))
    return pa.DictionaryArray.from_arrays(codes, encoded.dictionary)
