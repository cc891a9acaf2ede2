"""Shipped questions about nodes, idle time, cost, sessions and what happened around a moment."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.errors import QueryError
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.query.ray import questions
from rayotel.replay import Recording
from support.harness import gauge_request
from support.lakes import write
from support.ray_truth import HEAD, KILLED, NODES, truths
from support.scrapes import edited, points_of
from support.shipped import Rows, asked, columns, every_question

# the fast tests compare these questions' answers with the kept ones
pytestmark = pytest.mark.thorough

MINUTE = 60 * 10**9
AT = 1_795_186_800 * 10**9  # a full hour
EARLY, LATE = "session_2026-11-20_15-00-00_000000_1", "session_2026-11-20_16-00-00_000000_2"


@pytest.fixture(scope="module")
def points(recording: Recording) -> list[tuple[str, Any]]:
    """(metric, point) of everything recorded, as the official classes read it."""
    return [
        one
        for request in recording.requests
        for one in points_of(ExportMetricsServiceRequest.FromString(request.plain_body()))
    ]


def labels_of(point: Any) -> dict[str, str]:
    """Attributes of a point."""
    return {one.key: one.value.string_value for one in point.attributes}


def value_of(point: Any) -> float:
    """The number of a gauge or sum."""
    return float(point.as_double if point.HasField("as_double") else point.as_int)


def by_minute(points: list[tuple[str, Any]], metric: str) -> dict[tuple[float, str], list[float]]:
    """Values of a metric by minute and scrape target."""
    found: dict[tuple[float, str], list[float]] = defaultdict(list)
    for name, point in points:
        if name == metric:
            minute = point.time_unix_nano // MINUTE * 60.0
            found[minute, labels_of(point)["instance"]].append(value_of(point))
    return found


def mean(values: list[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)


def at(seconds: float) -> str:
    """A moment on the recording's clock, as ISO text."""
    start = truths()[0]["t_unix"] - truths()[0]["t"]
    hours, rest = divmod(int(start + seconds) % 86400, 3600)
    return f"2026-11-20T{hours:02}:{rest // 60:02}:{rest % 60:02}"


# -- lakes that lack things ------------------------------------------------------------------------


@every_question
def test_a_question_to_events_alone_has_its_columns(
    events_lake: Storage, tmp_path: Path, question: questions.ShippedQuery
) -> None:
    """Where no metrics are kept, a question answers from events, or has no rows."""
    for part in (item.key for item in events_lake.objects("") if "rayevents" in item.key):
        (tmp_path / "lake" / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(events_lake.url) / part, tmp_path / "lake" / part)
    assert columns(open_storage(str(tmp_path / "lake")), question.name) == list(question.columns)


@every_question
def test_a_question_needs_no_session(
    recording: Recording, tmp_path: Path, question: questions.ShippedQuery
) -> None:
    """Samples without SessionName, as of other tools, are no error."""
    bodies = [r.plain_body() for r in recording.requests if 40 < r.at < 65]
    storage = open_storage(str(tmp_path / "lake"))
    write(storage, *(edited(body, without=("SessionName",)) for body in bodies))
    assert columns(storage, question.name) == list(question.columns)


# -- nodes -----------------------------------------------------------------------------------------


def test_disk_and_network_are_what_the_scrapes_say(
    recorded_lake: Storage, points: list[tuple[str, Any]]
) -> None:
    """Of every minute and node: the most in use, the mean of what went in and out."""
    disk = {(r["minute"].timestamp(), r["node"]): r for r in asked(recorded_lake, "node-disk")}
    net = {(r["minute"].timestamp(), r["node"]): r for r in asked(recorded_lake, "node-network")}
    used = by_minute(points, "ray_node_disk_usage")
    assert set(disk) == set(net) == set(used)
    assert {node for _, node in disk} == NODES
    shares = by_minute(points, "ray_node_disk_utilization_percentage")
    for key, row in disk.items():
        assert (row["disk_used_bytes"], row["disk_used_pct"]) == (max(used[key]), max(shares[key]))
    for metric, rows, column in (
        ("ray_node_disk_io_read_speed", disk, "disk_read_bytes_per_second"),
        ("ray_node_disk_io_write_speed", disk, "disk_written_bytes_per_second"),
        ("ray_node_network_receive_speed", net, "network_received_bytes_per_second"),
        ("ray_node_network_send_speed", net, "network_sent_bytes_per_second"),
    ):
        for key, values in by_minute(points, metric).items():
            assert rows[key][column] == pytest.approx(mean(values)), metric


def test_the_disks_that_are_full_can_be_asked_for(recorded_lake: Storage) -> None:
    """`min_pct` leaves out the minutes below."""
    rows = asked(recorded_lake, "node-disk")
    high = [(row["minute"], row["node"]) for row in rows if row["disk_used_pct"] >= 26]
    assert 0 < len(high) < len(rows)
    some = asked(recorded_lake, "node-disk", min_pct="26")
    assert [(row["minute"], row["node"]) for row in some] == high


def test_gpus_are_added_up_by_node(tmp_path: Path) -> None:
    """Use is a mean over GPUs, memory what they have together."""
    values = {
        "ray_node_gpus_utilization": (40, 60),
        "ray_node_gram_used": (1000, 3000),
        "ray_node_gram_available": (7000, 5000),
    }
    bodies = [
        gauge_request(value, name=name, time_unix_nano=AT, GpuIndex=str(index), instance="g:1")
        for name, both in values.items()
        for index, value in enumerate(both)
    ]
    storage = open_storage(str(tmp_path / "lake"))
    write(storage, *bodies)
    (row,) = asked(storage, "node-gpu")
    assert (row["node"], row["gpus"], row["gpu_mean_pct"]) == ("g:1", 2, 50)
    assert (row["gpu_memory_used_bytes"], row["gpu_memory_used_pct"]) == (4000 * 2**20, 25)


def test_the_hottest_node_comes_first(
    recorded_lake: Storage, points: list[tuple[str, Any]]
) -> None:
    """Ranked by the mean of what is asked for; the parameters choose what, and how many."""
    busy = by_minute(points, "ray_node_cpu_utilization")
    means: dict[str, list[float]] = defaultdict(list)
    for (_, node), values in busy.items():
        means[node].append(mean(values))
    rows = asked(recorded_lake, "hottest-nodes")
    assert [row["node"] for row in rows] == sorted(means, key=lambda one: -mean(means[one]))
    for number, row in enumerate(rows):
        peak = max(max(values) for (_, node), values in busy.items() if node == row["node"])
        assert (row["rank"], row["cpu_peak_pct"], row["cores"]) == (number + 1, peak, 2)
        assert row["cpu_mean_pct"] == pytest.approx(mean(means[row["node"]]))
        assert row["minutes"] == len(means[row["node"]])
    (row,) = asked(recorded_lake, "hottest-nodes", by="object_store", limit="1")
    assert row["node"] == HEAD
    assert 80 < row["object_store_peak_pct"] < 100
    memory = [r["memory_mean_pct"] for r in asked(recorded_lake, "hottest-nodes", by="memory")]
    assert memory == sorted(memory, reverse=True)
    with pytest.raises(QueryError):
        asked(recorded_lake, "hottest-nodes", by="heat")


# -- idle ------------------------------------------------------------------------------------------


def node_minute(
    minute: int, *, cpu: float, taken: float, session: str = LATE, job: str = ""
) -> Iterator[bytes]:
    """One scrape of a node of 4 cores."""
    values: list[tuple[str, float, dict[str, str]]] = [
        ("ray_node_cpu_count", 4.0, {}),
        ("ray_node_cpu_utilization", cpu, {}),
        ("ray_resources", taken, {"Name": "CPU", "State": "USED"}),
    ]
    if job:
        values.append(("ray_job_duration_s", minute * 60.0, {"JobId": job}))
    for name, value, labels in values:
        common = {"instance": "n:1", "SessionName": session, "cluster_id": "c", **labels}
        moment = AT + minute * MINUTE + 30 * 10**9
        yield gauge_request(value, name=name, time_unix_nano=moment, **common)


def lake_of_minutes(path: Path, *minutes: Iterator[bytes]) -> Storage:
    """A lake of such scrapes."""
    storage = open_storage(str(path))
    write(storage, *(body for minute in minutes for body in minute))
    return storage


def test_idle_is_no_job_and_no_cpu(tmp_path: Path) -> None:
    """Of 60 minutes a job runs in 1 to 10, a CPU is taken in 11 to 30, nothing after."""
    storage = lake_of_minutes(
        tmp_path / "lake",
        *(node_minute(number, cpu=50, taken=0, job="01000000") for number in range(1, 11)),
        *(node_minute(number, cpu=10, taken=1) for number in range(11, 31)),
        *(node_minute(number, cpu=5, taken=0) for number in range(31, 61)),
    )
    (row,) = asked(storage, "idle")
    assert (row["cluster_id"], row["minutes"], row["idle_minutes"]) == ("c", 60, 30)
    assert row["core_hours"] == pytest.approx(4)
    assert row["core_hours_idle"] == pytest.approx(2)
    assert row["core_hours_used"] == pytest.approx(4 * (10 * 0.5 + 20 * 0.1 + 30 * 0.05) / 60)
    assert row["idle_pct"] == pytest.approx(50)
    (row,) = asked(storage, "idle", below="20")
    assert (row["idle_minutes"], row["core_hours_idle"]) == (50, pytest.approx(50 * 4 / 60))


def test_rays_own_job_keeps_no_cluster_busy(tmp_path: Path) -> None:
    """A job whose actors are JobSupervisors is Ray's own, and stays after a submission."""
    minutes = [node_minute(n, cpu=1, taken=0, job="03000000") for n in range(1, 11)]
    supervisor = gauge_request(
        1, name="ray_actors", time_unix_nano=AT + MINUTE, Name="JobSupervisor", Source="executor",
        JobId="03000000", SessionName=LATE, instance="n:1",
    )  # fmt: skip
    (busy,) = asked(lake_of_minutes(tmp_path / "busy", *minutes), "idle")
    minutes = [node_minute(n, cpu=1, taken=0, job="03000000") for n in range(1, 11)]
    idle_lake = lake_of_minutes(tmp_path / "idle", *minutes, iter([supervisor]))
    (idle,) = asked(idle_lake, "idle")
    assert (busy["idle_minutes"], idle["idle_minutes"]) == (0, 10)


def test_the_recorded_cluster_was_never_idle(
    recorded_lake: Storage, events_lake: Storage, points: list[tuple[str, Any]]
) -> None:
    """A job ran all the time; its core hours are what the scrapes say, minute by minute."""
    cores, busy = (by_minute(points, f"ray_node_cpu_{one}") for one in ("count", "utilization"))
    for lake in (recorded_lake, events_lake):
        (row,) = asked(lake, "idle")
        assert (row["idle_minutes"], row["core_hours_idle"]) == (0, 0)
        assert row["core_hours"] == pytest.approx(sum(max(one) for one in cores.values()) / 60)
        used = sum(mean(busy[key]) / 100 * max(cores[key]) for key in busy) / 60
        assert row["core_hours_used"] == pytest.approx(used)


# -- the GCS ---------------------------------------------------------------------------------------


def test_the_gcs_answered_in_time(recorded_lake: Storage, points: list[tuple[str, Any]]) -> None:
    """Health checks of every minute; half within the first buckets; lags as scraped."""
    rows = asked(recorded_lake, "gcs-latency")
    assert len(rows) == 15
    checks = [point for name, point in points if name == "ray_health_check_rpc_latency_ms"]
    counts = sorted((point.time_unix_nano, point.count) for point in checks)
    assert sum(row["health_checks"] for row in rows) == counts[-1][1] - counts[0][1]
    for row in rows:
        assert 0 < row["health_check_p50_ms"] < 5
        assert row["health_check_p50_ms"] < row["health_check_p99_ms"] <= 100
    lags = by_minute(points, "ray_dashboard_event_loop_lag_seconds")
    shown = {row["minute"].timestamp(): row["dashboard_lag_ms"] for row in rows}
    assert shown == {minute: pytest.approx(1000 * max(v)) for (minute, _), v in lags.items()}
    methods = {row["slowest_method"] for row in rows[1:]}
    assert all(".grpc_server." in one and "SubscriberPoll" not in one for one in methods)


# -- cost ------------------------------------------------------------------------------------------


def test_what_costs_most_comes_first(recorded_lake: Storage, points: list[tuple[str, Any]]) -> None:
    """Points and series of every metric, counted another way; shares add up to 100."""
    totals: dict[str, int] = defaultdict(int)
    series: dict[str, set[tuple[tuple[str, str], ...]]] = defaultdict(set)
    for name, point in points:
        totals[name] += 1
        series[name].add(tuple(sorted(labels_of(point).items())))
    rows = asked(recorded_lake, "cardinality", limit="1000")
    assert {row["metric_name"]: row["points"] for row in rows} == totals
    assert {row["metric_name"]: row["series"] for row in rows} == {
        name: len(found) for name, found in series.items()
    }
    assert sum(row["points_pct"] for row in rows) == pytest.approx(100)
    assert rows == sorted(rows, key=lambda row: (-row["points"], row["metric_name"]))
    assert asked(recorded_lake, "cardinality", limit="3") == rows[:3]


def test_the_label_that_multiplies_comes_first(
    recorded_lake: Storage, points: list[tuple[str, Any]]
) -> None:
    """Distinct values of each label of each metric, counted another way."""
    distinct: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, point in points:
        for key, value in labels_of(point).items():
            distinct[name, key.lower()].add(value)
    rows = asked(recorded_lake, "cardinality-labels", minutes="60", limit="10000")
    assert rows[0]["label"] == "metric_WorkerId"
    shown = {(row["metric_name"], row["label"].split("_")[-1].lower()): row for row in rows}
    for (metric, key), values in distinct.items():
        if "_" not in key and len(values - {""}) > 1:
            assert shown[metric, key]["distinct_values"] == len(values - {""}), (metric, key)
            assert shown[metric, key]["example"] in values
    assert len(asked(recorded_lake, "cardinality-labels", limit="5")) == 5


# -- sessions --------------------------------------------------------------------------------------


def two_sessions(path: Path) -> Storage:
    """An hour of one session, then ten minutes of another, busier one."""
    return lake_of_minutes(
        path,
        *(node_minute(-n, cpu=20, taken=1, session=EARLY) for n in range(5, 66)),
        *(node_minute(n, cpu=70, taken=1) for n in range(11)),
    )


def test_sessions_are_in_order(tmp_path: Path, events_lake: Storage) -> None:
    """Each life of a cluster with its beginning, its end and its size."""
    early, late = asked(two_sessions(tmp_path / "lake"), "sessions")
    assert (early["session"], late["session"]) == (EARLY, LATE)
    assert (early["hours"], late["hours"]) == (pytest.approx(1), pytest.approx(1 / 6))
    assert (early["cores"], early["nodes"], early["has_events"]) == (4, 1, False)
    assert asked(two_sessions(tmp_path / "more"), "sessions", cluster="d%") == []
    (row,) = asked(events_lake, "sessions")
    assert (row["cluster_id"], row["nodes"], row["jobs"]) == ("demo", 3, 4)
    assert (row["has_metrics"], row["has_events"]) == (True, True)


def test_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    """By default the latest and the one before it; or those that are named."""
    storage = two_sessions(tmp_path / "lake")
    rows = asked(storage, "compare-sessions")
    assert {(row["earlier_session"], row["later_session"]) for row in rows} == {(EARLY, LATE)}
    shown = {row["measure"]: (row["earlier"], row["later"], row["difference"]) for row in rows}
    assert shown["CPU, mean"] == (pytest.approx(20), pytest.approx(70), pytest.approx(50))
    assert shown["duration"] == (pytest.approx(60), pytest.approx(10), pytest.approx(-50))
    assert shown["cores"] == (4, 4, 0)
    turned = asked(storage, "compare-sessions", later=EARLY, earlier=LATE)
    assert [row["difference"] for row in turned] == [
        row["difference"] and -row["difference"] for row in rows
    ]


def test_a_run_without_one_before_stands_alone(
    recorded_lake: Storage, events_lake: Storage
) -> None:
    """Its measures are what was done to it; from metrics alone, since the first scrape."""
    rows = {row["measure"]: row for row in asked(events_lake, "compare-sessions")}
    assert {row["earlier"] for row in rows.values()} == {None}
    shown = {name: row["later"] for name, row in rows.items()}
    done = [one for one in truths() if one["ev"] in ("round", "job2_round")]
    good = sum(one["ok"] for one in done)
    assert (shown["nodes"], shown["cores"], shown["jobs"]) == (3, 6, 4)
    assert shown["failed"] == 441 + 165 + 72 + 20 + 12
    assert good <= shown["finished"] < good * 1.1  # and calls of actors
    assert 80 < shown["object store, peak"] < 100
    assert shown["spilled"] > 100e6
    scraped = {row["measure"]: row["later"] for row in asked(recorded_lake, "compare-sessions")}
    assert 0.85 * shown["finished"] < scraped["finished"] <= shown["finished"]
    assert 0.85 * shown["failed"] < scraped["failed"] <= shown["failed"]


# -- what happened around a moment -----------------------------------------------------------------


def around(storage: Storage, seconds: float, window: str) -> Rows:
    """What happened around a moment on the recording's clock."""
    rows = asked(storage, "around", time=at(seconds), window=window)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) <= 100
    return rows


def test_the_lost_node_is_named_first(events_lake: Storage) -> None:
    """Around its death: Ray's word for it, and the target that fell silent."""
    rows = around(events_lake, 570, "3 minutes")
    lost = next(one for one in truths() if one["ev"] == "up")["nodes"]
    (killed,) = [node for node, _, port in lost if port == int(KILLED.partition(":")[2])]
    assert rows[0]["what"] == "node died: UNEXPECTED_TERMINATION"
    assert killed[:8] in rows[0]["where"]
    died = next(one["t_unix"] for one in truths() if one["ev"] == "node_killed")
    assert died < rows[0]["time"].timestamp() < died + 65
    (silent,) = [row for row in rows if row["what"] == "target fell silent"]
    assert (silent["where"], silent["rank"]) == (KILLED, 2)
    assert died - 11 < silent["time"].timestamp() < died + 1


def test_without_events_the_lost_node_is_a_silent_target(recorded_lake: Storage) -> None:
    """Metrics alone know it as well, and when it came back."""
    first, *_ = around(recorded_lake, 570, "3 minutes")
    assert (first["what"], first["where"]) == ("target fell silent", KILLED)
    first, *_ = around(recorded_lake, 690, "2 minutes")
    assert (first["what"], first["where"]) == ("target reports", KILLED)


@pytest.mark.parametrize("lake", ["recorded_lake", "events_lake"])
def test_spilling_names_the_object_store_of_the_head(
    request: pytest.FixtureRequest, lake: str
) -> None:
    """When objects were held, the first metrics that changed are those of the head's store."""
    rows = around(request.getfixturevalue(lake), 212, "3 minutes")
    metrics = [row for row in rows if row["how_much"] is not None]
    assert [row["how_much"] for row in metrics] == sorted(
        (row["how_much"] for row in metrics), reverse=True
    )
    first = metrics[:9]
    assert sum("object_store" in row["what"] for row in first) >= 3
    assert all(row["where"] == HEAD for row in first)
    assert all(row["after"] > row["before"] for row in first)
    assert "ray_object_store_memory (SPILLED)" in {row["what"] for row in metrics[:15]}


def test_a_spike_of_failures_is_an_event(events_lake: Storage, recorded_lake: Storage) -> None:
    """load_shard failed in masses from 330 s on: how often, before and in the window."""
    for lake in (events_lake, recorded_lake):
        rows = around(lake, 380, "2 minutes")
        failed = [row for row in rows if row["what"].startswith("failed attempts:")]
        assert failed[0]["what"].startswith("failed attempts: load_shard")
        assert failed[0]["after"] > 300 > 60 > failed[0]["before"]


def test_jobs_that_began_and_ended_are_events(events_lake: Storage) -> None:
    """The submission that failed, with its job, within the window around its start."""
    rows = around(events_lake, 490, "1 minute")
    jobs = [row["what"] for row in rows if row["what"].startswith("job ")]
    assert jobs == ["job began: nightly-etl-2 05000000", "job finished: nightly-etl-2 05000000"]


def test_restarts_of_actors_are_counted(events_lake: Storage) -> None:
    """In the whole recording, each restart that was done."""
    rows = asked(events_lake, "around", time=at(450), window="20 minutes")
    (restarts,) = [row for row in rows if row["what"].startswith("actor restarts:")]
    done = sum(one["restarted"] for one in truths() if one["ev"] == "round")
    assert restarts["what"] == "actor restarts: ParameterServer, ACTOR_FAILURE"
    assert (restarts["before"], restarts["after"]) == (0, done)


def test_one_scrape_that_differs_is_no_change(tmp_path: Path) -> None:
    """A step is named once it lasts; steady and noisy values are not."""
    bodies = []
    for number in range(120):
        step = {"ray_steady": 7.0, "ray_step": 1.0 + (number >= 90), "ray_noise": number % 5 * 1.0}
        step["ray_blip"] = 9.0 * (number == 100)
        step["ray_node_cpu_count"] = 4.0
        for name, value in step.items():
            moment = AT + number * 10**10
            bodies.append(gauge_request(value, name=name, time_unix_nano=moment, instance="n:1"))
    storage = open_storage(str(tmp_path / "lake"))
    write(storage, *bodies)
    (row,) = asked(storage, "around", window="10 minutes")
    assert (row["what"], row["where"], row["before"], row["after"]) == (
        "ray_step", "n:1", 1, pytest.approx(1.5),
    )  # fmt: skip
    assert row["time"].timestamp() == AT / 1e9 + 900


def test_one_cluster_can_be_asked_about(tmp_path: Path) -> None:
    """The bound counts what is of that cluster, not what is of the others."""
    bodies = []
    for number in range(120):
        for cluster, rise in (("a", 100), ("b", 3)):
            value = 1.0 + rise * (number >= 90)
            common = {"instance": f"{cluster}:1", "SessionName": cluster, "cluster_id": cluster}
            moment = AT + number * 10**10
            for name, one in (("ray_step", value), ("ray_node_cpu_count", 4.0)):
                bodies.append(gauge_request(one, name=name, time_unix_nano=moment, **common))
    storage = open_storage(str(tmp_path / "lake"))
    write(storage, *bodies)
    assert [row["cluster_id"] for row in asked(storage, "around")] == ["a", "b"]
    (row,) = asked(storage, "around", cluster="b", limit="1")
    assert (row["cluster_id"], row["where"], row["what"]) == ("b", "b:1", "ray_step")
