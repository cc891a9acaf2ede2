"""All points of a commit by columns: what differs from one point of a series to the next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayotel.lake import schema
from rayotel.lake.rows.dictionaries import text_column
from rayotel.lake.rows.series_index import SeriesIndex
from rayotel.model import Arrival, Lists, MetricBatch, Points

if TYPE_CHECKING:
    from rayotel.model import Column

Ints = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.int32]
_MEMBER_BYTES = 8
_EXEMPLAR_BYTES = 400


class CommitPoints:
    """The points of all batches of a commit, in order of their kind, then of arrival.

    A row is a place among them. `request` is the number of a row's batch; `time` is in nanoseconds.
    """

    def __init__(self, batches: Sequence[MetricBatch], index: SeriesIndex) -> None:
        # batches that were read by one template share their series
        shared = {id(batch.series): batch.series for batch in batches}
        # a batch at a time: what is done in one call keeps all other threads waiting
        numbers_of = {key: index.numbers(some) for key, some in shared.items()}
        entries: list[tuple[int, Points, Indexes]] = []
        for number, batch in enumerate(batches):
            spread = numbers_of[id(batch.series)]
            entries += [(number, points, spread) for points in batch.chunks]
        # points of one kind one after another: a series is of one kind, so its points keep their
        # order
        entries.sort(key=lambda entry: entry[1].kind)
        self._chunks = chunks = [points for _, points, _ in entries]
        self._arrivals = [batch.arrival for batch in batches]
        self._whole: dict[str, pa.Array] = {}
        numbers = np.array([number for number, _, _ in entries], np.int32)
        none = np.empty(0, np.int32)
        self.request: Indexes = np.repeat(numbers, [len(points) for points in chunks])
        self._series: Indexes = np.concatenate(
            [none, *(spread.take(points.series) for _, points, spread in entries)]
        )
        self.time: Ints = np.concatenate(
            [none.astype(np.int64), *(points.time for points in chunks)]
        )
        self.names = tuple({name: None for points in chunks for name in points.values})
        self.has_starts = any(points.start is not None for points in chunks)
        self.has_flags = any(points.flags is not None for points in chunks)

    def take_series(self) -> Indexes:
        """The number of each row's series in the index, which are let go here."""
        series, self._series = self._series, np.empty(0, np.int32)
        return series

    @property
    def request_count(self) -> int:
        """How many requests there are."""
        return len(self._arrivals)

    def __len__(self) -> int:
        return len(self.time)

    def columns(self, rows: Indexes) -> dict[str, pa.Array]:
        """The columns of points that the commit has, and the flags, at these rows."""
        place = pa.array(rows)
        columns = {name: self._column(name).take(place) for name in self.names}
        if self.has_starts:
            starts = self.starts(rows)
            columns["start_time_unix_nano"] = pa.array(
                starts // schema.NANOSECONDS, mask=starts == 0
            ).view(schema.TIMESTAMP)
        flags = self._numbers("flags", rows) if self.has_flags else np.zeros(len(rows), np.int64)
        columns["data_point_flags"] = pa.array(flags)
        return columns

    def starts(self, rows: Indexes) -> Ints:
        """When the points began to count, in nanoseconds; 0: unknown."""
        return self._numbers("start", rows)

    def of_requests(self, rows: Indexes) -> dict[str, pa.Array]:
        """How the requests of these rows came."""
        request = self.request.take(rows)
        arrivals: list[Arrival] = self._arrivals
        present = np.unique(request)
        chosen = [arrivals[number] for number in present.tolist()]
        request = np.searchsorted(present, request).astype(np.int32)
        received = np.array([arrival.received_unix_nano for arrival in chosen], np.int64)
        received //= schema.NANOSECONDS
        return {
            "p_timestamp": pa.array(received.take(request)).view(schema.TIMESTAMP),
            "p_src_ip": text_column(
                [arrival.source_ip for arrival in chosen], lambda codes: codes.take(request)
            ),
            "p_user_agent": text_column(
                [arrival.user_agent for arrival in chosen], lambda codes: codes.take(request)
            ),
        }

    def origins(self, rows: Indexes) -> Indexes:
        """A number for the arrival of each row's request, equal where parts show it as equal."""
        known: dict[tuple[int, str, str], int] = {}
        of_requests = [
            known.setdefault(
                (
                    arrival.received_unix_nano // schema.NANOSECONDS,
                    arrival.source_ip,
                    arrival.user_agent,
                ),
                len(known),
            )
            for arrival in self._arrivals
        ]
        return np.array(of_requests, np.int32).take(self.request.take(rows))

    def list_bytes(self) -> Ints | None:
        """About how many bytes the lists of each row take; None: there are no lists."""
        total: Ints | None = None
        for name in self.names:
            kind = schema.METRIC_TYPES[name]
            if pa.types.is_list(kind):
                column = self._column(name)
                if column.null_count < len(column):
                    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
                    is_plain = pa.types.is_primitive(kind.value_type)
                    size = _MEMBER_BYTES if is_plain else _EXEMPLAR_BYTES
                    total = lengths * size + (0 if total is None else total)
        return total

    def _numbers(self, field: str, rows: Indexes) -> Ints:
        if field not in self._whole:
            pieces = [
                np.zeros(len(points), np.int64) if values is None else values
                for points in self._chunks
                for values in [getattr(points, field)]
            ]
            self._whole[field] = pa.array(np.concatenate(pieces))
        values: Ints = self._whole[field].to_numpy().take(rows)
        return values

    def _column(self, name: str) -> pa.Array:
        if name not in self._whole:
            kinds = [list(same) for _, same in itertools.groupby(self._chunks, key=_kind)]
            self._whole[name] = pa.concat_arrays([_of_kind(name, chunks) for chunks in kinds])
        return self._whole[name]


def _kind(points: Points) -> str:
    return points.kind


def _of_kind(name: str, chunks: Sequence[Points]) -> pa.Array:
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
