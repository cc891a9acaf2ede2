"""Repeated points: points of one series with the same time and the same values.

They may differ only in how their requests travelled: the arrival time and the sender. A request
that sends a point again has all of its points again. So of all requests with equal points one is
kept whole: the request with most of them, and of several the one that arrived first. Two points of
one request that differ by less than a microsecond are equal in a part and both stay.

In parts of 0.1.0, which have nanoseconds, points of one request that are equal to the nanosecond
are one point; in newer parts they were left out when they were committed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayotel.lake import schema
from rayotel.lake.repeats import codes

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# columns of points while they are merged: the number of the input, and the nanoseconds below a
# microsecond, -1 where the input has none
INPUT, REST = "input", "rest"
_REQUEST = (INPUT, "p_timestamp", "p_src_ip", "p_user_agent")
_VALUES = tuple(
    column.name
    for column in schema.METRIC_COLUMNS
    if column.name.startswith(("data_point_", "positive_", "negative_"))
    or column.name == "start_time_unix_nano"
)


def kept(points: pa.Table, same: Flags, beside: Flags) -> Flags:
    """Which rows of `points` stay: those that repeat no other, and none of `beside`.

    Rows are sorted by series, time and arrival. `same[n]`: whether row n + 1 is of the same series
    and time as row n. `beside`: rows of parts that stay; for each of them one that is equal goes.
    """
    keep = ~beside
    suspects = np.flatnonzero(np.append(False, same) | np.append(same, False))
    if not len(suspects):
        return keep
    some = points.take(pa.array(suspects))
    group = np.append(0, np.cumsum(~same))[suspects]
    content = codes([pa.array(group), *_columns(some, _VALUES)])
    request = codes([pa.array(content), *_columns(some, _REQUEST)])
    is_beside = beside[suspects]
    rows = np.flatnonzero(~is_beside & ~_repeats_a_nanosecond(some, request))
    rows = rows[_of_fullest(content[rows], request[rows])]
    stored = np.bincount(content[is_beside], minlength=int(content.max()) + 1)
    keep[suspects] = False
    keep[suspects[rows[_occurrences(content[rows]) >= stored[content[rows]]]]] = True
    return keep


def _columns(points: pa.Table, names: Sequence[str]) -> list[pa.ChunkedArray]:
    return [points.column(name) for name in names if name in points.column_names]


def _repeats_a_nanosecond(points: pa.Table, request: Ints) -> Flags:
    """Which rows have the request, the content and the nanosecond of an earlier row."""
    rest = points.column(REST).to_numpy()
    _, first = np.unique(request * 1000 + np.maximum(rest, 0), return_index=True)
    again: Flags = rest >= 0
    again[first] = False
    return again


def _of_fullest(content: Ints, request: Ints) -> Flags:
    """Which rows are of the request that has the most rows of their content, or came first."""
    _, first, of_rows, counts = np.unique(
        request, return_index=True, return_inverse=True, return_counts=True
    )
    contents = content[first]
    order = np.lexsort((first, -counts, contents))
    is_best = np.append(True, np.diff(contents[order]) > 0)[: len(order)]
    is_fullest = np.zeros(len(first), np.bool_)
    is_fullest[order[is_best]] = True
    chosen: Flags = is_fullest[of_rows]
    return chosen


def _occurrences(content: Ints) -> Ints:
    """Per row, how many earlier rows have its content."""
    order = np.argsort(content, kind="stable")
    begins = np.flatnonzero(np.append(True, np.diff(content[order]) > 0)[: len(order)])
    lengths = np.diff(np.append(begins, len(order)))
    occurrences = np.empty(len(content), np.int64)
    occurrences[order] = np.arange(len(order)) - begins.repeat(lengths)
    return occurrences
