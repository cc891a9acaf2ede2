"""Columns of text with a dictionary: each distinct text is encoded once.

Numbers of texts, series and columns are codes below a known size. Where codes are many, arrays of
that size are quickest; where they are few, nothing here costs as much as the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Indexes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.signedinteger[Any]]
# an array of the size is made if there is a code for every so many of its places
_DENSE = 16


def distinct(codes: Indexes, size: int) -> tuple[Ints, Indexes, Indexes]:
    """The codes that appear, ascending; where each appears first; per code its place among them."""
    if len(codes) * _DENSE < size:
        few, begins, of_codes = np.unique(codes, return_index=True, return_inverse=True)
        return few.astype(np.int64), begins.astype(np.int32), of_codes.astype(np.int32)
    first_of = np.full(size, -1, np.int32)
    # of several values for one code the last remains
    first_of[codes[::-1]] = np.arange(len(codes) - 1, -1, -1, dtype=np.int32)
    present = np.flatnonzero(first_of >= 0)
    first = first_of.take(present)
    first_of[present] = np.arange(len(present))
    return present, first, first_of.take(codes)


def numbered(codes: Indexes, size: int) -> tuple[Ints, Indexes]:
    """The codes that appear, in order of appearance; and for each code its place among them."""
    present, first, places = distinct(codes, size)
    order = np.argsort(first)
    place_of = np.empty(len(present), np.int32)
    place_of[order] = np.arange(len(present))
    return present.take(order), place_of.take(places)


def code_type(texts: int) -> type[np.int8 | np.int16 | np.int32]:
    """The narrowest type for codes of so many texts."""
    return np.int8 if texts < 2**7 else np.int16 if texts < 2**15 else np.int32


def text_column(values: Iterable[str | None], spread: Callable[[Codes], Codes]) -> pa.Array:
    """Text per metric or request, or what it may be, to text per row.

    `spread` takes a code per value to a code per row.
    """
    texts: dict[str, int] = {}
    # equal texts meet before any of them is copied
    codes = [-1 if text is None else texts.setdefault(text, len(texts)) for text in values]
    return spread_column(np.array(codes, np.int32), list(texts), spread)


def spread_column(codes: Codes, texts: Sequence[str], spread: Callable[[Codes], Codes]) -> pa.Array:
    """The same from codes, places in `texts` or -1 for null."""
    # the narrowest codes that hold all texts: a commit has a code per row and label column
    kind = code_type(len(texts))
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
    return pa.DictionaryArray.from_arrays(rows, pa.array(texts, pa.string()), safe=False)
