"""Duplicate points: points of one series with the same time and the same values.

They may differ only in how their requests travelled: the arrival time and the sender.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayotel.lake import schema

Ints = npt.NDArray[np.int64]
MAX_ROWS_BACK = 16

_VALUES = tuple(
    column.name
    for column in schema.METRIC_COLUMNS
    if column.name.startswith(("data_point_", "positive_", "negative_"))
    or column.name == "start_time_unix_nano"
)


def kept(points: pa.Table, same: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which rows of `points` stay: the rows that do not repeat a row shortly before.

    `same[n]`: whether row n + 1 is of the same series and time as row n. Of rows that are, each is
    compared with the `MAX_ROWS_BACK` before it.
    """
    keep = np.ones(len(points), dtype=bool)
    group = np.concatenate(([0], np.cumsum(~same)))
    for back in range(1, min(MAX_ROWS_BACK, len(points) - 1) + 1):
        rows = np.flatnonzero((group[back:] == group[:-back]) & keep[back:]) + back
        if not len(rows):
            break
        keep[rows[_repeated(points, rows, rows - back)]] = False
    return keep


def _repeated(points: pa.Table, rows: Ints, others: Ints) -> npt.NDArray[np.bool_]:
    here, before = pa.array(rows), pa.array(others)
    repeated = np.ones(len(rows), dtype=bool)
    for name in _VALUES:
        if name not in points.column_names:
            continue
        column = points.column(name).combine_chunks()
        if column.null_count < len(column):
            repeated &= _equal(column.take(here), column.take(before))
    return repeated


def _equal(column: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
    """Row by row, whether two columns hold the same; null equals null and NaN equals NaN."""
    nulls, other_nulls = _flags(column.is_null()), _flags(other.is_null())
    result: npt.NDArray[np.bool_] = nulls == other_nulls
    rows = np.flatnonzero(result & ~nulls)
    column, other = column.take(pa.array(rows)), other.take(pa.array(rows))
    if pa.types.is_list(column.type):
        result[rows] = _equal_lists(column, other)
    else:
        result[rows] = _bits(column) == _bits(other)
    return result


def _equal_lists(column: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
    if pa.types.is_nested(column.type.value_type):  # exemplars, which are few
        pairs = zip(column.to_pylist(), other.to_pylist(), strict=True)
        return np.array([repr(a) == repr(b) for a, b in pairs], dtype=bool)
    lengths = pc.list_value_length(column).to_numpy()
    result: npt.NDArray[np.bool_] = lengths == pc.list_value_length(other).to_numpy()
    rows = np.flatnonzero(result & (lengths > 0))
    if len(rows):
        take = pa.array(rows)
        items = _bits(column.take(take).flatten()) == _bits(other.take(take).flatten())
        starts = np.concatenate(([0], np.cumsum(lengths[rows])[:-1]))
        result[rows] = np.logical_and.reduceat(items, starts)
    return result


def _flags(mask: pa.Array) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = mask.to_numpy(zero_copy_only=False)
    return flags


def _bits(values: pa.Array) -> npt.NDArray[Any]:
    """Values without nulls as something that compares bit by bit."""
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array.view(np.int64) if array.dtype == np.float64 else array
