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
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rayotel.ingest.decode.limits.bounds import EARLIEST_UNIX_NANO, LATEST_AFTER_ARRIVAL_NANO
from rayotel.ingest.decode.otlp.attributes import attributes_json
from rayotel.ingest.decode.otlp.series import Attributes, Head
from rayotel.lake.schema import METRIC_TYPES
from rayotel.model import Drop, Points, Series

_MAX_COUNT = 2**63 - 1
_NO_RECORDED_VALUE = 1
# a column of a commit holds two gigabytes of text at most, and a few bodies could exceed that
MAX_ATTRIBUTE_BYTES = 65_536

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
    """Points of one kind, as lists that grow."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.series: list[int] = []
        self.time: list[int] = []
        self.start: list[int] = []
        self.flags: list[int] = []
        self.values: dict[str, list[Any]] = {name: [] for name in _COLUMNS[kind]}
        self.append_values = _APPEND[kind](self.values)

    def points(self) -> Points:
        """The lists as columns."""
        return Points(
            self.kind,
            np.array(self.series, np.int32),
            np.array(self.time, np.int64),
            np.array(self.start, np.int64),
            np.array(self.flags, np.int64),
            {name: pa.array(of, METRIC_TYPES[name]) for name, of in self.values.items()},
        )


class FullDecode:
    """Points of one request. `series`: those in use; a decode appends its own.

    `dropped`: points and labels left out so far, by pattern.
    """

    def __init__(
        self, received_unix_nano: int, series: list[Series], rejected: Counter[str]
    ) -> None:
        self._latest = received_unix_nano + LATEST_AFTER_ARRIVAL_NANO
        self._series = series
        self._rejected = rejected
        self.dropped: Counter[Drop] = Counter()
        self._kinds: dict[str, _Columns] = {}

    def metric(self, head: Head, data_points: Sequence[Any]) -> None:
        """Add the points of a parsed metric. Raises messages.MalformedProtobuf."""
        if head.dropped_by is not None:
            self.dropped[head.dropped_by] += len(data_points)
            return
        kind = _KINDS[head.data]
        columns = self._kinds.get(kind)
        if columns is None:
            columns = self._kinds[kind] = _Columns(kind)
        places: dict[Attributes, int] = {}
        for point in data_points:
            time = point.time_unix_nano
            if not EARLIEST_UNIX_NANO <= time <= self._latest:
                self._rejected[_time_reason(time)] += 1
                continue
            start = point.start_time_unix_nano
            if start > _MAX_COUNT or (kind != "number" and not _countable(point, kind)):
                self._rejected["a count or start time is beyond 2**63 - 1"] += 1
                continue
            attributes = tuple(point.attributes)
            place = places.get(attributes)
            if place is None:
                series = head.known.get(attributes)
                if series is None:
                    kept, dropped = head.kept(attributes)
                    if max(map(len, kept), default=0) > MAX_ATTRIBUTE_BYTES:
                        reason = f"an attribute is larger than {MAX_ATTRIBUTE_BYTES} bytes"
                        self._rejected[reason] += 1
                        continue
                    series = head.series(kept, attributes, dropped)
                place = places[attributes] = len(self._series)
                self._series.append(series)
            if head.dropped:
                self.dropped.update(head.dropped.get(attributes, ()))
            columns.series.append(place)
            columns.time.append(time)
            columns.start.append(start)
            columns.flags.append(point.flags)
            columns.append_values(point)

    def chunks(self) -> list[Points]:
        """All points that were accepted, by kind."""
        return [columns.points() for columns in self._kinds.values() if columns.time]


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
Append = Callable[[Any], None]


def _number(columns: Lists) -> Append:
    values, integers = columns["data_point_value"], columns["data_point_value_int"]
    exemplars = columns["data_point_exemplars"]

    def append(point: Any) -> None:
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
        exemplars.append(_exemplars(point.exemplars))

    return append


def _optional(point: Any, name: str) -> Any:
    return getattr(point, name) if point.HasField(name) else None


def _histogram(columns: Lists) -> Append:
    def append(point: Any) -> None:
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
        columns["data_point_exemplars"].append(_exemplars(point.exemplars))

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
    def append(point: Any) -> None:
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
        columns["data_point_exemplars"].append(_exemplars(point.exemplars))

    return append


def _summary(columns: Lists) -> Append:
    def append(point: Any) -> None:
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


def _exemplars(exemplars: Sequence[Any]) -> list[dict[str, object]] | None:
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
