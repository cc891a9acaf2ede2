"""Which rows are equal: null equals null, NaN equals NaN, and numbers compare bit by bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Codes = npt.NDArray[np.int64]


def codes(columns: Iterable[pa.Array]) -> Codes:
    """A number per row: equal where all columns are, for columns of one length."""
    combined: Codes | None = None
    for column in columns:
        own = _own_codes(column)
        if own is None:
            continue
        if combined is None:
            combined = own
            continue
        # both are below the number of rows, so the product is far below 2^63
        pairs = combined * (int(own.max()) + 1) + own
        _, combined = np.unique(pairs, return_inverse=True)
    assert combined is not None, "a column that differs"
    return combined


def _own_codes(column: pa.Array) -> Codes | None:
    """A number below the column's length for each value; None: all are equal."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.null_count == len(column):
        return None
    if pa.types.is_list(column.type):
        return _list_codes(column)
    valid = _flags(column.is_valid())
    values = column.filter(pa.array(valid)) if column.null_count else column
    _, own = np.unique(_bits(values), return_inverse=True)
    if not column.null_count:
        return own.astype(np.int64)
    result: Codes = np.zeros(len(column), np.int64)
    result[valid] = own + 1
    return result


def _list_codes(column: pa.Array) -> Codes:
    """Lists are few where rows may be equal, and are compared as they are."""
    known: dict[object, int] = {}
    if pa.types.is_nested(column.type.value_type):
        texts = [repr(value) for value in column.to_pylist()]
        return np.array([known.setdefault(text, len(known)) for text in texts], np.int64)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    ends = np.cumsum(lengths)
    items, is_null = column.flatten(), _flags(column.is_null())
    nulls = _flags(items.is_null()).tobytes() if items.null_count else b""
    raw = _bits(items.fill_null(0)).tobytes()
    contents = [
        (bool(null), raw[8 * (end - length) : 8 * end], nulls[end - length : end])
        for end, length, null in zip(ends.tolist(), lengths.tolist(), is_null, strict=True)
    ]
    return np.array([known.setdefault(content, len(known)) for content in contents], np.int64)


def _flags(mask: pa.Array) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = mask.to_numpy(zero_copy_only=False)
    return flags


def _bits(values: pa.Array) -> npt.NDArray[Any]:
    """Values without nulls as something that compares bit by bit."""
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    elif pa.types.is_string(values.type):
        values = values.dictionary_encode()
    if pa.types.is_dictionary(values.type):
        values = values.indices  # equal texts have one code
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    if array.dtype == np.float64:
        array = array.view(np.int64)
    return array
