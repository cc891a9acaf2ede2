"""Every shortcut of decoding gives what the full decode gives, and the memory of it is bounded.

A decoder is warmed with a request and then given the same one changed: byte by byte, and in its
structure. Whatever was learned, rows, rejections and refusals must be those of the full decode,
whether metrics and labels are dropped or not.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    Metric,
    NumberDataPoint,
)

from rayotel.ingest.decode.limits.drops import NO_DROPS, Drops
from rayotel.ingest.decode.otlp import messages
from rayotel.ingest.decode.otlp.fast import metrics as otlp_metrics
from rayotel.ingest.decode.otlp.fast.metrics import Memory
from rayotel.ingest.decode.otlp.messages import MalformedProtobuf
from rayotel.ingest.decode.otlp.metrics import Contexts, decode_in_full
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.schema import METRIC_TYPES
from rayotel.model import Arrival, MetricBatch
from rayotel.replay import Recording
from support.lakes import tables_by_hour
from support.otlp_reference import ARRIVAL, ARRIVED, DAY, YEAR_2000, gauges, with_integer_times
from support.otlp_strategies import HEADERS, REQUESTS, few

MIB = 1024 * 1024
# of what is recorded, of `EVERYTHING`, and of what hypothesis makes
SOME_DROPS = Drops(
    ["ray_grpc_*", "python_*", "*_created", "sum1", "hist0", "?", "a b"],
    ["otel_scope_*", "Version", "ray_component_*:pid", "sum*:k", "m:n*", "r", "[nN]ame", "*:x*"],
)
dropping_or_not = pytest.mark.parametrize(
    "drops",
    [NO_DROPS, pytest.param(SOME_DROPS, marks=pytest.mark.thorough)],
    ids=["all", "some"],
)


def tables_of(batch: MetricBatch) -> list[pa.Table]:
    """The rows of a batch, to compare: every double by its bits."""
    tables = tables_by_hour([batch], StreamMemory(512)).values()
    return [pa.table([_bits(one) for one in table.columns], table.column_names) for table in tables]


def _bits(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    if pa.types.is_float64(array.type):
        return array.view(pa.int64())
    if array.type == pa.list_(pa.float64()):
        mask = pa.array(np.asarray(array.is_null()))
        return pa.ListArray.from_arrays(array.offsets, array.values.view(pa.int64()), mask=mask)
    if array.type == METRIC_TYPES["data_point_exemplars"] and array.null_count < len(array):
        return pa.array([repr(one) for one in array.cast(_INTEGER_TIMES).to_pylist()])
    return array


_INTEGER_TIMES = with_integer_times(METRIC_TYPES["data_point_exemplars"])


Outcome = tuple[Any, ...]


def outcome(decode: Callable[[], MetricBatch]) -> Outcome:
    """Rows and rejections, or the refusal."""
    try:
        batch = decode()
    except MalformedProtobuf:
        return ("malformed",)
    return (tables_of(batch), dict(batch.rejected), dict(batch.dropped))


def in_full(body: bytes, arrival: Arrival = ARRIVAL, drops: Drops = NO_DROPS) -> Outcome:
    """What the full decode says."""
    return outcome(lambda: decode_in_full(body, arrival, Contexts(drops)))


def shortened(body: bytes, memory: Memory, arrival: Arrival = ARRIVAL) -> Outcome:
    """What a decoder says that has learned something."""
    return outcome(lambda: otlp_metrics.decode(body, arrival, memory))


def warmed(*bodies: bytes, drops: Drops = NO_DROPS) -> Memory:
    """The memory of a decoder that has seen these."""
    memory = Memory(64 * MIB, drops)
    for body in bodies:
        otlp_metrics.decode(body, ARRIVAL, memory)
    return memory


@dropping_or_not
def test_the_recording_in_order_and_again(recording: Recording, drops: Drops) -> None:
    """A decoder that learns from request to request, and one that knows them all."""
    memory = Memory(128 * MIB, drops)
    bodies = [request.plain_body() for request in recording.requests]
    # new, seen once, and known by templates of whole bodies
    for compared in (0, 3, 1):
        for number, body in enumerate(bodies):
            if number % 6 == compared:
                assert shortened(body, memory) == in_full(body, drops=drops)
            else:
                otlp_metrics.decode(body, ARRIVAL, memory)


@dropping_or_not
@few
@given(REQUESTS, REQUESTS, HEADERS)
def test_any_request_first_again_and_after_another(
    drops: Drops,
    request_: ExportMetricsServiceRequest,
    other: ExportMetricsServiceRequest,
    headers: Any,
) -> None:
    """Cold, warm, and after the decoder has seen something else."""
    memory, arrival = Memory(64 * MIB, drops), replace(ARRIVAL, header_columns=headers)
    both = ExportMetricsServiceRequest()
    both.MergeFrom(request_)
    both.MergeFrom(other)
    for one in (request_, other, request_, request_, both, both, both):
        body = one.SerializeToString()
        assert shortened(body, memory, arrival) == in_full(body, arrival, drops)


def _everything() -> ExportMetricsServiceRequest:
    """A small request with all that a template can hold, twice over."""
    request = gauges(ARRIVED, ARRIVED + 1, k="v")
    scope = request.resource_metrics[0].scope_metrics[0]
    scope.scope.name = "lib"
    request.resource_metrics[0].resource.attributes.add(key="r").value.string_value = "x"
    for number in range(2):
        total = scope.metrics.add(name=f"sum{number}", unit="s").sum
        total.is_monotonic = True
        total.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        total.data_points.add(
            time_unix_nano=ARRIVED, start_time_unix_nano=YEAR_2000, as_int=2**53 + 1
        )
        total.data_points.add(time_unix_nano=ARRIVED, as_int=-1, flags=number)
        total.data_points.add(time_unix_nano=ARRIVED)
        buckets = scope.metrics.add(name=f"hist{number}").histogram
        for counts in ([1, 3, 3], [1, 2, 0], [], [3]):
            point = buckets.data_points.add(time_unix_nano=ARRIVED, count=3, bucket_counts=counts)
            point.sum = 1.5
            point.explicit_bounds.extend([0.5, 2.5][: max(0, len(counts) - 1)])
            point.attributes.add(key="n").value.int_value = len(counts)
        point.min, point.max = float("nan"), -0.0
    return request


EVERYTHING = _everything().SerializeToString()


def _changed_bytes(body: bytes, luck: random.Random, times: int) -> Iterator[bytes]:
    """A body with bytes flipped, put in, left out, or cut off."""
    for _ in range(times):
        place, byte = luck.randrange(len(body)), bytes([luck.choice([0, 1, 0x7F, 0x80, 0xFF])])
        other = bytes([luck.randrange(256)])
        yield luck.choice(
            [
                body[:place] + bytes([body[place] ^ 1 << luck.randrange(8)]) + body[place + 1 :],
                body[:place] + byte + body[place + 1 :],
                body[:place] + other + body[place + 1 :],
                body[:place] + other + body[place:],
                body[:place] + body[place + luck.randrange(1, 20) :],
                body[:place],
                body + body[place : place + luck.randrange(1, 40)],
            ]
        )


@dropping_or_not
def test_every_byte_of_a_small_request_changed(drops: Drops) -> None:
    """No byte that is changed after the request was learned is passed over."""
    memory = warmed(EVERYTHING, drops=drops)
    for place in range(len(EVERYTHING)):
        changed = bytearray(EVERYTHING)
        changed[place] ^= 0x80 if place % 3 == 0 else 1
        body = bytes(changed)
        assert shortened(body, memory) == in_full(body, drops=drops), place


def _small_recorded(recording: Recording) -> list[bytes]:
    """A body of each kind of sender, small ones."""
    by_size = sorted({request.plain_body() for request in recording.requests}, key=len)
    return [by_size[0], by_size[len(by_size) // 3]]


@dropping_or_not
def test_recorded_requests_changed_byte_by_byte(recording: Recording, drops: Drops) -> None:
    """A changed body is judged as if it had never been learned."""
    luck = random.Random(4)
    for body in (*_small_recorded(recording), EVERYTHING):
        memory = warmed(body, drops=drops)
        for changed in _changed_bytes(body, luck, 100):
            assert shortened(changed, memory) == in_full(changed, drops=drops)
        assert shortened(body, memory) == in_full(body, drops=drops)


def _metrics(request: ExportMetricsServiceRequest) -> Any:
    return request.resource_metrics[0].scope_metrics[0].metrics


def _points(metric: Metric) -> Any:
    kind = metric.WhichOneof("data")
    return getattr(metric, kind).data_points if kind else []


def _shuffle(of: Any, luck: random.Random) -> None:
    content = [type(one).FromString(one.SerializeToString()) for one in of]
    luck.shuffle(content)
    del of[:]
    of.extend(content)


def _change_structure(request: ExportMetricsServiceRequest, luck: random.Random) -> None:
    """Change one thing somewhere."""
    metrics = _metrics(request)
    if not metrics:
        return
    metric = luck.choice(metrics)
    points = _points(metric)
    if not points:
        return
    place = luck.randrange(len(points))
    point = points[place]
    is_number = isinstance(point, NumberDataPoint)
    changes: list[Callable[[], object]] = [
        lambda: metrics.remove(metric),
        lambda: metrics.add().CopyFrom(metric),
        lambda: _shuffle(metrics, luck),
        lambda: points.pop(place),
        lambda: points.add().CopyFrom(point),
        lambda: _shuffle(points, luck),
        lambda: _shuffle(point.attributes, luck),
        lambda: point.attributes.add(key="new").value.CopyFrom(point.attributes[0].value),
        lambda: point.attributes.pop(),
        lambda: setattr(point, "flags", luck.choice([0, 1, 2])),
        lambda: setattr(point, "start_time_unix_nano", luck.choice([1, ARRIVED, 2**63])),
        lambda: setattr(point, "time_unix_nano", luck.choice([0, 1, ARRIVED + 2 * DAY, 2**64 - 1])),
        lambda: point.exemplars.add(as_double=1.5),
        lambda: metric.metadata.add(key="k"),
        lambda: setattr(metric, "unit", "other"),
        lambda: metric.ClearField("data"),
        lambda: points.pop(),
    ]
    if is_number:
        changes += [
            lambda: setattr(point, "as_int", luck.choice([-1, 2**62 + 1])),
            lambda: setattr(point, "as_double", luck.choice([float("nan"), -0.0])),
            lambda: point.ClearField("as_double"),
        ]
    else:
        changes += [
            lambda: setattr(point, "count", luck.choice([0, 7, 2**47, 2**63])),
            lambda: point.bucket_counts.append(luck.choice([0, 7, 2**47, 2**63])),
            lambda: point.explicit_bounds.append(9.5),
            lambda: point.ClearField("sum"),
            lambda: setattr(point, "min", 0.5),
        ]
    luck.choice(changes)()


@dropping_or_not
def test_requests_changed_in_their_structure(recording: Recording, drops: Drops) -> None:
    """Metrics, points and attributes that come, go, move or change their type."""
    luck = random.Random(5)
    for body in (*_small_recorded(recording), EVERYTHING):
        memory = warmed(body, drops=drops)
        for _ in range(60):
            request = ExportMetricsServiceRequest.FromString(body)
            for _ in range(luck.choice([1, 1, 2, 5])):
                if all(one.attributes for metric in _metrics(request) for one in _points(metric)):
                    _change_structure(request, luck)
            changed = request.SerializeToString()
            for _ in range(2):
                assert shortened(changed, memory) == in_full(changed, drops=drops)


def test_resources_that_differ_in_nothing_that_is_kept() -> None:
    """Points of one series keep their order, whichever of its two metrics is unusual."""
    for kind, drops in (("string_value", Drops([], ["k"])), (None, NO_DROPS)):
        request = gauges(ARRIVED)
        request.resource_metrics.add().CopyFrom(request.resource_metrics[0])
        attribute = request.resource_metrics[0].resource.attributes.add(key="k")
        if kind is not None:
            setattr(attribute.value, kind, "v")
        (unusual,) = _points(_metrics(request)[0])
        unusual.exemplars.add(as_double=1.5)
        unusual.as_double = 2.5
        memory, body = Memory(64 * MIB, drops), request.SerializeToString()
        for _ in range(3):
            assert shortened(body, memory) == in_full(body, drops=drops)


@dropping_or_not
def test_numbers_alone_are_read_by_a_template(
    monkeypatch: pytest.MonkeyPatch, drops: Drops
) -> None:
    """A request that differs in its numbers alone is neither walked nor parsed."""
    memory = warmed(EVERYTHING, drops=drops)
    request = ExportMetricsServiceRequest.FromString(EVERYTHING)
    for metric in _metrics(request):
        for point in _points(metric):
            point.time_unix_nano += 10**10
    body = request.SerializeToString()
    expected = in_full(body, drops=drops)
    monkeypatch.setattr(otlp_metrics, "scopes_of", None)
    monkeypatch.setattr(messages, "parse_metrics_request", None)
    assert shortened(body, memory) == expected


@pytest.mark.parametrize(
    "time", [0, YEAR_2000 - 1, YEAR_2000, ARRIVED + DAY, ARRIVED + DAY + 1, 2**63, 2**64 - 1]
)
def test_times_at_the_limits_after_the_shape_was_learned(time: int) -> None:
    """What the arrival allows is judged for each request, not once for its template."""
    memory = warmed(gauges(ARRIVED, ARRIVED).SerializeToString())
    body = gauges(ARRIVED, time).SerializeToString()
    assert shortened(body, memory) == in_full(body)


def _churning(number: int) -> bytes:
    """A request none of whose series or shapes was seen before."""
    request = gauges(*[ARRIVED] * (20 + number % 7), k=f"value {number}")
    metrics = _metrics(request)
    for position, point in enumerate(_points(metrics[0])):
        point.attributes.add(key="n").value.string_value = f"{number} {position}" * (number % 5 + 1)
    return request.SerializeToString()


@dropping_or_not
def test_memory_stays_within_its_bound_under_churn(drops: Drops) -> None:
    """Half a million bytes of memory, and series that never come again: it is kept to."""
    bound = MIB // 2
    memory = Memory(bound, drops)
    otlp_metrics.decode(_churning(0), ARRIVAL, Memory(bound))
    tracemalloc.start()
    try:
        peak = 0
        for number in range(600):
            otlp_metrics.decode(_churning(number), ARRIVAL, memory)
            assert memory.size_bytes <= bound + 200_000
            peak = max(peak, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * bound + 200_000


@dropping_or_not
def test_points_of_a_metric_that_change_their_form(drops: Drops) -> None:
    """What a metric's points looked like last is tried, and is no more than a guess."""
    luck = random.Random(6)
    memory = Memory(64 * MIB, drops)
    for number in range(150):
        request = gauges(ARRIVED, **dict.fromkeys(luck.sample(["a", "B", "b", "A"], 2), "v"))
        metrics = _metrics(request)
        metrics[0].gauge.data_points.extend([metrics[0].gauge.data_points[0]] * 2)
        buckets = metrics.add(name="h").histogram
        for _ in range(luck.choice([1, 3])):
            counts = luck.choice([[], [1, 2], [1, 2, 3]])
            point = buckets.data_points.add(time_unix_nano=ARRIVED, bucket_counts=counts, count=3)
            point.explicit_bounds.extend([0.5, 1.5][: max(0, len(counts) - 1)])
            point.attributes.add(key="n").value.int_value = luck.randrange(3)
        for _ in range(luck.choice([0, 0, 1])):
            _change_structure(request, luck)
        for gauge in metrics[0].gauge.data_points if luck.random() < 0.7 else ():
            if number % 3 == 0:
                gauge.start_time_unix_nano = YEAR_2000
            if number % 5 == 0:
                gauge.as_int = number
        body = request.SerializeToString()
        assert shortened(body, memory) == in_full(body, drops=drops)


@dropping_or_not
def test_what_was_forgotten_is_learned_again(drops: Drops) -> None:
    """A memory that is too small for anything changes no row."""
    memory = Memory(1, drops)
    for number in range(5):
        for body in (_churning(number), EVERYTHING):
            assert shortened(body, memory) == in_full(body, drops=drops)
