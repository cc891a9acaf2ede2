"""Real OTLP clients: OpenTelemetry's Python SDK, live, and its JavaScript SDK, recorded."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk import metrics
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from support.harness import RECORDINGS, WAIT_SECONDS, Server
from support.otlp_reference import ABOUT_ARRIVAL, frozen, stored_rows

RECORDED_JS = RECORDINGS / "otlp-js"
DELTA = AggregationTemporality.DELTA
DELTA_PREFERENCE: dict[type, AggregationTemporality] = {
    metrics.Counter: DELTA,
    metrics.Histogram: DELTA,
    metrics.ObservableCounter: DELTA,
}
TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
SPAN = trace.NonRecordingSpan(
    trace.SpanContext(TRACE_ID, SPAN_ID, is_remote=False, trace_flags=trace.TraceFlags(1))
)
BEYOND_DOUBLES = 2**53 + 1
Row = dict[str, Any]


def rows_of_lake(data_dir: Path, stream: str) -> list[Row]:
    """All rows of a stream, in order of their own time."""
    files = sorted((data_dir / "lake").rglob(f"{stream}/date=*/hour=*/*.parquet"))
    rows = [row for path in files for row in stored_rows(path)]
    return sorted(rows, key=lambda row: int(row["time_unix_nano"]))


# --- the Python SDK ------------------------------------------------------------------------------


def provider_to(server: Server, **how: Any) -> metrics.MeterProvider:
    """An SDK that exports to a server when it is flushed, with X-P-* headers."""
    exporter = OTLPMetricExporter(
        endpoint=f"{server.url}/v1/metrics",
        headers={"X-P-Stream": "sdk", "X-P-Env": "test", "X-P-Log-Source": "otel-metrics"},
        timeout=WAIT_SECONDS,
        **how,
    )
    buckets = ExponentialBucketHistogramAggregation(max_size=8)
    return metrics.MeterProvider(
        [PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)],
        resource=Resource({"service.name": "svc", "n": 3, "up": True, "args": ["a", "ü"]}),
        exemplar_filter=metrics.AlwaysOnExemplarFilter(),
        shutdown_on_exit=False,
        views=[View(instrument_name="latency.exponential", aggregation=buckets)],
    )


class Instruments:
    """Every kind of instrument; `use` moves all of them, the observed by `round` times."""

    def __init__(self, meter: Meter) -> None:
        self._round = 0
        self.requests = meter.create_counter("requests", unit="1", description="Requests")
        self.bytes = meter.create_counter("bytes", unit="By")
        self.active = meter.create_up_down_counter("active")
        self.latency = meter.create_histogram(
            "latency", unit="ms", explicit_bucket_boundaries_advisory=[1, 10, 100]
        )
        self.exponential = meter.create_histogram("latency.exponential")
        self.temperature = meter.create_gauge("temperature", unit="Cel")
        self.queue = meter.create_gauge("queue")
        meter.create_observable_counter("cpu", [self._cpu], unit="s")
        meter.create_observable_up_down_counter("threads", [self._threads])
        meter.create_observable_gauge("level", [self._level])

    def _cpu(self, _: CallbackOptions) -> Iterator[Observation]:
        yield Observation(1.5 * self._round, {"core": 0})

    def _threads(self, _: CallbackOptions) -> Iterator[Observation]:
        yield Observation(-self._round)

    def _level(self, _: CallbackOptions) -> Iterator[Observation]:
        yield Observation(0.375, {"tank": ""})

    def use(self) -> None:
        """One round."""
        self._round += 1
        self.requests.add(BEYOND_DOUBLES, {"Name": "x", "big": BEYOND_DOUBLES, "flag": False})
        self.bytes.add(0.25)
        self.active.add(-3)
        for value in (0.5, 5, 5, 1000):
            self.latency.record(value, {"route": "/x"}, context=trace.set_span_in_context(SPAN))
        for value in (0, 1, 2, 1000):
            self.exponential.record(value)
        self.temperature.set(22.5)
        self.queue.set(-4)


def exported(server: Server, **how: Any) -> dict[str, list[Row]]:
    """What the lake has, by metric, after two rounds of everything were exported."""
    provider = provider_to(server, **how)
    about = {"Scope.Kind": "test"}
    meter = provider.get_meter("lib", "1.2", "https://example.org/schema", about)
    instruments = Instruments(meter)
    started = time.time_ns()
    for _ in range(2):
        instruments.use()
        assert provider.force_flush(int(WAIT_SECONDS * 1000))
    provider.shutdown()
    assert server.stop() == 0
    by_metric = defaultdict(list)
    for row in rows_of_lake(server.data_dir, "sdk"):
        assert started <= row["time_unix_nano"] <= time.time_ns()
        by_metric[row["metric_name"]].append(row)
    # shutdown exports once more; under delta only what reports without being used is in it
    return {name: rows[:2] for name, rows in by_metric.items()}


WAYS = [
    pytest.param({}, id="cumulative, plain"),
    pytest.param({"compression": Compression.Deflate}, id="cumulative, deflate"),
    pytest.param(
        {"compression": Compression.Gzip, "preferred_temporality": DELTA_PREFERENCE},
        id="delta, gzip",
    ),
]


@pytest.mark.parametrize("how", WAYS)
def test_every_instrument_of_the_python_sdk(server: Server, how: dict[str, Any]) -> None:
    """Kind, temporality, exact integers, doubles and labels of each instrument come out right."""
    found = exported(server, **how)
    is_delta = "preferred_temporality" in how
    kind = "delta" if is_delta else "cumulative"
    big = [BEYOND_DOUBLES, BEYOND_DOUBLES * (1 if is_delta else 2)]
    expected: dict[str, tuple[Any, ...]] = {
        "requests": ("sum", kind, True, big),
        "bytes": ("sum", kind, True, [0.25, 0.25 if is_delta else 0.5]),
        "active": ("sum", "cumulative", False, [-3, -6]),
        "temperature": ("gauge", None, None, [22.5, 22.5]),
        "queue": ("gauge", None, None, [-4, -4]),
        "cpu": ("sum", kind, True, [1.5, 1.5 if is_delta else 3.0]),
        "threads": ("sum", "cumulative", False, [-1, -2]),
        "level": ("gauge", None, None, [0.375, 0.375]),
    }
    for name, (metric_type, temporality, is_monotonic, values) in expected.items():
        for row, value in zip(found[name], values, strict=True):
            about = (row["metric_type"], row.get("aggregation_temporality"))
            assert (*about, row.get("is_monotonic")) == (metric_type, temporality, is_monotonic)
            assert row["data_point_value"] == float(value)
            assert row.get("data_point_value_int") == (value if isinstance(value, int) else None)
    labels = found["requests"][0]
    assert labels["metric_label_Name"] == "x"
    assert labels["metric_big"] == "9007199254740993"
    assert (labels["metric_flag"], found["level"][0]["metric_tank"]) == ("false", "")
    assert (labels["metric_unit"], labels["metric_description"]) == ("1", "Requests")


def bounds_of_last_bucket(row: Row) -> tuple[float, float]:
    """Between what the largest values of an exponential histogram lie, by OTLP's formula."""
    counts = row["positive_bucket_count"]
    last = row["positive_offset"] + max(i for i, count in enumerate(counts) if count)
    base = 2**2 ** -row["data_point_scale"]
    return base**last, base ** (last + 1)


@pytest.mark.parametrize("how", WAYS[1:])
def test_histograms_of_the_python_sdk(server: Server, how: dict[str, Any]) -> None:
    """Both kinds of histogram keep counts, bounds, scale and exemplars; none is repaired."""
    found = exported(server, **how)
    times = 1 if "preferred_temporality" in how else 2
    for number, row in enumerate(found["latency"]):
        factor = times if number else 1
        assert row["metric_type"] == "histogram"
        assert row["data_point_bucket_counts"] == [factor, 2 * factor, 0, factor]
        assert row["data_point_explicit_bounds"] == [1, 10, 100]
        assert (row["data_point_count"], row["data_point_sum"]) == (4 * factor, 1010.5 * factor)
        assert (row["data_point_min"], row["data_point_max"]) == (0.5, 1000)
        assert row["data_point_buckets_repaired"] is False
    for number, row in enumerate(found["latency.exponential"]):
        factor = times if number else 1
        assert row["metric_type"] == "exponential_histogram"
        assert (row["data_point_zero_count"], row["data_point_count"]) == (factor, 4 * factor)
        assert sum(row["positive_bucket_count"]) == 3 * factor
        assert bounds_of_last_bucket(row)[0] < 1000 <= bounds_of_last_bucket(row)[1]
    (exemplar,) = [e for e in found["latency"][0]["data_point_exemplars"] if e["value"] == 1000]
    assert exemplar["trace_id"] == f"{TRACE_ID:032x}"
    assert exemplar["span_id"] == f"{SPAN_ID:016x}"


def test_resource_scope_and_headers_of_the_python_sdk(server: Server) -> None:
    """Every row carries its resource, its scope and the X-P-* headers, routing ones excepted."""
    expected = {
        "resource_service.name": "svc",
        "resource_n": "3",
        "resource_up": "true",
        "resource_args": '["a","ü"]',
        "scope_name": "lib",
        "scope_version": "1.2",
        "scope_schema_url": "https://example.org/schema",
        "scope_Scope.Kind": "test",
        "env": "test",
    }
    for row in (row for rows in exported(server).values() for row in rows):
        assert expected.items() <= row.items()
        assert row["p_user_agent"].startswith("OTel-OTLP-Exporter-Python/")
        assert not {"stream", "log_source"} & row.keys()


# --- the JavaScript SDK, recorded ----------------------------------------------------------------


def plain(value: dict[str, Any]) -> Any:
    """An attribute's value in OTLP/JSON as the value it means."""
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [plain(one) for one in content["values"]]
    return float(content) if kind == "doubleValue" else content


def text(value: dict[str, Any]) -> str:
    """Its canonical text."""
    found = plain(value)
    if isinstance(found, str):
        return found
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def numbers(point: dict[str, Any]) -> Row:
    """The values of a gauge or sum."""
    exact = point.get("asInt")
    return {
        "data_point_value": float(point["asDouble"] if exact is None else exact),
        "data_point_value_int": exact,
    }


def observations(point: dict[str, Any]) -> Row:
    """The values of either kind of histogram."""
    found = {"data_point_count": point["count"]}
    for name in ("sum", "min", "max"):
        found[f"data_point_{name}"] = float(point[name])
    if "explicitBounds" in point:
        return {
            **found,
            "data_point_bucket_counts": point["bucketCounts"],
            "data_point_explicit_bounds": [float(bound) for bound in point["explicitBounds"]],
            "data_point_buckets_repaired": False,
        }
    for side in ("positive", "negative"):
        found[f"{side}_offset"] = point[side]["offset"]
        found[f"{side}_bucket_count"] = point[side]["bucketCounts"]
    exponential = {"data_point_scale": point["scale"], "data_point_zero_count": point["zeroCount"]}
    return {**found, **exponential, "data_point_zero_threshold": 0.0}


KINDS = {
    "sum": "sum",
    "gauge": "gauge",
    "histogram": "histogram",
    "exponentialHistogram": "exponential_histogram",
}


def rows_sent(tree: dict[str, Any]) -> Iterator[Row]:
    """The rows that a recorded body means, read without any OTLP library."""
    for resource in tree["resourceMetrics"]:
        attributes = resource["resource"]["attributes"]
        about: Row = {f"resource_{a['key']}": text(a["value"]) for a in attributes}
        for scope in resource["scopeMetrics"]:
            about["scope_name"] = scope["scope"]["name"]
            about["scope_version"] = scope["scope"]["version"] or None
            about["scope_schema_url"] = scope.get("schemaUrl")
            for metric in scope["metrics"]:
                (kind,) = KINDS.keys() & metric.keys()
                for point in metric[kind]["dataPoints"]:
                    yield {**about, **row_sent(metric, kind, point)}


def row_sent(metric: dict[str, Any], kind: str, point: dict[str, Any]) -> Row:
    """What a recorded metric and point add to their row."""
    data = metric[kind]
    return {
        "metric_name": metric["name"],
        "metric_type": KINDS[kind],
        "metric_unit": metric["unit"] or None,
        "metric_description": metric["description"] or None,
        "aggregation_temporality": {None: None, 1: "delta", 2: "cumulative"}[
            data.get("aggregationTemporality")
        ],
        "is_monotonic": data.get("isMonotonic"),
        "time_unix_nano": int(point["timeUnixNano"]),
        "start_time_unix_nano": int(point["startTimeUnixNano"]),
        "data_point_flags": 0,
        **(observations(point) if "count" in point else numbers(point)),
        **{f"metric_{a['key']}": text(a["value"]) for a in point["attributes"]},
    }


def post_verbatim(server: Server, request: dict[str, Any], stream: str) -> httpx.Response:
    """Post a recorded request: chunked, as it came."""
    headers = {**request["headers"], "X-P-Stream": stream}
    del headers["transfer-encoding"]  # httpx sets it for a body of unknown length
    pieces = iter([request["body"].encode()])
    return server.post(pieces, headers, request["path"])


@pytest.mark.parametrize("name", ["cumulative", "delta"])
def test_what_the_javascript_sdk_sends_is_stored(server: Server, name: str) -> None:
    """Recorded OTLP/JSON is accepted verbatim and every point of it is a row, exactly."""
    requests = json.loads((RECORDED_JS / f"{name}.json").read_text("utf-8"))
    expected: Counter[Hashable] = Counter()
    for request in requests:
        answer = post_verbatim(server, request, name)
        assert (answer.status_code, answer.json()) == (200, {})
        expected.update(frozen(row) for row in rows_sent(json.loads(request["body"])))
    assert server.stop() == 0
    rows = rows_of_lake(server.data_dir, name)
    found = [{k: v for k, v in row.items() if k not in ABOUT_ARRIVAL} for row in rows]
    assert Counter(frozen(row) for row in found) == expected
    huge = [row for row in rows if row.get("metric_huge") == "true"]
    assert {row["data_point_value_int"] for row in huge} >= {2**53 + 2}
    (unicode, *_) = [row for row in rows if "metric_unicode" in row]
    assert unicode["metric_unicode"] == "Grüße, 世界 🚀"
    assert unicode["metric_big_int"] == "9007199254740994"
