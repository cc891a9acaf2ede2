"""OTLP metrics to columns: one pass over the points, nothing per point but its own numbers.

A point's attributes arrive serialized (see `wire`) and are the same bytes in every scrape; with the
metric, scope and resource they are the key of a bounded cache of series, compared byte by byte.
Only a series that is not in it has its attributes parsed.

Rejected, counted with its reason, and never stored otherwise: a point whose time is missing, before
2000, or more than a day after its arrival; a count beyond 2**63 - 1; an attribute of more than 64
KiB.

Repaired: Fluent Bit sends histograms with the cumulative counts of Prometheus where OTLP wants the
counts of each bucket (fluent/cmetrics#278). Where the last count equals the total, no count falls
and their sum is not the total, they are cumulative; the differences are stored and the row is
marked.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rayotel.ingest import wire
from rayotel.ingest.attributes import attribute_text, attributes_json, json_text, text_of
from rayotel.lake.schema import header_column, label_column
from rayotel.model import NANOSECONDS_PER_SECOND, Arrival, MetricBatch, Points, Series

EARLIEST_UNIX_NANO = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * NANOSECONDS_PER_SECOND
LATEST_AFTER_ARRIVAL_NANO = 24 * 3600 * NANOSECONDS_PER_SECOND
_MAX_COUNT = 2**63 - 1
_NO_RECORDED_VALUE = 1
SERIES_BYTES = 1000
# a column of a commit holds two gigabytes of text at most, and a few bodies could exceed that
MAX_ATTRIBUTE_BYTES = 65_536

_KINDS = {
    "gauge": "number",
    "sum": "number",
    "histogram": "histogram",
    "exponential_histogram": "exponential_histogram",
    "summary": "summary",
}
_TEMPORALITIES = {0: "unspecified", 1: "delta", 2: "cumulative"}
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

Attributes = tuple[bytes, ...]


class SeriesCache:
    """Series of earlier requests, by everything that makes them one. Bounded by their bytes.

    It is emptied when full: the series in use return within one scrape. Safe for several threads,
    for a series made twice is only a little waste.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._metrics: dict[object, dict[Attributes, Series]] = {}

    def of_metric(self, key: object) -> dict[Attributes, Series]:
        """The known series of one metric of one scope, resource and sender."""
        if self._bytes >= self._max_bytes:
            self._metrics, self._bytes = {}, 0
        known = self._metrics.get(key)
        if known is None:
            known = self._metrics[key] = {}
            self._bytes += SERIES_BYTES
        return known

    def count(self, added_bytes: int) -> None:
        """Tell that series were added to a dictionary given out by `of_metric`."""
        self._bytes += added_bytes


def decode(body: bytes, arrival: Arrival, cache: SeriesCache) -> MetricBatch:
    """Decode an ExportMetricsServiceRequest. Raises wire.MalformedProtobuf; deterministic."""
    request = wire.parse_metrics_request(body)
    batch = MetricBatch(arrival)
    headers = [(header_column(name), value) for name, value in arrival.header_columns]
    for resource_metrics in request.resource_metrics:
        if not resource_metrics.scope_metrics:
            continue
        resource = _resource_context(resource_metrics)
        for scope_metrics in resource_metrics.scope_metrics:
            if not scope_metrics.metrics:
                continue
            scope = _scope_context(scope_metrics)
            sender = (arrival.stream, arrival.header_columns, resource.key, scope.key)
            for metric in scope_metrics.metrics:
                data = metric.WhichOneof("data")
                if data is not None:
                    head = _Head(metric, data, headers, resource, scope, arrival.stream)
                    _decode_metric(head, getattr(metric, data), batch, cache, sender)
    return batch


class _Context:
    """What a resource or a scope gives to each of its points."""

    def __init__(
        self,
        prefix: str,
        attributes: Iterable[Any],
        fixed: dict[str, str | bool | int | None],
        key: tuple[object, ...],
    ) -> None:
        self.labels = [
            (label_column(prefix, text_of(one.key)), text)
            for one in attributes
            if (text := attribute_text(one.value)) is not None
        ]
        self.fixed = fixed
        self.key = key


def _resource_context(resource_metrics: Any) -> _Context:
    resource, url = resource_metrics.resource, resource_metrics.schema_url
    references = [
        {
            "type": text_of(one.type),
            "schema_url": text_of(one.schema_url),
            "id_keys": [text_of(key) for key in one.id_keys],
            "description_keys": [text_of(key) for key in one.description_keys],
        }
        for one in resource.entity_refs
    ]
    return _Context(
        "resource_",
        resource.attributes,
        {
            "resource_schema_url": text_of(url) or None,
            "resource_dropped_attributes_count": resource.dropped_attributes_count or None,
            "resource_entity_refs": json_text(references) if references else None,
        },
        (resource.SerializeToString(), url),
    )


def _scope_context(scope_metrics: Any) -> _Context:
    scope, url = scope_metrics.scope, scope_metrics.schema_url
    return _Context(
        "scope_",
        scope.attributes,
        {
            "scope_name": text_of(scope.name) or None,
            "scope_version": text_of(scope.version) or None,
            "scope_schema_url": text_of(url) or None,
            "scope_dropped_attributes_count": scope.dropped_attributes_count or None,
        },
        (scope.SerializeToString(), url),
    )


class _Head:
    """A metric without its points, and how a new series of it is made."""

    def __init__(
        self,
        metric: Any,
        data: str,
        headers: list[tuple[str, str]],
        resource: _Context,
        scope: _Context,
        stream: str,
    ) -> None:
        body = getattr(metric, data)
        self.data, self.kind = data, _KINDS[data]
        self.name = text_of(metric.name)
        temporality = None
        if data not in ("gauge", "summary"):
            number = body.aggregation_temporality
            temporality = _TEMPORALITIES.get(number, str(number))
        self.fixed: dict[str, str | bool | int | None] = {
            "metric_name": self.name,
            "metric_type": data,
            "metric_unit": text_of(metric.unit) or None,
            "metric_description": text_of(metric.description) or None,
            "metric_metadata": attributes_json(metric.metadata),
            "aggregation_temporality": temporality,
            "is_monotonic": body.is_monotonic if data == "sum" else None,
            **resource.fixed,
            **scope.fixed,
        }
        self._outer = [*headers, *resource.labels, *scope.labels]
        self._stream = stream

    def cache_key(self) -> tuple[object, ...]:
        """All of the metric that a series of it holds."""
        return tuple(self.fixed.values())

    def series(self, attributes: Attributes) -> Series:
        """The series that these serialized attributes make."""
        labels: dict[str, tuple[str, str]] = {}
        spare: list[tuple[str, str]] = []
        pairs = list(self._outer)
        for raw in attributes:
            one = wire.parse_key_value(raw)
            text = attribute_text(one.value)
            if text is not None:
                pairs.append((label_column("metric_", text_of(one.key)), text))
        # ASCII order decides among names that differ only in case; sort is stable for the rest
        for column, text in sorted(pairs, key=lambda pair: pair[0]):
            folded = column.lower()
            if folded in labels:
                spare.append((column, text))
            else:
                labels[folded] = (column, text)
        identity = _series_id(self._stream, self.fixed, pairs)
        return Series(identity, self.fixed, tuple(labels.values()), tuple(spare))


def _series_id(
    stream: str, fixed: dict[str, str | bool | int | None], pairs: list[tuple[str, str]]
) -> int:
    """First 64 bits of BLAKE2b over stream, metric, scope and labels, each length-prefixed."""
    digest = hashlib.blake2b(digest_size=8)
    names = (stream, fixed["metric_name"], fixed["scope_name"], fixed["scope_version"])
    for text in (*names, *(text for pair in sorted(pairs) for text in pair)):
        raw = str(text or "").encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(4, "little") + raw)
    return int.from_bytes(digest.digest(), "little", signed=True)


def _decode_metric(
    head: _Head, data: Any, batch: MetricBatch, cache: SeriesCache, sender: tuple[object, ...]
) -> None:
    """Append the points of one metric to the batch."""
    points = batch.kinds.get(head.kind)
    if points is None:
        points = batch.kinds[head.kind] = Points(values={name: [] for name in _COLUMNS[head.kind]})
    known = cache.of_metric((sender, head.cache_key()))
    added_bytes = 0
    places: dict[Attributes, int] = {}
    appended = _APPEND[head.kind](points.values)
    latest = batch.arrival.received_unix_nano + LATEST_AFTER_ARRIVAL_NANO
    series, times, starts, flags = points.series, points.time, points.start, points.flags
    for point in data.data_points:
        time = point.time_unix_nano
        if not EARLIEST_UNIX_NANO <= time <= latest:
            batch.rejected[_time_reason(time)] += 1
            continue
        start = point.start_time_unix_nano
        if start > _MAX_COUNT or (head.kind != "number" and not _countable(point, head.kind)):
            batch.rejected["a count or start time is beyond 2**63 - 1"] += 1
            continue
        attributes = tuple(point.attributes)
        place = places.get(attributes)
        if place is None:
            one = known.get(attributes)
            if one is None and max(map(len, attributes), default=0) > MAX_ATTRIBUTE_BYTES:
                batch.rejected[f"an attribute is larger than {MAX_ATTRIBUTE_BYTES} bytes"] += 1
                continue
            if one is None:
                one = known[attributes] = head.series(attributes)
                # its attributes serialized, as text and as columns of text
                added_bytes += SERIES_BYTES + 4 * sum(map(len, attributes))
            place = places[attributes] = len(batch.series)
            batch.series.append(one)
        series.append(place)
        times.append(time)
        starts.append(start)
        flags.append(point.flags)
        appended(point)
    cache.count(added_bytes)
    batch.new_series_bytes += added_bytes


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


Columns = dict[str, list[Any]]
Append = Callable[[Any], None]


def _number(columns: Columns) -> Append:
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


def _histogram(columns: Columns) -> Append:
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


def _exponential_histogram(columns: Columns) -> Append:
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


def _summary(columns: Columns) -> Append:
    def append(point: Any) -> None:
        recorded = not point.flags & _NO_RECORDED_VALUE
        columns["data_point_count"].append(point.count if recorded else None)
        columns["data_point_sum"].append(point.sum if recorded else None)
        pairs = point.quantile_values
        columns["data_point_quantile_values_quantile"].append([one.quantile for one in pairs])
        columns["data_point_quantile_values_value"].append([one.value for one in pairs])

    return append


_APPEND: dict[str, Callable[[Columns], Append]] = {
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
            "time_unix_nano": one.time_unix_nano if 0 < one.time_unix_nano <= _MAX_COUNT else None,
            "value": one.as_double
            if one.HasField("as_double")
            else (float(one.as_int) if one.HasField("as_int") else None),
            "value_int": one.as_int if one.HasField("as_int") else None,
            "trace_id": one.trace_id.hex() or None,
            "span_id": one.span_id.hex() or None,
            "filtered_attributes": attributes_json(one.filtered_attributes),
        }
        for one in exemplars
    ]
