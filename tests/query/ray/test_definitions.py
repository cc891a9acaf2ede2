"""Views and macros that every session has: what they promise, and arithmetic against Python."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Histogram,
    Metric,
)

from rayotel.errors import QueryError, UsageError
from rayotel.lake.signal import EVENTS, METRICS
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import TimeRange
from rayotel.query.ray import definitions, header, metric_facts, questions
from rayotel.query.ray.definitions import Definition, Streams
from rayotel.query.session import Session
from support.examples import examples
from support.harness import LIMITS, gauge_request
from support.lakes import commit_events, write

ALL = definitions.all_definitions()
# no target is missing at its end, and with task events no metrics are counted
NOTHING_RECORDED = {"ray_series_health", "ray_task_ends"}
every_definition = pytest.mark.parametrize("definition", ALL.values(), ids=ALL)
Rows = list[dict[str, Any]]
SECOND = 10**9
T0 = 1_795_186_800 * SECOND  # a whole hour
SCRAPE = 10
quick = settings(
    deadline=None,
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def asked(
    storage: Storage, sql: str, range_: TimeRange | None = None, reads: Streams | None = None
) -> Rows:
    """The rows of a question."""
    with Session(storage, range_ or TimeRange(), LIMITS, mentioned_in=sql, reads=reads) as session:
        return session.run(sql).rows()


def whole(definition: Definition) -> str:
    """A question for everything that a view gives."""
    return f"SELECT * FROM {definition.name}"


# -- what the files promise ------------------------------------------------------------------------


@every_definition
def test_a_definition_explains_itself(definition: Definition) -> None:
    """What it gives, every parameter, every column of a view, an example."""
    assert definition.about
    assert definition.examples
    assert all(meaning for _, meaning in (*definition.parameters, *definition.columns))
    made = re.match(r"CREATE (MACRO|VIEW|TABLE) (\w+)(?:\(([^)]*)\))?", definition.sql)
    assert made is not None
    assert made[2] == definition.name
    names = [name.strip() for name in (made[3] or "").split(",") if name.strip()]
    assert [name for name, _ in definition.parameters] == names
    assert definition.name in definitions.explained(definition)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("metrics", marks=pytest.mark.thorough),
        pytest.param("both", marks=pytest.mark.thorough),
        "nothing",
    ],
)
@every_definition
def test_examples_run_and_views_have_their_columns(
    definition: Definition, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On a lake with metrics, with events as well, and on one that never saw anything."""
    storage = open_storage(str(tmp_path))
    if kind != "nothing":
        storage = request.getfixturevalue("recorded_lake" if kind == "metrics" else "events_lake")
    for sql in definition.examples:
        if kind == "nothing" and " FROM raymetrics " in sql:
            continue  # a stream that is not there is an error when it is asked for itself
        rows = asked(storage, sql)
        assert rows or kind != "both" or definition.name in NOTHING_RECORDED, sql
    if not definition.is_macro:
        with Session(storage, TimeRange(), LIMITS, mentioned_in=whole(definition)) as session:
            columns = session.run(whole(definition)).schema.names
        documented = [name for name, _ in definition.columns]
        if "..." in documented:
            assert set(documented) - {"..."} <= set(columns)
        else:
            assert columns == documented


@pytest.mark.parametrize(
    "name",
    [
        *("ray_nodes", "ray_task_failures", "ray_task_states", "ray_actors"),
        *("ray_object_store", "ray_jobs", "ray_sessions", "ray_series_health"),
    ],
)
def test_views_of_ray_share_their_keys(name: str) -> None:
    """So that they can be joined and put one under the other."""
    columns = [column for column, _ in ALL[name].columns]
    assert columns[0] in ("time", "minute")
    assert {"cluster_id", "session", "node", "instance"} <= set(columns)


def test_labels_that_definitions_name_are_always_there() -> None:
    """A stream that never saw a label has it, null."""
    known = {name.lower() for name in (*METRICS.ray_labels, *METRICS.types)}
    known |= {name.lower() for name in EVENTS.types}
    for one in ALL.values():
        named = re.findall(r"\bmetric_[A-Za-z_]+\b", one.sql)
        columns = {name.lower() for name in named} - set(ALL) - {"metric_name"}
        assert columns <= known, one.name


STREAMS = {definitions.METRICS_STREAM, definitions.EVENTS_STREAM}


@every_definition
def test_a_header_names_what_its_sql_needs(definition: Definition) -> None:
    """Every view, macro and stream that the SQL names, and no other."""
    strings = set(re.findall(r"'(\w+)'", header.without_comments(definition.sql)))
    named = header.words(definition.sql) & (set(ALL) | STREAMS) | strings & STREAMS
    past = {"past"} if re.search(r" past[\"']", definition.sql) else set()
    assert set(definition.needs) == named - {definition.name} | past
    assert list(definition.needs) == sorted(set(definition.needs))


def test_a_column_has_one_name() -> None:
    """A start of a minute is `minute`, and `source` is always events or metrics."""
    columns = [pair for one in ALL.values() for pair in one.columns]
    columns += [pair for one in questions.all_queries() for pair in one.columns.items()]
    for name, meaning in columns:
        assert (name == "minute") == meaning.startswith("start of the minute, UTC"), name
        assert (name == "source") == (meaning == "events or metrics"), name
    assert all(
        meaning.startswith("written") for name, meaning in columns if name == "spilled_bytes"
    )
    assert not {"avg_cpu", "max_cpu", "cpu_pct", "rows", "used_pct"} & {name for name, _ in columns}


def test_only_what_is_mentioned_is_made() -> None:
    """And what that needs, before it."""
    assert definitions.needed("SELECT 1") == []
    names = [one.name for one in definitions.needed("FROM RAY_ACTORS")]
    assert names[-1] == "ray_actors"
    assert set(names) == {
        *("ray_cluster", "ray_node", "ray_node_from", "ray_samples", "ray_scrape_markers"),
        *("ray_scrapes", "ray_targets", "ray_actors"),
    }
    assert {one.name for one in definitions.needed(None)} == set(ALL)
    sql = """SELECT 'ray_jobs', e'it\\'s ray_nodes', $$ray_actors$$ -- ray_targets
        /* ray_sessions */ FROM "Ray_Samples" """
    assert [one.name for one in definitions.needed(sql)] == ["ray_samples"]


def test_a_label_is_every_column_that_is_not_fixed() -> None:
    """The macro's list and the schema's are the same."""
    assert set(re.findall(r"'(\w+)'", ALL["metric_is_label"].sql)) == set(METRICS.types)


def test_an_unknown_name_is_explained() -> None:
    """`rayotel views NAME` with a name that there is not."""
    with pytest.raises(UsageError, match="no view or macro 'nothing'"):
        definitions.find("nothing")


# -- streams ---------------------------------------------------------------------------------------


def test_views_read_the_streams_that_are_chosen(tmp_path: Path) -> None:
    """Also streams whose names are no bare words in SQL, and what came before the range."""
    storage = open_storage(str(tmp_path))
    gauges(storage, "ray_node_cpu_utilization", [10.0, 30.0], stream="my-cluster")
    reads = Streams("my-cluster", "my-events")
    sql = "SELECT node, cpu_mean_pct FROM ray_nodes"
    assert asked(storage, sql, reads=reads) == [{"node": "a", "cpu_mean_pct": 20.0}]
    assert asked(storage, sql) == []
    assert asked(storage, "FROM ray_task_failures", reads=reads) == []


def test_a_default_name_is_the_stream_that_is_chosen(tmp_path: Path) -> None:
    """Also beside a stream that really has that name, and where the two are swapped."""
    storage = open_storage(str(tmp_path))
    gauges(storage, "ray_node_cpu_utilization", [10.0], stream="other")
    gauges(storage, "ray_node_cpu_utilization", [99.0], stream="raymetrics")
    sql = "SELECT data_point_value AS v FROM {}"
    reads = Streams("other", "rayevents")
    for name in ("raymetrics", "RayMetrics", "other"):
        assert asked(storage, sql.format(name), reads=reads) == [{"v": 10.0}], name
    rises = "SELECT value AS v FROM metric_increase('raymetrics', 'ray_node_cpu_utilization')"
    assert asked(storage, rises, reads=reads) == [{"v": 10.0}]
    listed = asked(storage, "SELECT view_name AS n FROM duckdb_views() WHERE NOT internal",
                   reads=reads)  # fmt: skip
    assert sorted(row["n"] for row in listed) == ["other", "raymetrics"]
    assert asked(storage, sql.format("raymetrics")) == [{"v": 99.0}]
    swapped = Streams("rayevents", "raymetrics")
    gauges(storage, "ray_node_cpu_utilization", [5.0], stream="rayevents")
    assert asked(storage, sql.format("raymetrics"), reads=swapped) == [{"v": 5.0}]
    assert asked(storage, "SELECT cpu_mean_pct AS v FROM ray_nodes", reads=swapped) == [{"v": 5.0}]


@pytest.mark.parametrize(("metrics", "events"), [("a b", "x"), ("x", 'y"'), ("x", "x")])
def test_a_stream_must_be_one(metrics: str, events: str) -> None:
    """Names go into SQL; and one stream cannot hold both."""
    with pytest.raises(UsageError):
        Streams(metrics, events)


def test_a_stream_named_like_a_view_is_still_itself(tmp_path: Path) -> None:
    """What a user stored comes first."""
    storage = open_storage(str(tmp_path))
    gauges(storage, "m", [1.0], stream="ray_samples")
    rows = asked(storage, "SELECT data_point_value AS v FROM ray_samples")
    assert rows == [{"v": 1.0}]


# -- minutes of nodes ------------------------------------------------------------------------------


def test_only_the_families_that_are_named_are_there(tmp_path: Path) -> None:
    """The columns of the others are null; a family that there is not is an error."""
    storage = open_storage(str(tmp_path))
    samples = {"ray_node_cpu_utilization": (10.0, 30.0), "ray_node_mem_used": (5.0,)}
    write(
        storage,
        *(
            gauge_request(value, name=name, time_unix_nano=T0 + n * SECOND, instance="a")
            for name, values in samples.items()
            for n, value in enumerate(values)
        ),
    )
    sql = "SELECT cpu_mean_pct AS cpu, cpu_peak_pct AS peak, memory_used_bytes AS memory"
    rows = asked(storage, f"{sql} FROM ray_node_minutes(['cpu'])")
    assert rows == [{"cpu": 20.0, "peak": 30.0, "memory": None}]
    (row,) = asked(storage, f"{sql} FROM ray_node_minutes(['cpu', 'memory'])")
    assert row["memory"] == 5.0
    with pytest.raises(QueryError, match="coffee"):
        asked(storage, "FROM ray_node_minutes(['coffee'])")


def test_every_metric_of_a_family_has_a_column() -> None:
    """What is read is used."""
    read = re.findall(r"'(ray_\w+)'", ALL["ray_family_metrics"].sql)
    used = re.findall(r"'(ray_node_\w+|ray_object_store_\w+)'", ALL["ray_node_minutes"].sql)
    assert set(read) == set(used)


# -- increases -------------------------------------------------------------------------------------


def gauges(
    storage: Storage,
    metric: str,
    values: Sequence[float | None],
    *,
    stream: str = "raymetrics",
    watched: bool = False,
    **labels: str,
) -> None:
    """A series of instance `a` scraped every ten seconds; None: the scrape does not have it."""
    bodies = []
    for number, value in enumerate(values):
        moment = T0 + number * SCRAPE * SECOND
        if watched:
            bodies.append(
                gauge_request(4, name="ray_node_cpu_count", time_unix_nano=moment, instance="a")
            )
        if value is not None:
            bodies.append(
                gauge_request(value, name=metric, time_unix_nano=moment, instance="a", **labels)
            )
    write(storage, *bodies, stream=stream)


def rises(values: Sequence[float | None], *, owners: bool) -> list[float]:
    """What each sample adds, the way it is documented."""
    found: list[float] = []
    last: tuple[int, float] | None = None
    for number, value in enumerate(values):
        if value is None:
            continue
        if last is None:
            # there in one of the first two scrapes: history
            found.append(0 if number * SCRAPE < 15 else value)
        elif owners:
            is_new = (number - last[0]) * SCRAPE > 30
            found.append(value if is_new else max(value - last[1], 0))
        else:
            found.append(value if value < last[1] else value - last[1])
        last = number, value
    return found


some_samples = st.lists(st.none() | st.integers(0, 5).map(float), min_size=1, max_size=12)


@pytest.mark.parametrize("macro", ["metric_increase", "metric_owner_increase"])
@quick
@given(some_samples)
@example([13.0, 13.0, 3.0, 5.0])
@example([None, None, None, 2.0, None, None, None, None, 2.0])
def test_increases_are_those_of_the_definition(
    macro: str, tmp_path_factory: pytest.TempPathFactory, values: list[float | None]
) -> None:
    """Resets, gaps, owners that leave, series that begin while their target is watched."""
    storage = open_storage(str(tmp_path_factory.mktemp(macro)))
    gauges(storage, "m", values, watched=True)
    rows = asked(storage, f"SELECT increase FROM {macro}('raymetrics', 'm') ORDER BY time")
    expected = rises(values, owners=macro == "metric_owner_increase")
    assert [row["increase"] for row in rows] == expected


def test_a_rise_across_the_begin_of_the_range_is_seen(tmp_path: Path) -> None:
    """The samples before the range are read and not shown."""
    storage = open_storage(str(tmp_path))
    gauges(storage, "m", [1.0, 4.0, 9.0], watched=True)
    range_ = TimeRange(T0 + SCRAPE * SECOND, None)
    rows = asked(storage, "FROM metric_increase('raymetrics', 'm') ORDER BY time", range_)
    assert [row["increase"] for row in rows] == [3.0, 5.0]
    assert [row["rate"] for row in rows] == [0.3, 0.5]


def test_values_by_bucket_and_the_latest(tmp_path: Path) -> None:
    """With every label of the series."""
    storage = open_storage(str(tmp_path))
    gauges(storage, "m", [1.0, 2.0, 6.0, 3.0, 4.0, 2.0, 7.0], State="x")
    sql = "FROM metric_values('raymetrics', 'm', INTERVAL 1 MINUTE) ORDER BY time"
    first, second = asked(storage, sql)
    names = ("mean", "smallest", "largest", "first", "last", "samples", "metric_State")
    assert [first[name] for name in names] == [3.0, 1.0, 6.0, 1.0, 2.0, 6, "x"]
    assert second["last"] == 7.0
    (latest,) = asked(storage, "FROM metric_latest('raymetrics', 'm')")
    assert (latest["value"], latest["metric_State"]) == (7.0, "x")


# -- histograms ------------------------------------------------------------------------------------


def quantile(q: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """As Prometheus computes it."""
    total = sum(counts)
    if not total or not bounds:
        return None
    rank, seen = q * total, 0
    for place, count in enumerate(counts):
        if count and seen + count >= rank:
            if place == len(bounds):
                return bounds[-1]
            low = bounds[place - 1] if place else min(0.0, bounds[0])
            return low + (bounds[place] - low) * max(rank - seen, 0) / count
        seen += count
    raise AssertionError


@st.composite
def histograms(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Bounds and one more counts."""
    bounds = sorted(draw(st.sets(st.integers(-20, 20).map(float), max_size=6)))
    size = len(bounds) + 1
    return bounds, draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session over nothing, with every definition."""
    storage = open_storage(str(tmp_path_factory.mktemp("bare")))
    with Session(storage, TimeRange(), LIMITS) as session:
        yield session


@quick
@given(st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]), histograms())
def test_quantiles_are_those_of_prometheus(
    bare: Session, q: float, histogram: tuple[list[float], list[int]]
) -> None:
    """Of a histogram's arrays, and of rows that are its buckets."""
    bounds, counts = histogram
    expected = quantile(q, bounds, counts)
    rows = bare.run(
        "SELECT histogram_quantile($q, $bounds::DOUBLE[], $counts::BIGINT[]) AS of_arrays,"
        " (SELECT bucket_quantile($q, bound, total) FROM (SELECT"
        " unnest(list_append($bounds::DOUBLE[], 'Infinity'::DOUBLE)) AS bound,"
        " unnest($counts::BIGINT[]) AS total)) AS of_rows",
        {"q": q, "bounds": bounds, "counts": counts},
    ).rows()
    for name in ("of_arrays", "of_rows"):
        found = rows[0][name]
        if expected is None:
            assert found is None, name
        else:
            assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9), name


def histogram_request(counts: Sequence[int], moment: int) -> bytes:
    """One point of a histogram with a bucket up to 1, one up to 2, and one beyond."""
    histogram = Histogram(
        aggregation_temporality=AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    )
    histogram.data_points.add(
        time_unix_nano=moment,
        count=sum(counts),
        bucket_counts=counts,
        explicit_bounds=[1.0, 2.0],
        attributes=[KeyValue(key="instance", value=AnyValue(string_value="a"))],
    )
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    scope.metrics.append(Metric(name="h", histogram=histogram))
    return request.SerializeToString()


def test_what_a_histogram_observed_between_two_samples(tmp_path: Path) -> None:
    """Differences per bucket; after a restart all that is there."""
    storage = open_storage(str(tmp_path))
    samples = enumerate([(1, 0, 5), (4, 2, 5), (1, 1, 0)])
    write(storage, *(histogram_request(one, T0 + n * SCRAPE * SECOND) for n, one in samples))
    rows = asked(storage, "FROM histogram_increase('raymetrics', 'h') ORDER BY time")
    assert [row["counts"] for row in rows] == [[0, 0, 0], [3, 2, 0], [1, 1, 0]]
    assert [row["observations"] for row in rows] == [0, 5, 2]
    totals = asked(
        storage,
        "SELECT upper_bound, sum(observations)::BIGINT AS total"
        " FROM histogram_buckets('raymetrics', 'h') GROUP BY ALL ORDER BY ALL",
    )
    assert [(row["upper_bound"], row["total"]) for row in totals] == [
        (1.0, 4), (2.0, 3), (math.inf, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1.0])
def test_values_that_are_no_numbers_break_no_view(tmp_path: Path, value: float) -> None:
    """In any metric that a view reads."""
    storage = open_storage(str(tmp_path))
    text = "".join(one.sql for one in ALL.values())
    names = sorted(set(re.findall(r"'((?:ray|autoscaler)_[a-z_]+)'", text)) - set(ALL))
    assert len(names) > 20
    labels = {"State": "FAILED", "JobId": "01000000", "Name": "f", "Source": "gcs", "GpuIndex": "0"}
    bodies = [
        gauge_request(
            one, name=name, time_unix_nano=T0 + n * SCRAPE * SECOND, SessionName="s",
            instance="a", **labels,
        )
        for name in names
        for n, one in enumerate((1.0, value, 2.0))
    ]  # fmt: skip
    write(storage, *bodies)
    for definition in ALL.values():
        if not definition.is_macro:
            asked(storage, whole(definition))


# -- events that are not as Ray sends them ---------------------------------------------------------


def test_events_of_unexpected_shape_break_no_view(tmp_path: Path) -> None:
    """Whatever stands in a payload, every view answers."""
    kinds = ("TASK", "ACTOR", "NODE", "WORKER", "DRIVER_JOB", "SUBMISSION_JOB")
    payloads: tuple[dict[str, Any], ...] = (
        {},
        {"stateTransitions": "x", "rayErrorInfo": 3, "deathInfo": [], "config": None},
        {"stateTransitions": [{"state": 7, "timestamp": "soon"}, 5, None]},
        {"stateTransitions": [{"state": "DEAD", "timestamp": "2026-11-20T15:00:00Z",
                               "deathInfo": "x", "deathCause": {"a'b": 1}}], "pid": "x"},
    )  # fmt: skip
    sent = [
        {
            "eventId": base64.b64encode(bytes([n, k] * 14)).decode(),
            "eventType": f"{kind}_{part}_EVENT",
            "timestamp": "2026-11-20T15:00:00.5Z",
            "sessionName": "s",
            f"{kind.lower()}{part.title()}Event": {"taskId": "AQAAAA==", **payload},
        }
        for n, kind in enumerate(kinds)
        for k, payload in enumerate(payloads)
        for part in ("DEFINITION", "LIFECYCLE")
    ]
    storage = open_storage(str(tmp_path))
    assert commit_events(storage, 1, json.dumps(sent).encode(), stream="rayevents")
    for definition in ALL.values():
        if not definition.is_macro:
            asked(storage, whole(definition))
    assert asked(storage, "SELECT session FROM ray_sessions") == [{"session": "s"}]


# -- what is known of metrics ----------------------------------------------------------------------

RISING = {"counter", "cumulative_gauge"}


def kinds_of(metric: str) -> set[str]:
    """The kinds that series of a metric have."""
    known = metric_facts.find(metric)
    return set(known.kinds.values()) or {known.kind}


def test_rules_follow_what_is_known_of_a_metric() -> None:
    """Increases are of what rises, the owners' rule of ray_tasks alone, and of nothing broken."""
    texts = [one.sql for one in ALL.values()] + [one.sql for one in questions.all_queries()]
    used: dict[str, set[str]] = {}
    for text in texts:
        calls = re.findall(r"(metric_\w+|histogram_\w+)\('raymetrics', '(\w+)'", text)
        for macro, metric in calls + re.findall(r"(ray_increase)\('(\w+)'", text):
            used.setdefault(macro, set()).add(metric)
    assert all(kinds_of(metric) & RISING for metric in used["ray_increase"])
    assert "metric_increase" not in used  # ray_increase has the keys
    assert used["metric_owner_increase"] == {"ray_tasks"}
    assert all("histogram" in kinds_of(metric) for metric in used.get("histogram_increase", ()))
    owned = {one.name for one in metric_facts.all_metrics() if "owner_gauge" in kinds_of(one.name)}
    assert owned == {"ray_tasks"}  # as in ray_task_ends
    assert metric_facts.find("ray_tasks").kinds["FAILED"] == "owner_gauge"
    named = {name for text in texts for name in re.findall(r"= '(ray_\w+)'", text)}
    assert all("broken" not in kinds_of(name) for name in named)


def test_kinds_depend_on_labels_that_questions_look_at() -> None:
    """`around` asks State and Type; another label would be passed over in silence."""
    totals = [one for one in metric_facts.all_metrics() if RISING & set(one.kinds.values())]
    assert {one.label for one in totals} <= {"State", "Type"}
