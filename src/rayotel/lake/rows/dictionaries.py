"""Columns of text with a dictionary: each distinct text is kept once, in order of appearance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Indexes = npt.NDArray[np.int32]
Codes = npt.NDArray[np.signedinteger[Any]]


def first_places(codes: Indexes, size: int) -> Indexes:
    """Where each code below `size` appears first; -1: nowhere."""
    first = np.full(size, -1, np.int32)
    # of several values for one code the last remains
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1, dtype=np.int32)
    return first


def numbered(codes: Indexes, size: int) -> tuple[npt.NDArray[np.int64], Indexes]:
    """The codes that appear, in order of appearance; and for each code its place among them."""
    first = first_places(codes, size)
    present = np.flatnonzero(first >= 0)
    present = present[np.argsort(first.take(present))]
    first[present] = np.arange(len(present))
    return present, first.take(codes)


def text_column(values: Sequence[object], spread: Callable[[Codes], Codes]) -> pa.Array:
    """Text per metric or request, or what it may be, to text per row.

    `spread` takes a code per value to a code per row.
    """
    encoded = pa.array(values, pa.string()).dictionary_encode()
    codes = encoded.indices.fill_null(-1) if encoded.null_count else encoded.indices
    return spread_column(codes.to_numpy(), encoded.dictionary, spread)


def spread_column(codes: Codes, texts: pa.Array, spread: Callable[[Codes], Codes]) -> pa.Array:
    """The same from codes, places in `texts` or -1 for null."""
    # the narrowest codes that hold all texts: a commit has a code per row and label column
    size = len(texts)
    kind = np.int8 if size < 2**7 else np.int16 if size < 2**15 else np.int32
    narrow: Codes = codes.astype(kind)
    has_null = bool((narrow < 0).any())
    of_rows = spread(narrow)
    bitmap = None
    if has_null:
        is_valid = of_rows >= 0
        bitmap = pa.py_buffer(np.packbits(is_valid, bitorder="little"))
        of_rows *= is_valid
    buffers = [bitmap, pa.py_buffer(of_rows)]
    rows = pa.Array.from_buffers(pa.from_numpy_dtype(kind), len(of_rows), buffers)
    # codes come from the dictionary itself: there is nothing to check
    return pa.DictionaryArray.from_arrays(rows, texts, safe=False)
