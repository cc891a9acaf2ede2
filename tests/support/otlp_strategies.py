"""Generators of OTLP metrics requests with everything in them that a sender may send."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    EntityRef,
    InstrumentationScope,
    KeyValue,
    KeyValueList,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from support.examples import examples
from support.otlp_reference import ARRIVED, DAY, HOUR, YEAR_2000

few = settings(
    max_examples=examples(25),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# what is printable or a control character; the rest has a test of its own
ALPHABET = st.characters(exclude_categories=("Cs", "Cf", "Cn", "Co", "Zl", "Zp", "Zs"))
TEXTS = st.text(ALPHABET, max_size=6) | st.sampled_from(["", "a b", "ü", "a\0b", "🚀", "K\u212a"])
COLLIDING = [
    "", "Name", "name", "NAME", "Type", "type", "unit", "label_x", "Label_X", "x", "X", "metadata",
    "schema_url", "version", "Version", "dropped_attributes_count", "x" * 193, "y" * 200, "a\tb",
]  # fmt: skip
KEYS = st.sampled_from(COLLIDING) | TEXTS
INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53 + 1, -(2**63), 2**63 - 1])
COUNTS = st.integers(0, 5) | st.integers(0, 2**63 - 1)
DOUBLES = st.floats()
TIMES = st.integers(ARRIVED - HOUR, ARRIVED + HOUR) | st.sampled_from([YEAR_2000, ARRIVED + DAY])
# 2**63 - 1 itself is DuckDB's infinity
STARTS = st.just(0) | st.integers(1, 2**63 - 2)
FLAGS = st.sampled_from([0, 0, 0, 1, 2, 3, 2**32 - 1])


def _nested(inner: st.SearchStrategy[AnyValue]) -> st.SearchStrategy[AnyValue]:
    members = st.dictionaries(KEYS, inner, max_size=3).map(
        lambda found: KeyValueList(values=[KeyValue(key=k, value=v) for k, v in found.items()])
    )
    arrays = st.builds(ArrayValue, values=st.lists(inner, max_size=3))
    return st.builds(AnyValue, array_value=arrays) | st.builds(AnyValue, kvlist_value=members)


VALUES = st.recursive(
    st.one_of(
        st.builds(AnyValue, string_value=TEXTS),
        st.builds(AnyValue, bool_value=st.booleans()),
        st.builds(AnyValue, int_value=INT64),
        st.builds(AnyValue, double_value=DOUBLES),
        st.builds(AnyValue, bytes_value=st.binary(max_size=5)),
        st.builds(AnyValue),
    ),
    _nested,
    max_leaves=4,
)
ATTRIBUTES = st.lists(st.builds(KeyValue, key=KEYS, value=VALUES), max_size=4)
UNIQUE = st.dictionaries(KEYS, VALUES, max_size=3).map(
    lambda found: [KeyValue(key=key, value=value) for key, value in found.items()]
)
EITHER: list[dict[str, Any]] = [{"as_double": DOUBLES}, {"as_int": INT64}, {}]
EXEMPLARS = st.lists(
    st.one_of(
        [
            st.builds(
                otlp.Exemplar,
                time_unix_nano=st.just(0) | TIMES,
                trace_id=st.sampled_from([b"", bytes(range(16))]),
                span_id=st.sampled_from([b"", b"\xfe" * 8]),
                filtered_attributes=UNIQUE,
                **one,
            )
            for one in EITHER
        ]
    ),
    max_size=2,
)
COMMON: dict[str, Any] = {
    "attributes": ATTRIBUTES, "time_unix_nano": TIMES, "start_time_unix_nano": STARTS,
    "flags": FLAGS,
}  # fmt: skip
OBSERVED: dict[str, Any] = {
    **COMMON, "count": COUNTS, "sum": st.none() | DOUBLES, "min": st.none() | DOUBLES,
    "max": st.none() | DOUBLES, "exemplars": EXEMPLARS,
}  # fmt: skip
BUCKETS = st.builds(
    otlp.ExponentialHistogramDataPoint.Buckets,
    offset=st.integers(-(2**31), 2**31 - 1),
    bucket_counts=st.lists(COUNTS, max_size=3),
)
QUANTILES = st.builds(otlp.SummaryDataPoint.ValueAtQuantile, quantile=DOUBLES, value=DOUBLES)
POINTS: dict[str, st.SearchStrategy[Any]] = {
    "number": st.one_of(
        [st.builds(otlp.NumberDataPoint, exemplars=EXEMPLARS, **COMMON, **one) for one in EITHER]
    ),
    "histogram": st.builds(
        otlp.HistogramDataPoint,
        bucket_counts=st.lists(COUNTS, max_size=4),
        explicit_bounds=st.lists(DOUBLES, max_size=3),
        **OBSERVED,
    ),
    "exponential_histogram": st.builds(
        otlp.ExponentialHistogramDataPoint,
        scale=st.integers(-(2**31), 2**31 - 1),
        zero_count=COUNTS,
        zero_threshold=DOUBLES,
        positive=st.none() | BUCKETS,
        negative=st.none() | BUCKETS,
        **OBSERVED,
    ),
    "summary": st.builds(
        otlp.SummaryDataPoint,
        count=COUNTS,
        sum=DOUBLES,
        quantile_values=st.lists(QUANTILES, max_size=3),
        **COMMON,
    ),
}
TEMPORALITY = st.sampled_from([0, 1, 2])


def _data(points: str) -> dict[str, st.SearchStrategy[Any]]:
    return {"data_points": st.lists(POINTS[points], min_size=1, max_size=4)}


DATA: dict[str, st.SearchStrategy[Any]] = {
    "gauge": st.builds(otlp.Gauge, **_data("number")),
    "sum": st.builds(
        otlp.Sum,
        is_monotonic=st.booleans(),
        aggregation_temporality=TEMPORALITY,
        **_data("number"),
    ),
    "histogram": st.builds(
        otlp.Histogram, aggregation_temporality=TEMPORALITY, **_data("histogram")
    ),
    "exponential_histogram": st.builds(
        otlp.ExponentialHistogram,
        aggregation_temporality=TEMPORALITY,
        **_data("exponential_histogram"),
    ),
    "summary": st.builds(otlp.Summary, **_data("summary")),
}
METRICS = st.one_of(
    [
        st.builds(
            otlp.Metric, name=TEXTS, unit=TEXTS, description=TEXTS, metadata=UNIQUE, **{kind: data}
        )
        for kind, data in DATA.items()
    ]
)
SCOPES = st.builds(
    otlp.ScopeMetrics,
    scope=st.builds(
        InstrumentationScope,
        name=TEXTS,
        version=TEXTS,
        attributes=ATTRIBUTES,
        dropped_attributes_count=st.sampled_from([0, 1, 2**32 - 1]),
    ),
    schema_url=TEXTS,
    metrics=st.lists(METRICS, min_size=1, max_size=4),
)
ENTITIES = st.builds(EntityRef, type=TEXTS, schema_url=TEXTS, id_keys=st.lists(TEXTS, max_size=2))
RESOURCES = st.builds(
    otlp.ResourceMetrics,
    resource=st.builds(
        Resource,
        attributes=ATTRIBUTES,
        dropped_attributes_count=st.sampled_from([0, 7]),
        entity_refs=st.lists(ENTITIES, max_size=1),
    ),
    schema_url=TEXTS,
    scope_metrics=st.lists(SCOPES, min_size=1, max_size=2),
)
REQUESTS = st.builds(
    ExportMetricsServiceRequest, resource_metrics=st.lists(RESOURCES, min_size=1, max_size=2)
)
HEADER_NAMES = ["env", "cluster-id", "a-b", "a_b", "series_id", "p-x", "metric-name", "hour"]
HEADERS = st.dictionaries(st.sampled_from(HEADER_NAMES), TEXTS, max_size=3).map(
    lambda found: tuple(sorted(found.items()))
)
