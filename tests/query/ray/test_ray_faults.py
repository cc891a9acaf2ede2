"""The answers about tasks, jobs, actors, workers and nodes under faults of the path.

What comes twice, late, or around a crash changes nothing. A scrape that never comes moves what it
would have shown to the next one, and no total changes.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.replay import RecordedRequest, Recording
from support.harness import JSON, PROTOBUF, Server, ask
from support.ray_truth import HEAD, KILLED, SCRAPE_SECONDS, did, events_of
from support.scrapes import lake_of, points_of
from support.shipped import Rows, asked

QUESTIONS = (
    "task-throughput", "failures-by-job", "task-retries", "tasks-waiting", "actor-restarts",
    "out-of-memory", "worker-crashes", "node-losses", "jobs", "object-store-spilling",
)  # fmt: skip
pytestmark = pytest.mark.thorough
of_each_question = pytest.mark.parametrize("question", QUESTIONS)
KEPT = (
    *("ray_tasks", "ray_node_cpu_count", "ray_node_failure", "target_info", "ray_job_duration"),
    *(
        "ray_node_manager_unexpected",
        "ray_unintentional",
        "ray_memory_manager",
        "autoscaler_active",
    ),
    *("ray_dashboard_event_loop_lag", "ray_scheduler_unscheduleable", "ray_spill_manager_objects_"),
    *("ray_object_store_used", "ray_object_store_avail", "ray_object_store_fall"),
    "ray_object_store_memory",
)
Scrape = tuple[float, str, bytes]


def pruned(body: bytes) -> tuple[str, bytes]:
    """(scrape target, the request with the metrics that are asked about here)."""
    request = ExportMetricsServiceRequest.FromString(body)
    target = ""
    for _, point in points_of(request):
        target = next((one.value.string_value for one in point.attributes
                       if one.key == "instance"), "")  # fmt: skip
        break
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for number in reversed(range(len(scope.metrics))):
                if not scope.metrics[number].name.startswith(KEPT):
                    del scope.metrics[number]
    return target, request.SerializeToString()


@pytest.fixture(scope="module")
def scrapes(recording: Recording) -> list[Scrape]:
    """(seconds, target, body) of every request."""
    return [(one.at, *pruned(one.plain_body())) for one in recording.requests]


@pytest.fixture(scope="module")
def undisturbed(recorded_lake: Storage) -> dict[str, Rows]:
    """The answers without faults."""
    return {name: asked(recorded_lake, name) for name in QUESTIONS}


# -- what must change nothing ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def disturbed(scrapes: list[Scrape], tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A lake of the same scrapes in another order, a third of them twice."""
    bodies = [body for _, _, body in scrapes]
    path = tmp_path_factory.mktemp("disturbed") / "lake"
    return lake_of(path, bodies[300:], bodies[:200][::-1], bodies[100:300], bodies[250:350])


@of_each_question
def test_scrapes_out_of_order_and_twice_change_nothing(
    disturbed: Storage, undisturbed: dict[str, Rows], question: str
) -> None:
    """Scrapes stored twice in different parts, and in any order, give the same answers."""
    assert asked(disturbed, question) == undisturbed[question]


@of_each_question
def test_a_crash_amid_the_replay_changes_nothing(
    crashed: Storage, undisturbed: dict[str, Rows], question: str
) -> None:
    """After kill -9, a start, and requests sent again in other bytes, the answers are the same."""
    assert asked(crashed, question) == undisturbed[question]


@pytest.fixture(scope="module")
def crashed(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """The lake of a server that was killed in the middle of the replay."""
    data_dir = tmp_path_factory.mktemp("crashed") / "data"
    requests = recording.requests
    with Server(data_dir) as server:
        for number, request in enumerate(requests):
            assert server.post(request.sent_body(), dict(request.headers)).status_code == 200
            if number == len(requests) // 2:
                server.kill()
                server.start()
                # the client never saw the last answers; it tries again, not compressed this time
                for again in requests[number - 20 : number + 1]:
                    assert server.post(again.plain_body(), PROTOBUF).status_code == 200
        assert server.stop() == 0
    lake = open_storage(str(data_dir / "lake"))
    (rows,) = ask(lake, "SELECT count(*) AS points FROM raymetrics")
    assert rows["points"] > 111_713  # the second bytes were no repetition to the receiver
    return lake


@pytest.fixture(scope="module")
def told_twice(
    recording: Recording, events_recording: Recording, tmp_path_factory: pytest.TempPathFactory
) -> Storage:
    """A lake of metrics, and of all events twice: as they came, then in batches of another cut."""
    data_dir = tmp_path_factory.mktemp("twice") / "data"
    events = events_of(events_recording)
    with Server(data_dir) as server:
        for first in range(0, len(events), 700):
            send_events(server, events[first : first + 700])
        for first in range(0, len(events), 450):
            send_events(server, events[first : first + 450][::-1])
        for request in recording.requests:
            send(server, request)
        assert server.stop() == 0
    return open_storage(str(data_dir / "lake"))


def send(server: Server, request: RecordedRequest) -> None:
    """Post as it was recorded."""
    assert server.post(request.sent_body(), dict(request.headers)).status_code == 200


def send_events(server: Server, events: list[dict[str, Any]]) -> None:
    """Post a batch as Ray does."""
    assert server.post(json.dumps(events).encode(), JSON, "/v1/events").status_code == 200


@of_each_question
def test_events_that_come_twice_change_nothing(
    told_twice: Storage, events_lake: Storage, question: str
) -> None:
    """Ray sends a batch again, with others, whenever it saw no answer: all counts stay."""
    assert asked(told_twice, question) == asked(events_lake, question)


# -- a scrape that never comes --------------------------------------------------------------------

MISSING = {
    "of all targets": lambda t, target: 404 < t < 414,
    "of the head amid the spike": lambda t, target: 374 < t < 384 and target == HEAD,
    "of the head while objects spill": lambda t, target: 184 < t < 194 and target == HEAD,
    "of the killed node before its death": lambda t, target: 553 < t < 563 and target == KILLED,
}


@pytest.fixture(scope="module", params=MISSING)
def thinner(
    request: pytest.FixtureRequest, scrapes: list[Scrape], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Storage, list[float]]:
    """A lake without one scrape of some targets, and the minutes that this touches."""
    is_missing: Callable[[float, str], bool] = MISSING[request.param]
    start = did("end")[0]["t_unix"] - did("end")[0]["t"]
    gone = [t for t, target, _ in scrapes if is_missing(t, target)]
    kept = [body for t, target, body in scrapes if not is_missing(t, target)]
    assert len(gone) in (1, 5)
    lake = lake_of(tmp_path_factory.mktemp("thinner") / "lake", kept)
    ends = [start + t + late for t in gone for late in (-SCRAPE_SECONDS, 0, SCRAPE_SECONDS)]
    return lake, sorted({at // 60 * 60 for at in ends})


def counts(rows: Rows, column: str, *keys: str) -> dict[tuple[Any, ...], Counter[float]]:
    """Counts by minute of each key."""
    found: dict[tuple[Any, ...], Counter[float]] = defaultdict(Counter)
    for row in rows:
        found[tuple(row[key] for key in keys)][row["minute"].timestamp()] += row[column]
    return found


@pytest.mark.parametrize(
    ("question", "column", "keys"),
    [
        ("task-throughput", "finished_attempts", ("task",)),
        ("task-throughput", "failed_attempts", ("task",)),
        ("worker-crashes", "workers", ("node", "task")),
        ("object-store-spilling", "spilled_bytes", ("node",)),
    ],
)
def test_a_missing_scrape_moves_counts_to_the_next(
    thinner: tuple[Storage, list[float]],
    undisturbed: dict[str, Rows],
    question: str,
    column: str,
    keys: tuple[str, ...],
) -> None:
    """Totals stay; minutes away from the gap stay; within it, nothing is shown early."""
    lake, touched = thinner
    before = counts(undisturbed[question], column, *keys)
    after = counts(asked(lake, question), column, *keys)
    assert set(after) == set(before)
    for key, wanted in before.items():
        assert after[key].total() == wanted.total()
        for minute in wanted.keys() | after[key].keys():
            if minute not in touched:
                assert after[key][minute] == wanted[minute]
            shown = sum(n for at, n in after[key].items() if at <= minute)
            assert shown <= sum(n for at, n in wanted.items() if at <= minute)


def test_a_missing_scrape_changes_no_total(
    thinner: tuple[Storage, list[float]], undisturbed: dict[str, Rows]
) -> None:
    """Failures, retries and restarts over the whole time, and jobs and losses to a scrape."""
    lake, _ = thinner
    for question, column in (
        ("failures-by-job", "failed_attempts"),
        ("task-retries", "retries"),
        ("actor-restarts", "crashes"),
        ("out-of-memory", "kills"),
    ):
        totals = [[row[column] for row in rows] for rows in (asked(lake, question),
                                                             undisturbed[question])]  # fmt: skip
        assert totals[0] == totals[1], question
    for question, columns in (
        ("jobs", ("began", "ended")),
        ("node-losses", ("lost_at", "back_at")),
    ):
        for row, wanted in zip(asked(lake, question), undisturbed[question], strict=True):
            for column in columns:
                assert (row[column] is None) == (wanted[column] is None)
                if wanted[column]:
                    off = (row[column] - wanted[column]).total_seconds()
                    assert abs(off) < SCRAPE_SECONDS


def test_a_missing_scrape_moves_a_mean_by_a_sample_at_most(
    thinner: tuple[Storage, list[float]], undisturbed: dict[str, Rows], recorded_lake: Storage
) -> None:
    """Tasks waiting are means over a minute: one of five samples away, off by a fourth of it."""
    lake, _ = thinner
    after = {(row["task"], row["state"]): row for row in asked(lake, "tasks-waiting")}
    wanted = {(row["task"], row["state"]): row for row in undisturbed["tasks-waiting"]}
    assert set(after) <= set(wanted)
    for key, row in wanted.items():
        (most,) = ask(
            recorded_lake,
            "SELECT max(total) AS value FROM (SELECT sum(data_point_value) AS total"
            " FROM raymetrics WHERE coalesce(metric_State, metric_Reason) ="
            f" '{key[1]}' AND metric_label_Name IS NOT DISTINCT FROM"
            f" {'NULL' if key[0] is None else repr(key[0])}"
            " GROUP BY date_trunc('minute', time_unix_nano), time_unix_nano)",
        )
        bound = 60 * most["value"] / 4 * 2  # two minutes may be touched
        shown = after.get(key, {"waited_task_seconds": 0})["waited_task_seconds"]
        assert abs(shown - row["waited_task_seconds"]) <= bound + 1
