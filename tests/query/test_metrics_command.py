"""What is known of Ray's metrics, against recorded traffic; and the command that shows it."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.errors import QueryError, UsageError
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange
from rayotel.query import metrics, views
from rayotel.query.lake import Lake
from rayotel.query.ray import metric_facts
from rayotel.query.ray.metric_facts import COMMON_LABELS, KINDS, Metric
from rayotel.replay import Recording
from support.command import rayotel
from support.harness import LIMITS, RECORDINGS, gauge_request
from support.lakes import write

FAMILIES = dict(
    line.split() for line in (RECORDINGS / "ray-2.60-families.txt").read_text("utf-8").splitlines()
)
METRICS = {one.name: one for one in metric_facts.all_metrics()}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
SCRAPER_LABELS = {"instance", "job", "cluster_id"}
# the node of one port was dead for 116 s; nothing else restarted
RESTART_SECONDS = 60
RISING = {"counter", "cumulative_gauge", "histogram", "broken"}
# gauges all the same, though nothing made them fall within the quarter of an hour
ONLY_ROSE = {
    "process_start_time_seconds",  # the later start of the node that came back
    "ray_job_duration_s",  # an age
    "ray_gcs_task_manager_task_events_stored",  # its bound, 100,000, is far
}
AT = 1_795_186_800 * 10**9


# -- the data -------------------------------------------------------------------------------------


def test_every_family_that_was_seen_is_known() -> None:
    """What real clusters exposed is there; nothing of it is said to be unmeasured by mistake."""
    assert set(FAMILIES) <= set(METRICS)
    assert len(FAMILIES) == 149
    unmeasured = {name for name in FAMILIES if "not measured" in METRICS[name].source}
    assert unmeasured == {"autoscaler_recently_failed_nodes"}  # declared, and never with a value


def test_kinds_agree_with_types_where_types_are_right() -> None:
    """A counter or histogram is what Ray says; only gauges are more than one thing."""
    allowed = {
        "counter": {"counter", "broken"},
        "histogram": {"histogram"},
        "gauge": {"gauge", "cumulative_gauge", "mixed", "info", "broken"},
    }
    for name, kind in FAMILIES.items():
        assert METRICS[name].kind in allowed[kind], name


@every_metric
def test_a_metric_is_described_in_full(metric: Metric) -> None:
    """Kind, unit, endpoint, meaning and source; a mixed one says of what it depends."""
    assert metric.kind in KINDS
    assert metric.unit
    assert metric.endpoints
    assert set(metric.endpoints) <= {"node", "autoscaler", "dashboard"}
    assert metric.meaning.endswith(".")
    assert not metric.caution or metric.caution.endswith(".")
    assert re.match(r"(measured, Ray 2\.60|Ray's source)", metric.source)
    assert list(metric.labels) == sorted(set(metric.labels) - COMMON_LABELS)
    assert set(metric.values) <= set(metric.labels)
    assert (metric.kind == "mixed") == bool(metric.kinds) == bool(metric.label)
    assert len(set(metric.kinds.values())) != 1
    assert set(metric.kinds.values()) <= set(KINDS) - {"mixed"}


def test_what_is_easily_mistaken_is_right() -> None:
    """Totals that are sizes, gauges that are totals, and a counter that counts nothing."""
    kinds = {name: one.kind for name, one in METRICS.items()}
    assert kinds["ray_node_mem_total"] == kinds["ray_node_cgroup_mem_total"] == "gauge"
    assert kinds["ray_node_disk_io_read"] == kinds["ray_pull_manager_retries_total"]
    assert kinds["ray_node_network_sent"] == "cumulative_gauge"
    assert kinds["ray_finished_jobs_total"] == "broken"
    assert kinds["ray_grpc_server_req_handling_total"] == "counter"
    tasks = METRICS["ray_tasks"]
    assert tasks.kind_of({"State": "FAILED"}) == tasks.kind_of({"State": "FINISHED"})
    assert tasks.kind_of({"State": "FAILED"}) == "owner_gauge"
    assert tasks.kind_of({"State": "RUNNING"}) == tasks.kind_of({"State": "NEW"}) == "gauge"


def test_gpu_metrics_are_known_though_not_measured() -> None:
    """A machine with GPUs finds what it exposes."""
    for name in ("gpus_available", "gpus_utilization", "gram_used", "gram_available"):
        metric = metric_facts.find(f"ray_node_{name}")
        assert metric.source == "Ray's source, not measured"
        assert "GpuIndex" in metric.labels


def test_companions_of_counters_are_known() -> None:
    """`_created` beside a counter or histogram is when its series began."""
    for name in ("autoscaler_started_nodes_created", "autoscaler_update_time_seconds_created"):
        metric = metric_facts.find(name)
        assert (metric.name, metric.kind, metric.unit) == (name, "gauge", "seconds")
    assert metric_facts.known("my_created") is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tasks", "ray_tasks"),
        ("RAY_TASKS", "ray_tasks"),
        ("ray_node_cpu_utilisation", "ray_node_cpu_utilization"),
        ("qqq", "--all"),
        ("", "--all"),
    ],
)
def test_a_name_that_is_not_known_gets_names_that_are_near(name: str, hint: str) -> None:
    """A slip of the pen costs no search."""
    with pytest.raises(UsageError) as refused:
        metric_facts.find(name)
    assert refused.value.hint
    assert hint in refused.value.hint


# -- against recorded traffic ---------------------------------------------------------------------

Labels = dict[str, str]
Series = tuple[str, Labels, list[tuple[float, float]]]


def value_of(point: Any) -> float:
    """The number that a running total is judged by."""
    if hasattr(point, "bucket_counts"):
        return float(point.count)
    return point.as_double if point.HasField("as_double") else float(point.as_int)


@pytest.fixture(scope="module")
def recorded_series(recording: Recording) -> list[Series]:
    """Every series of the recorded cluster: metric, labels, and (seconds, value) in order."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]] = {}
    for sent in recording.requests:
        request = ExportMetricsServiceRequest.FromString(sent.plain_body())
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data") or "gauge")
                    for point in data.data_points:
                        labels = frozenset((a.key, a.value.string_value) for a in point.attributes)
                        points = found.setdefault((metric.name, labels), [])
                        points.append((point.time_unix_nano / 1e9, value_of(point)))
    return [(name, dict(labels), sorted(points)) for (name, labels), points in found.items()]


def falls(points: list[tuple[float, float]]) -> list[float]:
    """Seconds between the points where a value fell."""
    pairs = itertools.pairwise(points)
    return [after[0] - before[0] for before, after in pairs if after[1] < before[1]]


def test_everything_recorded_is_known(recorded_series: list[Series]) -> None:
    """A stock cluster has nothing that the data does not name, also none of its labels."""
    for name, labels, _ in recorded_series:
        metric = metric_facts.known(name)
        assert metric is not None, name
        assert set(labels) - SCRAPER_LABELS - COMMON_LABELS <= set(metric.labels), name
        for label, known in metric.values.items():
            assert label not in labels or labels[label] in known, f"{name} {label}"


def test_what_is_said_to_rise_falls_only_at_a_restart(recorded_series: list[Series]) -> None:
    """Running totals fall where their process was gone in between, and nowhere else."""
    restarts = 0
    for name, labels, points in recorded_series:
        if metric_facts.find(name).kind_of(labels) in RISING:
            for gap in falls(points):
                assert gap > RESTART_SECONDS, f"{name} {labels}"
                assert labels["instance"].endswith(":28182")
                restarts += 1
    assert restarts > 50


def test_what_is_said_to_be_a_gauge_falls_somewhere_or_never_moves(
    recorded_series: list[Series],
) -> None:
    """A gauge that only rises is a running total in disguise; exceptions have their reasons."""
    moved, fell = set(), set()
    for name, labels, points in recorded_series:
        metric = metric_facts.find(name)
        if metric.kind_of(labels) == "gauge":
            part = (name, labels.get(metric.label, ""))
            moved |= {part} if len({value for _, value in points}) > 1 else set()
            fell |= {part} if falls(points) else set()
    assert {name for name, _ in moved - fell} == ONLY_ROSE
    assert len(fell) > 40


def test_totals_of_owners_end_with_their_owner(recorded_series: list[Series]) -> None:
    """Failures of a job that is over do not stay at their total: the series itself ends."""
    ends = defaultdict(list)
    for name, labels, points in recorded_series:
        if name == "ray_tasks" and labels["State"] == "FAILED":
            ends[labels["Name"]].append(points[-1][0])
    last = max(max(times) for times in ends.values())
    assert last - max(ends["transform"]) > RESTART_SECONDS
    assert last - max(ends["load_shard"]) < RESTART_SECONDS


def test_a_broken_counter_is_broken(recorded_series: list[Series]) -> None:
    """Two submitted jobs finished; Ray counted to hundreds."""
    (points,) = [points for name, _, points in recorded_series if name == "ray_finished_jobs_total"]
    assert points[-1][1] > 100


def test_infos_are_always_one(recorded_series: list[Series]) -> None:
    """Nothing is learned from the value of an info."""
    values = {
        value
        for name, _, points in recorded_series
        if metric_facts.find(name).kind == "info"
        for _, value in points
    }
    assert values == {1.0}


# -- in SQL ---------------------------------------------------------------------------------------


def test_the_view_has_one_row_for_each_series() -> None:
    """A join with it neither loses a known series nor doubles one."""
    with duckdb.connect() as connection:
        connection.execute(views.metric_facts_view())
        described = connection.sql("DESCRIBE ray_metrics").fetchall()
        assert [row[0] for row in described] == list(metric_facts.VIEW_COLUMNS)
        assert {row[1] for row in described} == {"VARCHAR"}
        rows = connection.sql(
            "SELECT metric_name, label, label_value, kind, meaning, caution FROM ray_metrics"
        ).fetchall()
    assert {row[0] for row in rows} == set(METRICS)
    assert len({(row[0], row[2]) for row in rows}) == len(rows)
    for name, label, value, kind, meaning, caution in rows:
        metric = METRICS[name]
        assert (label is None) == (value is None) == (metric.kind != "mixed")
        assert kind == metric.kind_of({label: value} if label else {})
        assert (meaning, caution or "") == (metric.meaning, metric.caution)


# -- the command ----------------------------------------------------------------------------------


def shown(*arguments: str) -> str:
    """Standard output of `rayotel metrics` that went well."""
    done = rayotel("metrics", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_list_says_what_the_lake_has(
    recorded_lake: Storage, recorded_series: list[Series]
) -> None:
    """Every recorded metric once, with its series and rows as counted from the traffic."""
    series: dict[str, int] = defaultdict(int)
    rows: dict[str, int] = defaultdict(int)
    for name, _, points in recorded_series:
        series[name] += 1
        rows[name] += len(points)
    found = json.loads(shown("--storage", recorded_lake.url, "--format", "json"))
    assert {one["metric_name"]: one["series"] for one in found} == series
    assert {one["metric_name"]: one["points"] for one in found} == rows
    assert all(one["is_known"] for one in found)
    by_name = {one["metric_name"]: one for one in found}
    assert by_name["ray_tasks"]["kind"] == "mixed"
    assert by_name["ray_tasks"]["metric_type"] == "gauge"
    labels = set(by_name["ray_tasks"]["labels"].split(", "))
    assert {"Name", "State", "JobId", "Source", "NodeAddress"} <= labels
    labels = set(by_name["ray_node_cpu_utilization"]["labels"].split(", "))
    assert "ip" in labels
    assert "NodeAddress" not in labels  # the view fills it; Ray does not send it


@pytest.mark.parametrize("format_", ["table", "ndjson", "csv", "markdown", "parquet"])
def test_the_list_comes_in_every_format(
    recorded_lake: Storage, tmp_path: Path, format_: str
) -> None:
    """The same rows for people and programs."""
    file = tmp_path / "out"
    shown("--storage", recorded_lake.url, "--format", format_, "--output", str(file))
    if format_ == "parquet":
        names = pq.read_table(file).column("metric_name").to_pylist()
    elif format_ == "csv":
        names = [row["metric_name"] for row in csv.DictReader(io.StringIO(file.read_text("utf-8")))]
    elif format_ == "ndjson":
        names = [json.loads(line)["metric_name"] for line in file.read_text("utf-8").splitlines()]
    else:
        names = re.findall(r"^[| ]*([a-z]\w+_\w+)", file.read_text("utf-8"), re.MULTILINE)
        names = [name for name in names if name != "metric_name"]
    assert "ray_tasks" in names
    assert names == sorted(names)
    assert len(names) > 100


def facts(*arguments: str) -> dict[tuple[str, str], str]:
    """What `rayotel metrics NAME` tells, by the first two columns."""
    found = json.loads(shown(*arguments, "--format", "json"))
    return {(one["about"], one["name"]): one["value"] for one in found}


def test_one_metric_is_told_in_full(recorded_lake: Storage) -> None:
    """What is known, and what the lake has: series, times, values of each label."""
    told = facts("ray_tasks", "--storage", recorded_lake.url)
    assert told["known", "kind by State"].startswith("FINISHED: owner_gauge, FAILED: owner_gauge")
    assert told["known", "caution"] == METRICS["ray_tasks"].caution
    assert told["lake", "series"] == "216"
    assert told["lake", "first_seen"] < told["lake", "last_seen"]
    assert told["label", "metric_Source"].startswith("2 values: executor (")
    assert re.match(r"15 values: .*, and 7 more$", told["label", "metric_label_Name"])
    told = facts("ray_node_cpu_utilization", "--storage", recorded_lake.url)
    assert ("label", "metric_ip") in told
    assert ("label", "metric_NodeAddress") not in told


def test_a_metric_that_nobody_knows_shows_what_the_lake_knows(tmp_path: Path) -> None:
    """An application's own metrics have no entry, and still a name, a type and labels."""
    storage = open_storage(str(tmp_path / "lake"))
    write(storage, gauge_request(1, 2, name="ray_mine", time_unix_nano=AT, Name="a", State=""))
    told = facts("ray_mine", "--storage", storage.url)
    assert told["known", "meaning"] == "not a metric of Ray's that is known here"
    assert (told["lake", "metric_type"], told["lake", "points"]) == ("gauge", "2")
    assert told["label", "metric_label_Name"] == "1 value: a (2)"
    assert ("label", "metric_State") not in told  # an empty label is an absent one
    (listed,) = json.loads(shown("--storage", storage.url, "--format", "json"))
    assert (listed["kind"], listed["is_known"], listed["labels"]) == (None, False, "Name")


def test_known_metrics_that_are_not_there_come_on_request(tmp_path: Path) -> None:
    """--all adds them, with no series."""
    storage = open_storage(str(tmp_path / "lake"))
    write(storage, gauge_request(1, name="ray_mine", time_unix_nano=AT))
    found = json.loads(shown("--all", "--storage", storage.url, "--format", "json"))
    assert [one["metric_name"] for one in found] == sorted([*METRICS, "ray_mine"])
    assert sum(one["series"] for one in found) == 1
    told = facts("ray_tasks", "--storage", storage.url)
    assert told["lake", "series"] == "0"


def test_an_empty_lake_shows_what_is_known(tmp_path: Path) -> None:
    """Knowledge needs no data; words say that there is none."""
    arguments = ("metrics", "--data-dir", str(tmp_path / "nothing"), "--format", "json")
    done = rayotel(*arguments)
    assert [one["metric_name"] for one in json.loads(done.stdout)] == list(METRICS)
    assert "no stream 'raymetrics'" in done.stderr
    told = rayotel(*arguments, "ray_tasks")
    assert (told.returncode, "owner_gauge" in told.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("ray_task",), 2, "ray_tasks"),
        (("--stream", "nope"), 1, "rayotel streams"),
        (("--since", "1x"), 2, "duration"),
    ],
)
def test_wrong_use_gets_words(
    recorded_lake: Storage, arguments: tuple[str, ...], code: int, word: str
) -> None:
    """Its exit code, a hint, and no data."""
    done = rayotel("metrics", *arguments, "--storage", recorded_lake.url)
    assert (done.returncode, done.stdout) == (code, "")
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_ranges_and_the_day_that_is_the_default(tmp_path: Path) -> None:
    """Without a range the last day that the stream has; with one, that; labels are not lost."""
    storage = open_storage(str(tmp_path / "lake"))
    hour = NANOSECONDS_PER_HOUR
    write(storage, gauge_request(1, name="old", time_unix_nano=AT - 30 * hour, a="x"))
    write(storage, gauge_request(1, name="early", time_unix_nano=AT - 5 * hour, b="x"))
    write(storage, gauge_request(1, name="late", time_unix_nano=AT, c="x"))

    def listed(range_: TimeRange) -> dict[str, str]:
        bounded = metrics.bounded(storage, "raymetrics", range_)
        lake = metrics.StreamMetrics(Lake(storage, LIMITS), "raymetrics", bounded)
        return {one.metric_name: one.labels for one in metrics.seen(lake)}

    assert listed(TimeRange()) == {"early": "b", "late": "c"}
    assert listed(TimeRange(AT - 40 * hour, AT - hour)) == {"old": "a", "early": "b"}
    assert listed(TimeRange(AT + hour, None)) == {}


def test_a_stream_of_another_name(tmp_path: Path) -> None:
    """--stream looks elsewhere; one that is not there is an error."""
    storage = open_storage(str(tmp_path / "lake"))
    write(storage, gauge_request(1, name="m", time_unix_nano=AT), stream="other")
    (one,) = metrics.seen(metrics.StreamMetrics(Lake(storage, LIMITS), "other", TimeRange()))
    assert one.metric_name == "m"
    with pytest.raises(QueryError, match="no stream 'nope'"):
        metrics.StreamMetrics(Lake(storage, LIMITS), "nope", TimeRange())
    done = rayotel("metrics", "--storage", storage.url, env={"RAYOTEL_METRICS_STREAM": "other"})
    assert "\n m " in done.stdout  # as the setting names it


def test_the_package_has_the_data() -> None:
    """The data is beside its module, where the wheel takes everything from."""
    assert (Path(metric_facts.__file__).parent / "metric_facts.toml").is_file()


def test_the_data_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions ask for the view each time; only the first of them reads the file."""
    first = views.metric_facts_view()
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("it was read again"))
    assert views.metric_facts_view() == first
