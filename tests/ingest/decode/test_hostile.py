"""No body within the limits costs unbounded memory or time; what is beyond a bound is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayotel.ingest.decode import events
from rayotel.ingest.decode.limits import bounds
from rayotel.ingest.decode.limits.inflate import MalformedBody, inflate
from rayotel.ingest.decode.otlp.fast import metrics as otlp_metrics
from rayotel.ingest.decode.otlp.fast.metrics import Memory
from rayotel.ingest.decode.otlp.metrics import Contexts, decode_in_full
from rayotel.model import JSON, EventBatch, MetricBatch, Record
from support import event_bodies, hostile_bodies
from support.fuzz_decode import MAX_BYTES_A_BYTE, MAX_CONSTANT_BYTES, SLACK, check, new_decoder
from support.hostile_bodies import ENCODE, attribute, gauge, gauge_point, message, metrics
from support.otlp_reference import ARRIVAL, ARRIVED, HOUR

TESTS = Path(__file__).parent.parent.parent
LARGE = 70_000
GOOD = gauge_point(ARRIVED)


def decoded(body: bytes) -> MetricBatch:
    """A body, decoded by the shortcuts; the reference must agree."""
    batch = otlp_metrics.decode(body, ARRIVAL, Memory(1 << 24))
    full = decode_in_full(body, ARRIVAL, Contexts())
    assert (batch.accepted_rows, batch.rejected) == (full.accepted_rows, full.rejected)
    return batch


def of_text(number: int, size: int) -> bytes:
    """A field with a text of this size."""
    return message(number, b"x" * size)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (metrics(gauge(b"x" * 5000, GOOD)), bounds.LONG_NAME),
        (metrics(message(2, of_text(3, 5000), message(5, GOOD))), bounds.LONG_NAME),
        (metrics(message(2, of_text(2, 17_000), message(5, GOOD))), bounds.LONG_DESCRIPTION),
        (metrics(message(2, of_text(2, 10**6), message(5, GOOD))), bounds.LONG_DESCRIPTION),
        (
            metrics(message(2, attribute(12, b"k", b"x" * 17_000), message(5, GOOD))),
            bounds.LONG_DESCRIPTION,
        ),
        (metrics(gauge(b"m", GOOD), url=of_text(3, 5000)), bounds.LONG_NAME),
        (metrics(gauge(b"m", GOOD), scope=of_text(1, 5000)), bounds.LONG_NAME),
        (metrics(gauge(b"m", GOOD), scope=of_text(2, 10**6)), bounds.LONG_SERIES),
        (metrics(gauge(b"m", GOOD), scope=attribute(3, b"x" * 5000, b"")), bounds.LONG_NAME),
        (
            metrics(gauge(b"m", GOOD), resource=attribute(1, b"k", b"x" * LARGE)),
            bounds.LONG_ATTRIBUTE,
        ),
        (metrics(gauge(b"m", GOOD), resource=of_text(1, 10**6)), bounds.LONG_SERIES),
        (
            metrics(gauge(b"m", GOOD), resource=attribute(1, b"k", b"v") * 1025),
            bounds.MANY_ATTRIBUTES,
        ),
        (
            metrics(gauge(b"m", GOOD), resource=message(3, of_text(2, 5000))),
            bounds.LONG_NAME,
        ),
        (
            metrics(gauge(b"m", GOOD), resource=message(3, message(3, b"k") * 9000)),
            bounds.LONG_DESCRIPTION,
        ),
        (
            metrics(gauge(b"m", GOOD), resource=message(1, hostile_bodies.nested(60, True))),
            bounds.DEEP_ATTRIBUTE,
        ),
    ],
)  # fmt: skip
def test_what_is_around_points_is_bounded(bad: bytes, reason: str) -> None:
    """Each text beyond its bound rejects the points below it, and no other."""
    other = metrics(gauge(b"other", GOOD, gauge_point(ARRIVED, attribute(7, b"k", b"v"))))
    batch = decoded(other + bad + other)
    assert (batch.accepted_rows, dict(batch.rejected)) == (4, {reason: 1})


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (attribute(7, b"k", b"x" * LARGE), bounds.LONG_ATTRIBUTE),
        (attribute(7, b"x" * 5000, b""), bounds.LONG_NAME),
        (attribute(7, b"k", b"v") * 1025, bounds.MANY_ATTRIBUTES),
        (message(7) * 200_000, bounds.LARGE_POINT),
        (b"".join(attribute(7, b"%d" % n, b"\1" * 50_000) for n in range(6)), bounds.LARGE_POINT),
        (message(7, hostile_bodies.nested(43, False)), bounds.DEEP_ATTRIBUTE),
        (message(7, hostile_bodies.nested(1000, True)), bounds.DEEP_ATTRIBUTE),
        (message(5) * 1025, bounds.MANY_EXEMPLARS),
        (message(5, attribute(7, b"x" * 5000, b"")), bounds.LONG_NAME),
        (message(5, attribute(7, b"k", b"x" * LARGE)), bounds.LONG_ATTRIBUTE),
        (message(5, message(7, hostile_bodies.nested(500, True))), bounds.DEEP_ATTRIBUTE),
    ],
)
def test_a_point_is_bounded(more: bytes, reason: str) -> None:
    """A point beyond a bound is rejected by itself."""
    body = metrics(gauge(b"m", GOOD, gauge_point(ARRIVED, more), gauge_point(ARRIVED + 1)))
    batch = decoded(body)
    assert (batch.accepted_rows, dict(batch.rejected)) == (2, {reason: 1})


def test_a_year_of_hours_is_accepted_and_no_more_than_its_bound() -> None:
    """A year's backfill comes in one request; hours beyond the bound are rejected."""
    times = [ARRIVED - n * HOUR for n in range(12_000)]
    year = decoded(metrics(gauge(b"m", *map(gauge_point, times[:8784]))))
    assert (year.accepted_rows, dict(year.rejected)) == (8784, {})
    more = decoded(metrics(gauge(b"m", *map(gauge_point, [*times, *times]))))
    assert more.accepted_rows == 2 * bounds.MAX_REQUEST_HOURS
    assert dict(more.rejected) == {bounds.REQUEST_HOURS: 4000}


def test_columns_and_texts_of_a_request_are_bounded() -> None:
    """Series beyond a request's columns or texts are rejected; earlier ones stay."""
    points = [gauge_point(ARRIVED, attribute(7, b"k%d" % n, b"v")) for n in range(5000)]
    batch = decoded(metrics(gauge(b"m", *points, points[0])))
    assert batch.accepted_rows == bounds.MAX_REQUEST_COLUMNS + 1
    assert set(batch.rejected) == {bounds.REQUEST_COLUMNS}
    outer = b"".join(attribute(1, b"r%d" % n, b"x" * 60_000) for n in range(4))
    points = [gauge_point(ARRIVED, attribute(7, b"k", b"%d" % n)) for n in range(1000)]
    batch = decoded(metrics(gauge(b"m", *points), resource=outer))
    assert batch.accepted_rows == bounds.MAX_REQUEST_TEXT_BYTES // 240_000 - 1 + 1
    assert set(batch.rejected) == {bounds.LONG_REQUEST}


def test_what_has_no_points_leaves_no_trace() -> None:
    """Empty resources, scopes and metrics are passed over."""
    empty = message(1) * 20_000 + message(1, message(2) * 20_000)
    batch = decoded(empty + metrics(message(2) * 20_000, gauge(b"m", GOOD)))
    assert (batch.accepted_rows, dict(batch.rejected), len(batch.series)) == (1, {}, 1)


def test_large_json_gives_the_rows_of_protobuf() -> None:
    """A body that is read in pieces loses nothing."""
    points = [
        {"timeUnixNano": str(ARRIVED + n), "asInt": n,
         "attributes": [{"key": "k", "value": {"stringValue": f'"{n % 50}\\{{'}}]}
        for n in range(6000)
    ]  # fmt: skip
    scope = {
        "metrics": [
            {"name": "a", "sum": {"dataPoints": points[:5000], "isMonotonic": True}, "unit": "s"},
            {"gauge": {"dataPoints": points[5000:]}, "name": "b"},
        ],
        "scope": {"name": "s"},
    }
    tree = {"resourceMetrics": [{"scopeMetrics": [scope], "schemaUrl": "u"}]}
    body = json.dumps(tree).encode()
    assert len(body) > 1 << 19
    decoder = new_decoder()
    batch = decoder.decode(Record(replace(ARRIVAL, content_type=JSON), body))
    assert isinstance(batch, MetricBatch)
    assert (batch.accepted_rows, dict(batch.rejected)) == (6000, {})
    assert len({series.series_id for series in batch.series}) == 100
    values = [value for chunk in batch.chunks for value in _integers(chunk)]
    assert sorted(values) == list(range(6000))
    units = {(series.fixed["metric_name"], series.fixed["metric_unit"]) for series in batch.series}
    assert units == {("a", "s"), ("b", None)}


def _integers(chunk: Any) -> list[int]:
    values: list[int] = chunk.values["data_point_value_int"].to_pylist()
    return values


def _events(body: bytes) -> EventBatch:
    return events.decode(body, replace(ARRIVAL, signal="events"))


def test_large_bodies_of_events_give_every_event() -> None:
    """A body that is read in pieces gives the rows that its events give one by one."""
    sent = [event_bodies.event(n, message='"]},{' * (n % 300)) for n in range(1500)]
    alone = [_events(event_bodies.body(event)).events[0] for event in sent]
    body = event_bodies.body(*sent)
    assert len(body) > 2 * events.MAX_EVENT_BYTES
    assert list(_events(body).events) == alone
    broken = _events(body[:-2])
    assert {event.problem for event in broken.events} == {events.NOT_JSON}
    assert "".join(event.event for event in broken.events).encode() == body[:-2]


def test_events_beyond_a_bound_are_kept_as_text() -> None:
    """No event is refused and none is lost: what is beyond a bound is a row with the reason."""
    large = event_bodies.event(1, message="x" * 300_000)
    batch = _events(event_bodies.body(event_bodies.event(0), large, event_bodies.event(2)))
    assert [event.problem for event in batch.events] == [
        None, events.LARGE_EVENT, events.LARGE_EVENT, None,
    ]  # fmt: skip
    assert json.loads(batch.events[1].event + batch.events[2].event) == large
    many = _events(b"[" + b"1," * (events.MAX_REQUEST_EVENTS + 4) + b"1]")
    assert many.unreadable[events.MANY_EVENTS] == 5
    assert many.events[-1].event == "[1,1,1,1,1]"
    long = _events(event_bodies.body(event_bodies.event(1, sessionName="s" * 5000)))
    assert [event.problem for event in long.events] == [events.LONG_NAME]


def test_frames_are_bounded() -> None:
    """Each zstd frame costs a codec, so there may be only so many."""
    with pytest.raises(MalformedBody):
        inflate(ENCODE["zstd"](b"") * 30_000, "zstd", 1 << 20, lambda _: None)


@pytest.fixture(scope="module")
def costs() -> dict[str, Any]:
    """What each attack takes, each in a process of its own."""
    command = [sys.executable, "-m", "support.fuzz_decode", "--attacks", "--json", "--size"]
    ran = subprocess.run(
        [*command, str(1 << 20)], cwd=TESTS, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return {cost["name"]: cost for cost in map(json.loads, ran.stdout.splitlines())}


@pytest.mark.system
@pytest.mark.parametrize("name", hostile_bodies.ATTACKS)
def test_an_attack_costs_what_it_weighs(costs: dict[str, Any], name: str) -> None:
    """Memory and CPU time stay within the budget, whatever a body is made of."""
    cost = costs[name]
    assert cost["memory_bytes"] <= MAX_CONSTANT_BYTES + MAX_BYTES_A_BYTE * cost["inflated_bytes"]
    assert cost["cpu_seconds"] <= SLACK * cost["allowed_seconds"]


def test_some_bodies_by_seed() -> None:
    """Bodies of any structure: no surprise, one outcome by all ways, and no point uncounted."""
    warm = new_decoder()
    # the last one has a group of fields without a number
    for seed in (*range(300), 5_014_625):
        check(seed, warm)
