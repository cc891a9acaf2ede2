"""The shipped questions against what was done to the recorded cluster (tests/recordings)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.query.ray import questions
from rayotel.replay import Recording
from support.harness import gauge_request
from support.lakes import T0, commit_events, write
from support.ray_truth import HEAD, KILLED, NODES, REPORT_SECONDS, SCRAPE_SECONDS, truths
from support.scrapes import edited, lake_of, points_of
from support.shipped import Rows, asked, columns, every_question

# -- what the files promise ------------------------------------------------------------------------

NEVER_HAPPENED = {"node-gpu", "out-of-memory"}  # to the recorded cluster
OF_ANY_METRIC = {"scrape-health", "cardinality"}


@every_question
def test_a_question_says_what_it_answers(question: questions.ShippedQuery) -> None:
    """Header and SQL belong together: a question, its columns, exactly the parameters in use."""
    assert question.question.endswith("?")
    assert all([question.columns, *question.columns.values()])
    body = re.sub(r"--.*", "", question.sql)
    assert set(re.findall(r"\$([a-z_]+)", body)) == set(question.parameters)


@pytest.mark.thorough
@every_question
def test_a_question_returns_the_columns_it_documents(
    recorded_lake: Storage, question: questions.ShippedQuery
) -> None:
    """These columns, in this order, and no other; and the recorded cluster has an answer."""
    assert columns(recorded_lake, question.name) == list(question.columns)
    assert bool(asked(recorded_lake, question.name)) != (question.name in NEVER_HAPPENED)


@pytest.mark.thorough
@every_question
@pytest.mark.parametrize("with_metrics", [False, True])
def test_a_question_returns_them_with_events_too(
    events_lake: Storage,
    events_recording: Recording,
    tmp_path: Path,
    question: questions.ShippedQuery,
    with_metrics: bool,
) -> None:
    """The same columns where events are kept, with metrics or without any."""
    lake = events_lake
    if not with_metrics:
        lake = open_storage(str(tmp_path / "lake"))
        commit_events(
            lake, 1, *(one.body for one in events_recording.requests[:50]), stream="rayevents"
        )
    assert columns(lake, question.name) == list(question.columns)
    assert len(asked(lake, question.name)) < 1000


@every_question
def test_a_question_to_a_lake_without_ray_has_no_rows(
    tmp_path: Path, question: questions.ShippedQuery
) -> None:
    """No Ray metric: nothing to say, and no error. Only what is about any metric answers."""
    nothing, other = (open_storage(str(tmp_path / name)) for name in ("nothing", "other"))
    nothing.put("raymetrics/notes.txt", memoryview(b"a stream whose parts are gone"))
    write(other, gauge_request(1, name="up", time_unix_nano=T0, job="x"))
    assert asked(nothing, question.name) == []
    assert len(asked(other, question.name)) == (question.name in OF_ANY_METRIC)


# -- another way to the numbers: the official classes ---------------------------------------------


class Sample(NamedTuple):
    """A point of a gauge or sum."""

    at: float
    metric: str
    labels: dict[str, str]
    value: float


KEPT = (
    *("ray_tasks", "ray_node_cpu", "ray_node_mem_", "ray_node_cgroup", "target_info"),
    *("ray_object_store_used", "ray_object_store_avail"),
)


def parsed(body: bytes) -> ExportMetricsServiceRequest:
    """A request with the gauges that are asked about here."""
    request = ExportMetricsServiceRequest.FromString(body)
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for number in reversed(range(len(scope.metrics))):
                if not scope.metrics[number].name.startswith(KEPT):
                    del scope.metrics[number]
    return request


@pytest.fixture(scope="module")
def scrapes(recording: Recording) -> list[tuple[float, bytes]]:
    """(seconds, body) of every request, with the metrics that are asked about here."""
    return [(r.at, parsed(r.plain_body()).SerializeToString()) for r in recording.requests]


@pytest.fixture(scope="module")
def samples(scrapes: list[tuple[float, bytes]]) -> list[Sample]:
    """The same as samples, in order."""
    return [
        Sample(
            point.time_unix_nano / 1e9,
            metric,
            {one.key: one.value.string_value for one in point.attributes},
            point.as_double if point.HasField("as_double") else float(point.as_int),
        )
        for _, body in scrapes
        for metric, point in points_of(ExportMetricsServiceRequest.FromString(body))
    ]


def by_minute(samples: list[Sample], metric: str) -> dict[tuple[float, str], list[float]]:
    """Values of a metric by minute and scrape target."""
    found: dict[tuple[float, str], list[float]] = defaultdict(list)
    for one in samples:
        if one.metric == metric:
            found[one.at // 60 * 60, one.labels["instance"]].append(one.value)
    return found


# -- failed attempts ------------------------------------------------------------------------------

# event and field of truth.ndjson, and attempts for each
INJECTED = {
    "load_shard": ("round", "failed", 1),
    "score_batch": ("job2_round", "failed", 1),
    "native_crash": ("round", "crashed", 3),
    "ParameterServer.die": ("round", "restarted", 1),
}


class Injected(NamedTuple):
    """Attempts of one task that a round made fail; they failed between its start and its end."""

    start: float
    end: float
    attempts: int


def injected(task: str) -> list[Injected]:
    """What was done, from the workload's own account; a round starts after the one before."""
    event, field, attempts = INJECTED[task]
    rounds = [one for one in truths() if one["ev"] == event]
    starts = [0.0, *(one["t_unix"] for one in rounds)]
    return [
        Injected(start, one["t_unix"], one[field] * attempts)
        for start, one in zip(starts, rounds, strict=False)
    ]


def history(samples: list[Sample], task: str) -> float:
    """What the first scrape reported: failures that nobody watched."""
    first = min(one.at for one in samples)
    return sum(
        one.value
        for one in samples
        if one.metric == "ray_tasks" and one.at < first + SCRAPE_SECONDS / 2
        if one.labels["Name"] == task and one.labels["State"] == "FAILED"
    )


def totals(rows: Rows) -> dict[str, int]:
    """Failed attempts by task."""
    found: Counter[str] = Counter()
    for row in rows:
        found[row["task"]] += row["failed_attempts"]
    return dict(found)


@pytest.mark.parametrize("task", INJECTED)
def test_every_injected_failure_is_counted_once(
    recorded_lake: Storage, samples: list[Sample], task: str
) -> None:
    """In the end, the attempts shown are those injected after the first scrape, exactly."""
    shown = totals(asked(recorded_lake, "task-failures"))
    truth = sum(one.attempts for one in injected(task))
    assert truth >= 20
    assert shown[task] == truth - history(samples, task)
    assert shown[task] % INJECTED[task][2] == 0


@pytest.mark.parametrize("task", INJECTED)
def test_failures_appear_within_the_delay_and_never_before(
    recorded_lake: Storage, samples: list[Sample], task: str
) -> None:
    """At every minute's end, no more is shown than had failed, and all that failed 25 s before."""
    rows = [r for r in asked(recorded_lake, "task-failures") if r["task"] == task]
    rounds, before = injected(task), history(samples, task)
    first, last = min(one.at for one in samples), max(one.at for one in samples)
    for end in range(int(first // 60 * 60 + 60), int(last // 60 * 60 + 60), 60):
        shown = sum(r["failed_attempts"] for r in rows if r["minute"].timestamp() < end)
        begun = sum(one.attempts for one in rounds if one.start < end)
        sure = sum(one.attempts for one in rounds if one.end < end - REPORT_SECONDS)
        assert sure - before <= shown <= begun - before, f"{task} before {end}"


def test_a_short_jobs_failures_are_seen(recorded_lake: Storage) -> None:
    """The submitted job that failed: 6 tasks of 2 attempts, in the minutes after its start."""
    rows = [r for r in asked(recorded_lake, "task-failures") if r["task"] == "transform"]
    started = next(t["t_unix"] for t in truths() if t.get("script") == "fail_job.py")
    assert sum(row["failed_attempts"] for row in rows) == 12
    for row in rows:
        assert started - 60 < row["minute"].timestamp() < started + 60


def test_rays_own_tasks_are_no_failures(recorded_lake: Storage) -> None:
    """The end of every submitted job fails a JobSupervisor's task; that is no error."""
    rows = asked(recorded_lake, "task-failures")
    assert {r["task"] for r in rows} == {*INJECTED, "transform"}
    assert {r["cluster_id"] for r in rows} == {"demo"}


def test_the_parameter_narrows_the_tasks(recorded_lake: Storage) -> None:
    """`task` is a pattern of SQL."""
    all_rows = asked(recorded_lake, "task-failures")
    some = asked(recorded_lake, "task-failures", task="load%")
    assert some == [row for row in all_rows if row["task"] == "load_shard"]
    assert asked(recorded_lake, "task-failures", task="' OR true --") == []


# -- the same with trouble on the way -------------------------------------------------------------


def test_a_scrape_stored_twice_changes_no_count(
    scrapes: list[tuple[float, bytes]], tmp_path: Path
) -> None:
    """Rows that are there twice, as after a retry beyond the window, count once."""
    bodies = [body for _, body in scrapes]
    once, twice = lake_of(tmp_path / "1", bodies), lake_of(tmp_path / "2", bodies, bodies[100:300])
    expected = asked(once, "task-failures")
    assert (asked(twice, "task-failures"), len(expected)) == (expected, 53)


@pytest.mark.parametrize("hours", [0, 1])
@pytest.mark.parametrize("without", [(), ("instance", "cluster_id")], ids=str)
def test_an_outage_of_scrapes_does_not_count_failures_again(
    scrapes: list[tuple[float, bytes]], tmp_path: Path, hours: int, without: tuple[str, ...]
) -> None:
    """Owners that were there before and after a gap: what their totals grew by, counted once."""
    seen = [edited(body, without=without) for t, body in scrapes if t < 350]
    later = hours * 3600 * 10**9
    seen += [edited(body, later=later, without=without) for t, body in scrapes if t > 440]
    with_gap = lake_of(tmp_path / "gap", seen)
    whole = lake_of(tmp_path / "all", [body for _, body in scrapes])
    assert totals(asked(with_gap, "task-failures")) == totals(asked(whole, "task-failures"))


@every_question
@pytest.mark.parametrize("session", [True, False])
def test_a_question_needs_no_labels_of_fluent_bit(
    scrapes: list[tuple[float, bytes]],
    tmp_path: Path,
    question: questions.ShippedQuery,
    session: bool,
) -> None:
    """Without `instance` and `cluster_id` nodes are their addresses, and the columns the same.

    So they are without a session's name.
    """
    without = ("instance", "cluster_id") if session else ("instance", "cluster_id", "SessionName")
    few = [edited(body, without=without) for t, body in scrapes if t < 150]
    lake = lake_of(tmp_path / "lake", few)
    rows = asked(lake, question.name)
    assert columns(lake, question.name) == list(question.columns)
    assert {row.get("cluster_id") for row in rows} <= {None}
    assert {row.get("node") for row in rows} <= {"192.0.2.2", None}


# -- the other questions --------------------------------------------------------------------------


def test_cpu_is_what_the_scrapes_say(recorded_lake: Storage, samples: list[Sample]) -> None:
    """Mean, highest and cores of every minute of the three nodes, computed another way."""
    rows = asked(recorded_lake, "node-cpu")
    used = by_minute(samples, "ray_node_cpu_utilization")
    cores = by_minute(samples, "ray_node_cpu_count")
    assert {row["node"] for row in rows} == NODES
    assert [(row["minute"].timestamp(), row["node"]) for row in rows] == sorted(used)
    for row, (place, values) in zip(rows, sorted(used.items()), strict=True):
        assert row["cpu_mean_pct"] == pytest.approx(sum(values) / len(values))
        assert (row["cpu_peak_pct"], row["cores"]) == (max(values), max(cores[place]))
        assert 0 <= row["cpu_mean_pct"] <= row["cpu_peak_pct"] <= 100
        assert row["cluster_id"] == "demo"


def test_memory_is_what_the_scrapes_say(recorded_lake: Storage, samples: list[Sample]) -> None:
    """The most used within each minute, and its share; the cgroup's, for that is the limit."""
    rows = asked(recorded_lake, "node-memory")
    used = by_minute(samples, "ray_node_cgroup_mem_used")
    total = by_minute(samples, "ray_node_cgroup_mem_total")
    assert used != by_minute(samples, "ray_node_mem_used")
    assert [(row["minute"].timestamp(), row["node"]) for row in rows] == sorted(used)
    for row, place in zip(rows, sorted(used), strict=True):
        highest, whole = max(used[place]), max(total[place])
        assert (row["memory_used_bytes"], row["memory_total_bytes"]) == (highest, whole)
        assert row["memory_used_pct"] == pytest.approx(100 * highest / whole)


def test_without_a_cgroup_memory_is_the_nodes(tmp_path: Path) -> None:
    """Where Ray reports no cgroup, the node's own memory counts."""
    values = {"ray_node_mem_used": 30, "ray_node_mem_total": 120}
    bodies = [gauge_request(v, name=name, time_unix_nano=T0) for name, v in values.items()]
    (row,) = asked(lake_of(tmp_path / "lake", bodies), "node-memory")
    assert (row["memory_used_bytes"], row["memory_total_bytes"]) == (30, 120)
    assert row["memory_used_pct"] == 25


def test_the_object_store_filled_up_and_was_released(recorded_lake: Storage) -> None:
    """The head beyond 80 % while objects were held, empty afterwards; the others never used."""
    start = truths()[0]["t_unix"] - truths()[0]["t"]
    rows = asked(recorded_lake, "object-store")
    full: dict[str, dict[float, Any]] = defaultdict(dict)
    for row in rows:
        full[row["node"]][row["minute"].timestamp() - start] = row
    assert set(full) == NODES
    head = full.pop(HEAD)
    held = [row for begin, row in head.items() if begin + 60 > 122 and begin < 302]
    assert max(row["object_store_used_pct"] for row in held) > 80
    assert max(row["on_disk_bytes"] for row in held) > 100e6
    assert all(row["object_store_used_pct"] > 80 for at, row in head.items() if 190 < at < 242)
    assert all(row["object_store_used_pct"] <= 100 for row in rows)
    after = [row for begin, row in head.items() if begin > 302 + REPORT_SECONDS]
    assert len(after) >= 8
    assert {(row["object_store_used_pct"], row["on_disk_bytes"]) for row in after} == {(0, 0)}
    assert {row["object_store_used_pct"] for rows in full.values() for row in rows.values()} == {0}


def test_the_killed_node_was_silent_and_came_back(recorded_lake: Storage) -> None:
    """Its longest gap is the time from its death to its return; nobody else had one."""
    rows = {row["node"]: row for row in asked(recorded_lake, "scrape-health")}
    assert set(rows) == {*NODES, "192.0.2.2:44217", "192.0.2.2:44227"}
    killed = rows.pop(KILLED)
    times = {one["ev"]: one["t_unix"] for one in truths()}
    away = times["node_added"] - times["node_killed"]
    assert 116 < away < 117
    assert away < killed["longest_gap_seconds"] < away + 2 * SCRAPE_SECONDS
    assert killed["last_seen"].timestamp() > times["end"] - SCRAPE_SECONDS
    for row in rows.values():
        assert row["longest_gap_seconds"] < SCRAPE_SECONDS
        assert row["scrapes"] == 89
    assert killed["scrapes"] == 89 - 12
    assert {row["cluster_id"] for row in (killed, *rows.values())} == {"demo"}


def test_the_fleet_is_one_cluster_of_three_nodes(
    recorded_lake: Storage, samples: list[Sample]
) -> None:
    """One life of one cluster, from its first point to its last, with all of its failures."""
    (row,) = asked(recorded_lake, "fleet")
    assert (row["cluster_id"], row["nodes"]) == ("demo", 3)
    assert {one.labels.get("SessionName", row["session"]) for one in samples} == {row["session"]}
    assert row["first_seen"].timestamp() == pytest.approx(min(s.at for s in samples), abs=1)
    assert row["last_seen"].timestamp() == pytest.approx(max(s.at for s in samples), abs=1)
    cpu = [one.value for one in samples if one.metric == "ray_node_cpu_utilization"]
    assert row["cpu_mean_pct"] == pytest.approx(sum(cpu) / len(cpu))  # all nodes have as many CPUs
    failures = totals(asked(recorded_lake, "task-failures"))
    assert row["failed_attempts"] == sum(failures.values())
