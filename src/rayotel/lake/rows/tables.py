"""Tables: the rows of a commit, hour by hour, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayotel.lake.parts import PIECE_BYTES, HourRows
from rayotel.lake.rows.dictionaries import code_type
from rayotel.lake.signal import Signal

# whether the rows of an hour, counted since 1970, are to be made
Wanted: TypeAlias = Callable[[int], bool]


def every_hour(hour: int) -> bool:
    """Whether an hour's rows are wanted: yes."""
    del hour
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """The rows of one stream in the hours wanted, oldest hour first; `hours` can be read once.

    `ids`: of rows with an id, in order of arrival; `left_out`: how many rows were left out because
    they repeat others of the commit or were stored before.
    """

    hours: Iterator[HourRows]
    ids: Sequence[str] = ()
    left_out: int = 0


def cuts_of(costs: npt.NDArray[np.int64]) -> list[int]:
    """Where pieces of rows with these costs in bytes begin, and where the last ends.

    The costs are used up.
    """
    ends = np.cumsum(costs, out=costs)
    cuts = [0]
    while cuts[-1] < len(costs):
        before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        cut = int(np.searchsorted(ends, before + PIECE_BYTES, "right"))
        cuts.append(max(cuts[-1] + 1, cut))
    return cuts


def in_pieces(
    signal: Signal,
    hour: int,
    rows: int,
    labels: Sequence[str],
    texts: Mapping[str, int],
    pieces: Iterator[pa.Table],
    overflow_rows: int,
) -> HourRows:
    """The rows of an hour of several pieces, whose texts get codes of one width.

    `texts`: at most how many texts a column has in all pieces.
    """

    def kind(name: str) -> pa.DataType:
        fixed = signal.types.get(name, pa.string())
        if not pa.types.is_string(fixed) or name in signal.merged.long:
            return fixed
        return pa.dictionary(pa.from_numpy_dtype(code_type(texts[name])), pa.string())

    target = pa.schema([(name, kind(name)) for name in (*signal.types, *labels)])
    aligned = (_aligned(piece, target) for piece in pieces)
    return HourRows(hour, rows, target, aligned, frozenset(target.names), overflow_rows)


def _aligned(piece: pa.Table, target: pa.Schema) -> pa.Table:
    arrays = []
    for column, field in zip(piece.columns, target, strict=True):
        array = column.chunk(0)
        if array.type != field.type:
            if pa.types.is_dictionary(array.type):
                codes = array.indices.cast(field.type.index_type)
                array = pa.DictionaryArray.from_arrays(codes, array.dictionary, safe=False)
            else:
                array = pa.nulls(len(array), field.type)
        arrays.append(array)
    return pa.table(arrays, schema=target)
