"""The recorded cluster, decoded a second way: what is stored is what the official classes read.

The second decode below follows the words of `rayotel.lake.schema` and shares no code with
rayotel's: one dictionary per point, no cache, no columns. Other tests use it as their reference.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import RECORDING
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from rayotel.lake.schema import METRIC_COLUMNS
from rayotel.lake.storage import Storage
from rayotel.replay import Recording

FIXED = frozenset(column.name for column in METRIC_COLUMNS)
OVERFLOW = "labels_overflow"
NANOSECONDS_PER_HOUR = 3600 * 10**9
# not a property of the point alone
ABOUT_ARRIVAL = frozenset({"p_timestamp", "p_src_ip", "p_user_agent", "series_id", OVERFLOW})
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
    """All data points of a request, in the order sent."""
    for by_resource in request.resource_metrics:
        resource = by_resource.resource
        references = [
            {name.name: _listed(getattr(one, name.name)) for name in _by_name(one)}
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


def _by_name(one: Any) -> list[Any]:
    order = ("type", "schema_url", "id_keys", "description_keys")
    return [one.DESCRIPTOR.fields_by_name[name] for name in order]


def _listed(value: Any) -> Any:
    return value if isinstance(value, str) else list(value)


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
    return f"header_{column}" if column in FIXED or column.startswith(like_another) else column


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
            "time_unix_nano": one.time_unix_nano if 0 < one.time_unix_nano < 2**63 else None,
            "value": float(getattr(one, sent)) if sent else None,
            "value_int": one.as_int if sent == "as_int" else None,
            "trace_id": one.trace_id.hex() or None,
            "span_id": one.span_id.hex() or None,
            "filtered_attributes": object_of(one.filtered_attributes),
        }
        found.append({name: value for name, value in fields.items() if value is not None})
    return found or None


# --- what is stored ------------------------------------------------------------------------------

JSON_COLUMNS = ("metric_metadata", "resource_entity_refs", OVERFLOW)


def stored_rows(source: Path | memoryview) -> list[dict[str, Any]]:
    """The rows of a Parquet file without nulls: times as nanoseconds, JSON texts as values."""
    table = pq.ParquetFile(source if isinstance(source, Path) else io.BytesIO(source)).read()
    rows: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count == len(column):
            continue
        for row, value in zip(
            rows, column.cast(_with_integer_times(column.type)).to_pylist(), strict=True
        ):
            if value is not None:
                row[name] = json.loads(value) if name in JSON_COLUMNS else value
    for row in rows:
        for one in row.get("data_point_exemplars", ()):
            if one["filtered_attributes"] is not None:
                one["filtered_attributes"] = json.loads(one["filtered_attributes"])
    return rows


def _with_integer_times(kind: Any) -> Any:
    if pa.types.is_timestamp(kind):
        return pa.int64()
    if pa.types.is_list(kind):
        field = kind.value_field
        return pa.list_(field.with_type(_with_integer_times(field.type)))
    if pa.types.is_struct(kind):
        return pa.struct([one.with_type(_with_integer_times(one.type)) for one in kind])
    return kind


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


# --- the tests -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(recorded_lake: Storage) -> dict[Path, list[dict[str, Any]]]:
    """The rows of every file of the lake."""
    found = sorted(Path(recorded_lake.url).rglob("*.parquet"))
    return {path: stored_rows(path) for path in found}


@pytest.fixture(scope="module")
def sent(recording: Recording) -> Counter[Hashable]:
    """The points of the recording by the second decode, and how often each was sent."""
    counted: Counter[Hashable] = Counter()
    for request in recording.requests:
        message = ExportMetricsServiceRequest.FromString(request.plain_body())
        counted.update(point.key() for point in points_of(message))
    return counted


Files = dict[Path, list[dict[str, Any]]]


def test_every_point_is_stored_once_and_exactly(files: Files, sent: Counter[Hashable]) -> None:
    """The rows in storage are the points that were sent: values, labels, nanoseconds, repairs."""
    stored = Counter(restored(row).key() for rows in files.values() for row in rows)
    assert list((sent - stored).items())[:3] == []
    assert list((stored - sent).items())[:3] == []


def test_there_are_as_many_rows_as_recorded_points(files: Files) -> None:
    """The number of rows is the number of points that the recorder counted."""
    lines = (RECORDING / "requests.ndjson").read_text("utf-8").splitlines()
    recorded = sum(json.loads(line)["points"] for line in lines)
    assert sum(len(rows) for rows in files.values()) == recorded > 100_000


def test_the_recording_has_what_these_tests_are_about(files: Files) -> None:
    """Gauges, sums, repaired and honest histograms, and labels that differ only in case."""
    rows = list(itertools.chain(*files.values()))
    assert {row["metric_type"] for row in rows} == {"gauge", "sum", "histogram"}
    repaired = Counter(row.get("data_point_buckets_repaired") for row in rows)
    assert repaired[True] > 1000
    assert repaired[False] > 100
    spilled = {name for row in rows for name in row.get(OVERFLOW, ())}
    assert {"metric_version", "metric_method"} <= spilled


def test_bucket_counts_of_repaired_histograms_add_up(files: Files) -> None:
    """After the repair every histogram keeps OTLP's rule: bucket counts add up to the count."""
    for row in itertools.chain(*files.values()):
        if row["metric_type"] == "histogram":
            assert sum(row["data_point_bucket_counts"]) == row["data_point_count"]


def test_a_series_id_names_one_series_and_every_series_has_one(files: Files) -> None:
    """series_id is a function of metric and labels, and differs for different ones."""
    by_id, by_series = defaultdict(set), defaultdict(set)
    for row in itertools.chain(*files.values()):
        series = (row["metric_name"], tuple(sorted(restored(row).labels)))
        by_id[row["series_id"]].add(series)
        by_series[series].add(row["series_id"])
    assert len(by_series) > 1000
    assert [found for found in by_id.values() if len(found) > 1] == []
    assert [found for found in by_series.values() if len(found) > 1] == []


def test_columns_of_a_file_differ_by_more_than_case(files: Files) -> None:
    """No two columns of a file are equal ignoring case."""
    for path in files:
        names = [name.casefold() for name in pq.read_schema(path).names]
        assert len(names) == len(set(names))


def test_a_file_lies_in_the_hour_of_its_points(files: Files) -> None:
    """A file's directory is the UTC hour of its points' own time."""
    for path, rows in files.items():
        hours = {row["time_unix_nano"] // NANOSECONDS_PER_HOUR for row in rows}
        assert len(hours) == 1
        start = pa.scalar(hours.pop() * 3600, pa.timestamp("s")).as_py()
        assert path.parts[-3:-1] == (f"date={start:%Y-%m-%d}", f"hour={start:%H}")


def test_rows_say_who_sent_them(files: Files) -> None:
    """Every row has the sender's address and User-Agent, and arrived after its own time."""
    for row in itertools.chain(*files.values()):
        assert (row["p_src_ip"], row["p_user_agent"]) == ("127.0.0.1", "Fluent-Bit")
        assert row["p_timestamp"] >= row["time_unix_nano"]
