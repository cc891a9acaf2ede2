"""The full decode: points as protobuf's own library parses them, one by one, into columns.

This is the reference: every other way to read a request (see `fast`) must give the same columns.

A point is rejected and counted with its reason if its time is missing, before 2000, or more than a
day after its arrival, if a count is beyond 2**63 - 1, or if an attribute has more than 64 KiB.

Histograms are repaired: Fluent Bit sends Prometheus' cumulative counts, and OTLP wants the counts
of each bucket (fluent/cmetrics#278). Counts are cumulative if the last equals the total, no count
falls and their sum is not the total. The differences are stored and the row is marked.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rayotel.ingest.decode.limits.bounds import (
    EARLIEST_UNIX_NANO,
    LATEST_AFTER_ARRIVAL_NANO,
    Rejected,
)
from rayotel.ingest.decode.limits.budget import Budget
from rayotel.ingest.decode.otlp import messages
from rayotel.ingest.decode.otlp.attributes import attributes_json
from rayotel.ingest.decode.otlp.pieces import MetricPieces, alone, check_nested_within
from rayotel.ingest.decode.otlp.series import Head
from rayotel.lake.schema import METRIC_TYPES
from rayotel.model import Drop, Points, Series

_MAX_COUNT = 2**63 - 1
_NO_RECORDED_VALUE = 1
# Python's numbers take five times what a column of them takes: they become one now and then
MAX_OPEN_POINTS = 8192
MAX_OPEN_MEMBERS = 32_768

_KINDS = {
    "gauge": "number",
    "sum": "number",
    "histogram": "histogram",
    "exponential_histogram": "exponential_histogram",
    "summary": "summary",
}
_COLUMNS: dict[str, tuple[str, ...]] = {
    "number": ("data_point_value", "data_point_value_int", "data_point_exemplars"),
    "histogram": (
        "data_point_count", "data_point_sum", "data_point_min", "data_point_max",
        "data_point_bucket_counts", "data_point_explicit_bounds", "data_point_buckets_repaired",
        "data_point_exemplars",
    ),
    "exponential_histogram": (
        "data_point_count", "data_point_sum", "data_point_min", "data_point_max",
        "data_point_scale", "data_point_zero_count", "data_point_zero_threshold",
        "positive_offset", "positive_bucket_count", "negative_offset", "negative_bucket_count",
        "data_point_exemplars",
    ),
    "summary": (
        "data_point_count", "data_point_sum",
        "data_point_quantile_values_quantile", "data_point_quantile_values_value",
    ),
}  # fmt: skip


class _Columns:
    """Points of one kind, as lists that grow, and the columns that earlier ones became."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.full: list[Points] = []
        self._clear()

    def _clear(self) -> None:
        self.series: list[int] = []
        self.time: list[int] = []
        self.start: list[int] = []
        self.flags: list[int] = []
        self.members = 0
        self.values: dict[str, list[Any]] = {name: [] for name in _COLUMNS[self.kind]}
        self.append_values = _APPEND[self.kind](self.values)

    def close(self) -> None:
        """Make columns of the lists, and begin anew."""
        if not self.time:
            return
        points = Points(
            self.kind,
            np.array(self.series, np.int32),
            np.array(self.time, np.int64),
            np.array(self.start, np.int64),
            np.array(self.flags, np.int64),
            {name: pa.array(of, METRIC_TYPES[name]) for name, of in self.values.items()},
        )
        self.full.append(points)
        self._clear()


class FullDecode:
    """Points of one request, with their series, what was rejected, and what was dropped.

    `dropped`: points and labels left out so far, by pattern.
    """

    def __init__(self, received_unix_nano: int) -> None:
        self._latest = received_unix_nano + LATEST_AFTER_ARRIVAL_NANO
        self.budget = Budget()
        self.series: list[Series] = []
        self.rejected: Counter[str] = Counter()
        self.dropped: Counter[Drop] = Counter()
        self._kinds: dict[str, _Columns] = {}

    def reject(self, count: int, reason: str) -> None:
        """Count points that are left out."""
        if count:
            self.rejected[reason] += count

    def drop(self, drop: Drop, metric: MetricPieces) -> None:
        """Count the points of a metric that is dropped."""
        self.dropped[drop] += metric.count()

    def metric(self, head: Head, metric: MetricPieces) -> None:
        """Add the points of a metric. Raises messages.MalformedProtobuf."""
        kind = _KINDS[head.data]
        columns = self._kinds.get(kind)
        if columns is None:
            columns = self._kinds[kind] = _Columns(kind)
        places: dict[Series, int] = {}
        for run in metric.runs():
            if isinstance(run, str):
                self.rejected[run] += 1
                continue
            for points in self._parsed(head.data, *run):
                for point in points:
                    try:
                        self._add(point, head, columns, places)
                    except Rejected as error:
                        self.rejected[str(error)] += 1

    def _parsed(self, data: str, raw: bytes, count: int) -> Iterator[Sequence[Any]]:
        """The points of a run; where it cannot be parsed, each that is not nested too deeply."""
        try:
            yield getattr(messages.parse_metric(raw), data).data_points
            return
        except messages.MalformedProtobuf:
            if count == 1:
                try:
                    if data != "summary":
                        check_nested_within(raw, raw[0], 0x0A, *_TO_FILTERED_ATTRIBUTES[data])
                except Rejected as error:
                    self.rejected[str(error)] += 1
                    return
                raise
        for point in alone(raw):
            yield from self._parsed(data, point, 1)

    def _add(self, point: Any, head: Head, columns: _Columns, places: dict[Series, int]) -> None:
        """Add a point. Raises Rejected."""
        time, kind = point.time_unix_nano, columns.kind
        if not EARLIEST_UNIX_NANO <= time <= self._latest:
            raise Rejected(_time_reason(time))
        start = point.start_time_unix_nano
        if start > _MAX_COUNT or (kind != "number" and not _countable(point, kind)):
            raise Rejected("a count or start time is beyond 2**63 - 1")
        attributes = tuple(point.attributes)
        series = head.known.get(attributes)
        if series is None or series not in places:
            self.budget.new_series(head.shared_text_bytes)
            if series is None:
                kept, dropped = head.kept(attributes)
                series = head.series(kept, attributes, dropped)
            if series not in places:
                self.budget.texts(series)
                places[series] = len(self.series)
                self.series.append(series)
        numbers = _NUMBERS[kind](point)
        exemplars = () if kind == "summary" else point.exemplars
        self.budget.point(time, numbers, len(exemplars))
        filtered = _exemplars(exemplars)
        if head.dropped:
            self.dropped.update(head.dropped.get(attributes, ()))
        columns.series.append(places[series])
        columns.time.append(time)
        columns.start.append(start)
        columns.flags.append(point.flags)
        columns.append_values(point, filtered)
        columns.members += numbers + 4 * len(exemplars)
        if len(columns.time) >= MAX_OPEN_POINTS or columns.members >= MAX_OPEN_MEMBERS:
            columns.close()

    def chunks(self) -> list[Points]:
        """All points that were accepted, by kind."""
        for columns in self._kinds.values():
            columns.close()
        return [points for columns in self._kinds.values() for points in columns.full]


def _time_reason(time: int) -> str:
    if time == 0:
        return "time_unix_nano is missing"
    early = time < EARLIEST_UNIX_NANO
    return f"time_unix_nano is {'before 2000' if early else 'more than a day ahead'}"


def _countable(point: Any, kind: str) -> bool:
    """Whether every unsigned count fits the signed 64-bit integers that all engines read."""
    if point.count > _MAX_COUNT:
        return False
    if kind == "histogram":
        return max(point.bucket_counts, default=0) <= _MAX_COUNT
    if kind == "exponential_histogram":
        both = (*point.positive.bucket_counts, *point.negative.bucket_counts)
        return max(both, default=0) <= _MAX_COUNT and point.zero_count <= _MAX_COUNT
    return True


Lists = dict[str, list[Any]]
Exemplars = list[dict[str, object]] | None
Append = Callable[[Any, Exemplars], None]


def _number(columns: Lists) -> Append:
    values, integers = columns["data_point_value"], columns["data_point_value_int"]
    all_exemplars = columns["data_point_exemplars"]

    def append(point: Any, exemplars: Exemplars) -> None:
        value: float | None = None
        integer: int | None = None
        if not point.flags & _NO_RECORDED_VALUE:
            if point.HasField("as_double"):
                value = point.as_double
            elif point.HasField("as_int"):
                integer = point.as_int
                value = float(integer)
        values.append(value)
        integers.append(integer)
        all_exemplars.append(exemplars)

    return append


def _optional(point: Any, name: str) -> Any:
    return getattr(point, name) if point.HasField(name) else None


def _histogram(columns: Lists) -> Append:
    def append(point: Any, exemplars: Exemplars) -> None:
        recorded = not point.flags & _NO_RECORDED_VALUE
        counts = list(point.bucket_counts)
        repaired = are_cumulative(counts, point.count)
        if repaired:
            counts = [counts[0], *(b - a for a, b in itertools.pairwise(counts))]
        columns["data_point_count"].append(point.count if recorded else None)
        for name in ("sum", "min", "max"):
            columns[f"data_point_{name}"].append(_optional(point, name))
        columns["data_point_bucket_counts"].append(counts)
        columns["data_point_explicit_bounds"].append(list(point.explicit_bounds))
        columns["data_point_buckets_repaired"].append(repaired)
        columns["data_point_exemplars"].append(exemplars)

    return append


def are_cumulative(counts: Sequence[int], total: int) -> bool:
    """Whether bucket counts are Prometheus' cumulative ones (see the module's docstring)."""
    return (
        len(counts) > 1
        and counts[-1] == total
        and sum(counts) != total
        and all(a <= b for a, b in itertools.pairwise(counts))
    )


def _exponential_histogram(columns: Lists) -> Append:
    def append(point: Any, exemplars: Exemplars) -> None:
        recorded = not point.flags & _NO_RECORDED_VALUE
        columns["data_point_count"].append(point.count if recorded else None)
        for name in ("sum", "min", "max"):
            columns[f"data_point_{name}"].append(_optional(point, name))
        for name in ("scale", "zero_count", "zero_threshold"):
            columns[f"data_point_{name}"].append(getattr(point, name))
        for side in ("positive", "negative"):
            buckets = _optional(point, side)
            columns[f"{side}_offset"].append(None if buckets is None else buckets.offset)
            columns[f"{side}_bucket_count"].append(
                None if buckets is None else list(buckets.bucket_counts)
            )
        columns["data_point_exemplars"].append(exemplars)

    return append


def _summary(columns: Lists) -> Append:
    def append(point: Any, exemplars: Exemplars) -> None:
        del exemplars  # a summary has none
        recorded = not point.flags & _NO_RECORDED_VALUE
        columns["data_point_count"].append(point.count if recorded else None)
        columns["data_point_sum"].append(point.sum if recorded else None)
        pairs = point.quantile_values
        columns["data_point_quantile_values_quantile"].append(
            [quantile.quantile for quantile in pairs]
        )
        columns["data_point_quantile_values_value"].append([quantile.value for quantile in pairs])

    return append


_APPEND: dict[str, Callable[[Lists], Append]] = {
    "number": _number,
    "histogram": _histogram,
    "exponential_histogram": _exponential_histogram,
    "summary": _summary,
}


def _sides(point: Any) -> int:
    return len(point.positive.bucket_counts) + len(point.negative.bucket_counts)


# how many buckets, bounds or quantiles a point has
_NUMBERS: dict[str, Callable[[Any], int]] = {
    "number": lambda _: 0,
    "histogram": lambda point: len(point.bucket_counts) + len(point.explicit_bounds),
    "exponential_histogram": _sides,
    "summary": lambda point: 2 * len(point.quantile_values),
}
# tags that lead from a point to the attributes of its exemplars
_TO_FILTERED_ATTRIBUTES = {
    "gauge": (0x2A, 0x3A),
    "sum": (0x2A, 0x3A),
    "histogram": (0x42, 0x3A),
    "exponential_histogram": (0x5A, 0x3A),
}


def _exemplars(exemplars: Sequence[Any]) -> Exemplars:
    if not exemplars:
        return None
    return [
        {
            # in microseconds, as in storage
            "time_unix_nano": exemplar.time_unix_nano // 1000
            if 0 < exemplar.time_unix_nano <= _MAX_COUNT
            else None,
            "value": exemplar.as_double
            if exemplar.HasField("as_double")
            else (float(exemplar.as_int) if exemplar.HasField("as_int") else None),
            "value_int": exemplar.as_int if exemplar.HasField("as_int") else None,
            "trace_id": exemplar.trace_id.hex() or None,
            "span_id": exemplar.span_id.hex() or None,
            "filtered_attributes": attributes_json(exemplar.filtered_attributes),
        }
        for exemplar in exemplars
    ]
