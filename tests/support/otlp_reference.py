"""A second decode of OTLP metrics, to compare with: what must be stored, and what is.

It reads with the official protobuf classes, follows the words of `rayotel.lake.schema` and shares
no code with rayotel's decoder: one dictionary per point, no cache, no columns.
"""

from __future__ import annotations

import base64
import fnmatch
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from rayotel.ingest.decode.decoder import Decoder
from rayotel.ingest.decode.limits.drops import NO_DROPS, Drops
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.schema import METRIC_COLUMNS
from rayotel.model import Arrival, MetricBatch, Record
from support.lakes import part, tables_by_hour

FIXED = frozenset(column.name for column in METRIC_COLUMNS)
OVERFLOW = "labels_overflow"
SECOND, HOUR, DAY = 10**9, 3600 * 10**9, 24 * 3600 * 10**9
ARRIVED = 1_795_200_000 * SECOND + 123_456_789
YEAR_2000 = 946_684_800 * SECOND
PROTOBUF_TYPE, JSON_TYPE = "application/x-protobuf", "application/json"
ARRIVAL = Arrival("metrics", "s", PROTOBUF_TYPE, "identity", ARRIVED, "192.0.2.1", "tester")
# not a property of the point alone
ABOUT_ARRIVAL = frozenset({"p_timestamp", "p_src_ip", "p_user_agent", "series_id", OVERFLOW})
TIMES = ("time_unix_nano", "start_time_unix_nano", "p_timestamp")
TEMPORALITIES = {0: "unspecified", 1: "delta", 2: "cumulative"}
Labels = list[tuple[str, str]]


class Point(NamedTuple):
    """A data point: its fixed columns that are not null, and its labels (column, text) as sent."""

    fixed: dict[str, Any]
    labels: Labels

    def key(self) -> Hashable:
        """Equal exactly for equal points, whatever the order of their labels."""
        return frozen(self.fixed), tuple(sorted(self.labels))


# --- the second decode ---------------------------------------------------------------------------


def points_of(
    request: ExportMetricsServiceRequest, headers: Iterable[tuple[str, str]] = ()
) -> Iterator[Point]:
    """All data points of a request, in the order sent, as they are stored.

    A point that the request repeats exactly counts once. Then times are cut to microseconds.
    """
    sent = {point.key(): point for point in reversed(list(_points_sent(request, headers)))}
    for fixed, labels in reversed(sent.values()):
        cut = {name: in_microseconds(fixed[name]) for name in TIMES if name in fixed}
        yield Point({**fixed, **cut}, labels)


def in_microseconds(unix_nano: int) -> int:
    """A time without what is less than a microsecond, in nanoseconds."""
    return unix_nano // 1000 * 1000


def _points_sent(
    request: ExportMetricsServiceRequest, headers: Iterable[tuple[str, str]] = ()
) -> Iterator[Point]:
    for by_resource in request.resource_metrics:
        resource = by_resource.resource
        references = [
            {
                "type": one.type,
                "schema_url": one.schema_url,
                "id_keys": list(one.id_keys),
                "description_keys": list(one.description_keys),
            }
            for one in resource.entity_refs
        ]
        about_resource = {
            "resource_schema_url": by_resource.schema_url or None,
            "resource_dropped_attributes_count": resource.dropped_attributes_count or None,
            "resource_entity_refs": references or None,
        }
        for by_scope in by_resource.scope_metrics:
            scope = by_scope.scope
            about_scope = {
                "scope_name": scope.name or None,
                "scope_version": scope.version or None,
                "scope_schema_url": by_scope.schema_url or None,
                "scope_dropped_attributes_count": scope.dropped_attributes_count or None,
            }
            outer = [(header_column(name), value) for name, value in headers]
            outer += labels_of("resource_", resource.attributes)
            outer += labels_of("scope_", scope.attributes)
            for metric in by_scope.metrics:
                yield from _points_of_metric(metric, {**about_resource, **about_scope}, outer)


def _points_of_metric(metric: Metric, outer: dict[str, Any], labels: Labels) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data = getattr(metric, kind)
    about = {
        "metric_name": metric.name,
        "metric_type": kind,
        "metric_unit": metric.unit or None,
        "metric_description": metric.description or None,
        "metric_metadata": object_of(metric.metadata),
        "is_monotonic": data.is_monotonic if kind == "sum" else None,
    }
    if kind not in ("gauge", "summary"):
        number = data.aggregation_temporality
        about["aggregation_temporality"] = TEMPORALITIES.get(number, str(number))
    for point in data.data_points:
        fixed = {
            **outer,
            **about,
            "time_unix_nano": point.time_unix_nano,
            "start_time_unix_nano": point.start_time_unix_nano or None,
            "data_point_flags": point.flags,
            **VALUES[kind](point),
        }
        own = labels_of("metric_", point.attributes)
        yield Point({k: v for k, v in fixed.items() if v is not None}, [*labels, *own])


def labels_of(prefix: str, attributes: Iterable[KeyValue]) -> Labels:
    """Rule 1 of the schema: (column, text) of each attribute that has a value."""
    found = []
    for one in attributes:
        text = text_of(one.value)
        if text is not None:
            taken = (prefix + one.key).lower() in FIXED or one.key.lower().startswith("label_")
            found.append((f"{prefix}{'label_' if taken else ''}{one.key}", text))
    return found


def header_column(name: str) -> str:
    """Rule 1 of the schema for the header `X-P-<name>`."""
    column = name.lower().replace("-", "_")
    like_another = ("metric_", "resource_", "scope_", "data_point_", "header_", "p_")
    taken = column in FIXED or column in ("date", "hour") or column.startswith(like_another)
    return f"header_{column}" if taken else column


def text_of(value: AnyValue) -> str | None:
    """Canonical text of an attribute's value."""
    plain = plain_of(value)
    if plain is None or isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def plain_of(value: AnyValue) -> Any:
    """The value as JSON can hold it."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain_of(one) for one in value.array_value.values]
    if kind == "kvlist_value":
        return {one.key: plain_of(one.value) for one in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    if kind == "double_value" and not math.isfinite(value.double_value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value.double_value)]
    return getattr(value, kind) if kind else None


def object_of(attributes: Iterable[KeyValue]) -> Any:
    """A JSON object of attributes; None where there are none."""
    return {one.key: plain_of(one.value) for one in attributes} or None


def _number(point: Any) -> dict[str, Any]:
    sent = None if point.flags & 1 else point.WhichOneof("value")
    return {
        "data_point_value": float(getattr(point, sent)) if sent else None,
        "data_point_value_int": point.as_int if sent == "as_int" else None,
        "data_point_exemplars": exemplars_of(point),
    }


def _observations(point: Any) -> dict[str, Any]:
    found = {"data_point_count": None if point.flags & 1 else point.count}
    for name in ("sum", "min", "max"):
        found[f"data_point_{name}"] = getattr(point, name) if point.HasField(name) else None
    return {**found, "data_point_exemplars": exemplars_of(point)}


def _histogram(point: Any) -> dict[str, Any]:
    counts = list(point.bucket_counts)
    rising = all(a <= b for a, b in itertools.pairwise(counts))
    repaired = bool(counts) and rising and counts[-1] == point.count and sum(counts) != point.count
    if repaired:
        counts = [after - before for before, after in itertools.pairwise([0, *counts])]
    return {
        **_observations(point),
        "data_point_bucket_counts": counts,
        "data_point_explicit_bounds": list(point.explicit_bounds),
        "data_point_buckets_repaired": repaired,
    }


def _exponential(point: Any) -> dict[str, Any]:
    found = _observations(point)
    for name in ("scale", "zero_count", "zero_threshold"):
        found[f"data_point_{name}"] = getattr(point, name)
    for side in ("positive", "negative"):
        if point.HasField(side):
            found[f"{side}_offset"] = getattr(point, side).offset
            found[f"{side}_bucket_count"] = list(getattr(point, side).bucket_counts)
    return found


def _summary(point: Any) -> dict[str, Any]:
    return {
        "data_point_count": None if point.flags & 1 else point.count,
        "data_point_sum": None if point.flags & 1 else point.sum,
        "data_point_quantile_values_quantile": [one.quantile for one in point.quantile_values],
        "data_point_quantile_values_value": [one.value for one in point.quantile_values],
    }


VALUES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gauge": _number,
    "sum": _number,
    "histogram": _histogram,
    "exponential_histogram": _exponential,
    "summary": _summary,
}


def exemplars_of(point: Any) -> Any:
    """The exemplars of a point, each without what is null; None where there are none."""
    found = []
    for one in point.exemplars:
        sent = one.WhichOneof("value")
        fields = {
            "time_unix_nano": in_microseconds(one.time_unix_nano)
            if 0 < one.time_unix_nano < 2**63
            else None,
            "value": float(getattr(one, sent)) if sent else None,
            "value_int": one.as_int if sent == "as_int" else None,
            "trace_id": one.trace_id.hex() or None,
            "span_id": one.span_id.hex() or None,
            "filtered_attributes": object_of(one.filtered_attributes),
        }
        found.append({name: value for name, value in fields.items() if value is not None})
    return found or None


# --- what is dropped -----------------------------------------------------------------------------


class Dropping(NamedTuple):
    """Patterns of the settings `drop_metrics` and `drop_labels`."""

    metrics: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def of_metric(self, name: str) -> str | None:
        """The first pattern that drops this metric."""
        return next((one for one in self.metrics if fnmatch.fnmatchcase(name, one)), None)

    def of_label(self, metric: str, key: str) -> str | None:
        """The first pattern that drops this label of this metric."""
        for one in self.labels:
            limit, _, pattern = one.rpartition(":") if ":" in one else ("*", "", one)
            if fnmatch.fnmatchcase(metric, limit) and fnmatch.fnmatchcase(key, pattern):
                return one
        return None


def without(
    request: ExportMetricsServiceRequest, dropping: Dropping
) -> tuple[ExportMetricsServiceRequest, Counter[tuple[str, str]]]:
    """The request as if what is dropped had never been sent; by pattern, what that is.

    Each metric stands in a resource of its own, for resources lose labels by metric too. All of
    its points are counted, also those that a receiver would reject.
    """
    made, counted = ExportMetricsServiceRequest(), Counter[tuple[str, str]]()
    for by_resource in request.resource_metrics:
        for by_scope in by_resource.scope_metrics:
            for metric in by_scope.metrics:
                kind = metric.WhichOneof("data")
                points = getattr(metric, kind).data_points if kind else []
                pattern = dropping.of_metric(metric.name)
                if pattern is not None:
                    counted["drop_metrics", pattern] += len(points)
                    continue
                resource = made.resource_metrics.add(schema_url=by_resource.schema_url)
                resource.resource.CopyFrom(by_resource.resource)
                scope = resource.scope_metrics.add(schema_url=by_scope.schema_url)
                scope.scope.CopyFrom(by_scope.scope)
                kept = scope.metrics.add()
                kept.CopyFrom(metric)
                for outer in (resource.resource.attributes, scope.scope.attributes):
                    lost = _strip(outer, metric.name, dropping)
                    counted.update(lost * len(points))
                for point in getattr(kept, kind).data_points if kind else []:
                    counted.update(_strip(point.attributes, metric.name, dropping))
    return made, +counted


def _strip(attributes: Any, metric: str, dropping: Dropping) -> list[tuple[str, str]]:
    lost = []
    for one in list(attributes):
        pattern = dropping.of_label(metric, one.key)
        if pattern is not None:
            if one.value.WhichOneof("value"):
                lost.append(("drop_labels", pattern))
            attributes.remove(one)
    return lost


# --- what is stored ------------------------------------------------------------------------------

JSON_COLUMNS = ("metric_metadata", "resource_entity_refs", OVERFLOW)


def stored_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file; see `rows_of`."""
    return rows_of(pq.ParquetFile(file).read())


def rows_of(table: Any) -> list[dict[str, Any]]:
    """The rows of an Arrow table without nulls: times as nanoseconds, JSON texts as values."""
    rows: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count < len(column):
            values = column.cast(in_nanoseconds(column.type))
            values = values.cast(with_integer_times(values.type)).to_pylist()
            for row, value in zip(rows, values, strict=True):
                if value is not None:
                    row[name] = json.loads(value) if name in JSON_COLUMNS else value
    for row in rows:
        for one in row.get("data_point_exemplars", ()):
            if one["filtered_attributes"] is not None:
                one["filtered_attributes"] = json.loads(one["filtered_attributes"])
    return rows


def in_nanoseconds(kind: Any) -> Any:
    """The Arrow type with nanoseconds for times."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("ns", kind.tz)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(in_nanoseconds(kind.value_field.type)))
    if pa.types.is_struct(kind):
        return pa.struct([member.with_type(in_nanoseconds(member.type)) for member in kind])
    return kind


def with_integer_times(kind: Any) -> Any:
    """The Arrow type with integers for times."""
    if pa.types.is_timestamp(kind):
        return pa.int64()
    if pa.types.is_list(kind):
        field = kind.value_field
        return pa.list_(field.with_type(with_integer_times(field.type)))
    if pa.types.is_struct(kind):
        return pa.struct([one.with_type(with_integer_times(one.type)) for one in kind])
    return pa.string() if pa.types.is_dictionary(kind) else kind


def restored(row: dict[str, Any]) -> Point:
    """A stored row as the point it was, by rules 2 to 4 of the schema."""
    overflow = dict(row.get(OVERFLOW, {}))
    spilled = [
        (column, text)
        for column, texts in overflow.items()
        for text in (texts if isinstance(texts, list) else [texts])
    ]
    otherwise_spelled = {(column.lower(), text) for column, text in spilled if column not in row}
    held = [
        (column, text)
        for column, text in row.items()
        if column not in FIXED and (column.lower(), text) not in otherwise_spelled
    ]
    fixed = {name: value for name, value in row.items() if name in FIXED - ABOUT_ARRIVAL}
    return Point(fixed, [*held, *spilled])


def frozen(value: Any) -> Hashable:
    """A value to compare: every NaN equal, -0.0 apart from 0.0, True apart from 1."""
    if isinstance(value, dict):
        present = ((name, frozen(one)) for name, one in value.items() if one is not None)
        return tuple(sorted(present, key=lambda member: str(member[0])))
    if isinstance(value, list):
        return tuple(frozen(one) for one in value)
    return value.hex() if isinstance(value, float) else repr(value)


# --- rayotel's way, to compare with --------------------------------------------------------------


def new_decoder(drops: Drops = NO_DROPS) -> Decoder:
    """A decoder that has seen nothing."""
    return Decoder(max_inflated_body_bytes=1 << 24, max_series_cached_bytes=1 << 22, drops=drops)


def decode(body: bytes, decoder: Decoder | None = None, **how: Any) -> MetricBatch:
    """A body, decoded as if it had arrived so."""
    batch = (decoder or new_decoder()).decode(Record(replace(ARRIVAL, **how), body))
    assert isinstance(batch, MetricBatch)
    return batch


def stored(*batches: MetricBatch, columns: int = 512) -> dict[int, Any]:
    """What is read back from the Parquet bytes of each hour."""
    tables = tables_by_hour(batches, StreamMemory(columns))
    return {
        hour: pq.ParquetFile(pa.BufferReader(part(table))).read() for hour, table in tables.items()
    }


def all_rows(batch: MetricBatch) -> list[Hashable]:
    """All rows of one batch in order, series ids included."""
    tables = tables_by_hour([batch], StreamMemory(512)).values()
    return [frozen(row) for table in tables for row in rows_of(table)]


def gauges(*times: int, **attributes: str) -> ExportMetricsServiceRequest:
    """A request with a gauge's point at each of these times, all with these attributes."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    for time in times:
        point = metric.gauge.data_points.add(time_unix_nano=time, as_double=1.5)
        for key, text in attributes.items():
            point.attributes.add(key=key).value.string_value = text
    return request
