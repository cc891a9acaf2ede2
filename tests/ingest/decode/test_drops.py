"""What is dropped by patterns is gone as if it had never been sent, and is counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from rayotel import replay
from rayotel.config import values
from rayotel.config.values import MAX_PATTERN_CHARACTERS, MAX_PATTERNS, SOURCE_LABELS
from rayotel.errors import UsageError
from rayotel.ingest.decode.limits.drops import Drops
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import TimeRange
from rayotel.query.ray import questions
from rayotel.query.session import Session
from rayotel.replay import Recording
from support.harness import (
    LIMITS,
    PROTOBUF,
    ROOT,
    Server,
    ask,
    gauge_request,
    rayotel_process,
    wait_until,
)
from support.otlp_reference import (
    Dropping,
    all_rows,
    decode,
    gauges,
    new_decoder,
    points_of,
    restored,
    stored_rows,
    without,
)
from support.otlp_strategies import HEADERS, REQUESTS, few

RECOMMENDED = {
    "RAYOTEL_DROP_METRICS": "ray_grpc_* ray_operation_* python_* process_* *_created",
    "RAYOTEL_DROP_LABELS": "otel_scope_* Version",
}
NEVER = ("--commit-interval-seconds", "3600")


def dropping(settings: dict[str, str]) -> Dropping:
    """The patterns of these settings."""
    names = ("RAYOTEL_DROP_METRICS", "RAYOTEL_DROP_LABELS")
    return Dropping(*(tuple(settings.get(name, "").split()) for name in names))


def patterns(metrics: str, labels: str) -> Drops:
    """What texts of the two settings drop. Raises UsageError."""
    return Drops(
        values.metric_patterns("drop_metrics", metrics),
        values.label_patterns("drop_labels", labels),
    )


def counts(server: Server) -> Counter[tuple[str, str]]:
    """What the server says that it dropped, by setting and pattern."""
    found: Counter[tuple[str, str]] = Counter()
    for what, setting in (("points", "drop_metrics"), ("labels", "drop_labels")):
        line = rf'^rayotel_{what}_dropped_total{{pattern="(.*)"}} (\S+)$'
        for pattern, count in re.findall(line, server.get("/metrics").text, re.MULTILINE):
            found[setting, pattern] = int(float(count))
    return found


class Run(NamedTuple):
    """What a server with patterns made of the recording, and what it should have made of it."""

    lake: Storage
    counted: Counter[tuple[str, str]]
    sent: list[ExportMetricsServiceRequest]
    expected_counts: Counter[tuple[str, str]]


@pytest.fixture(scope="module")
def run(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole recording to a real server that drops what is recommended and some `pid`."""
    settings = dict(RECOMMENDED)
    settings["RAYOTEL_DROP_LABELS"] += ",ray_component_*:pid"
    patterns = Dropping(
        dropping(RECOMMENDED).metrics, (*dropping(RECOMMENDED).labels, "ray_component_*:pid")
    )
    data_dir = tmp_path_factory.mktemp("drops") / "data"
    with Server(data_dir, env=settings) as server:
        replay.post(recording, server.url, speed=None)
        counted = counts(server)
        assert server.stop() == 0
    sent, expected = [], Counter[tuple[str, str]]()
    for request in recording.requests:
        message = ExportMetricsServiceRequest.FromString(request.plain_body())
        kept, lost = without(message, patterns)
        sent.append(kept)
        expected.update(lost)
    return Run(open_storage(str(data_dir / "lake")), counted, sent, expected)


def test_what_is_stored_is_what_is_left(run: Run) -> None:
    """No row of a dropped metric, no column and no overflow of a dropped label, all else exact."""
    stored: Counter[Hashable] = Counter()
    for path in Path(run.lake.url).rglob("*.parquet"):
        stored.update(restored(row).key() for row in stored_rows(path))
    sent = Counter(point.key() for message in run.sent for point in points_of(message))
    assert stored == sent
    (columns,) = (set(row) for row in ask(run.lake, "SELECT * FROM raymetrics LIMIT 1"))
    assert not columns & {"metric_otel_scope_name", "metric_Version"}
    assert {"metric_pid", "metric_instance"} <= columns  # pid of other metrics


def test_what_is_dropped_is_counted_by_its_pattern(run: Run) -> None:
    """Points of metrics and labels of points, each under the first pattern that matches."""
    assert run.counted == run.expected_counts
    assert len(run.counted) == 8
    assert run.counted["drop_metrics", "ray_grpc_*"] > 10_000


def test_series_are_those_of_a_server_that_was_never_sent_it(run: Run, tmp_path: Path) -> None:
    """Ids, rows and times are the same as when the sender had left it out."""
    with Server(tmp_path / "data") as server:
        for message in run.sent:
            assert server.post(message.SerializeToString(), PROTOBUF).status_code == 200
        assert server.stop() == 0
    other = open_storage(str(tmp_path / "data" / "lake"))
    sql = (
        "SELECT metric_name, series_id, count(*), max(time_unix_nano) FROM raymetrics GROUP BY ALL"
    )
    assert ask(run.lake, f"{sql} ORDER BY ALL") == ask(other, f"{sql} ORDER BY ALL")


# these count what is there
OF_EVERYTHING = ("cardinality", "cardinality-labels")
# these say something of what is recommended to drop
OF_DROPPED = ("slowest_method", "slowest_method_p99_ms")


@pytest.mark.parametrize(
    "question",
    [one for one in questions.all_queries() if one.name not in OF_EVERYTHING],
    ids=lambda one: one.name,
)
def test_shipped_questions_need_nothing_of_it(
    run: Run, recorded_lake: Storage, question: questions.ShippedQuery
) -> None:
    """What is recommended to drop changes no answer."""
    answers = []
    for lake in (run.lake, recorded_lake):
        with Session(lake, TimeRange(), LIMITS, mentioned_in=question.sql) as session:
            rows = session.run(question.sql, question.bind({})).rows()
        # how long scrapes took to arrive is of the two servers
        left_out = ("latest_arrival_seconds", *OF_DROPPED)
        answers.append([{k: v for k, v in r.items() if k not in left_out} for r in rows])
    # sums of doubles depend on their order
    assert [_rounded(row) for row in answers[0]] == [_rounded(row) for row in answers[1]]


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.12g}") if isinstance(v, float) else v for k, v in row.items()}


def test_the_documents_recommend_what_is_tested() -> None:
    """docs/storing-less.md has these patterns."""
    text = (ROOT / "docs" / "storing-less.md").read_text("utf-8")
    for name, patterns in RECOMMENDED.items():
        assert f'{name.removeprefix("RAYOTEL_").lower()} = "{patterns}"' in text


# -- a request at a time ---------------------------------------------------------------------------

PATTERNS = st.sampled_from(["", "?", "a*", "a b", "ü", "[!a-z]*", "*", "??*", "[nN]ame", "*ersion"])
LIMITED = st.builds("{}:{}".format, PATTERNS, PATTERNS)
DROPPINGS = st.builds(
    Dropping,
    st.lists(PATTERNS.filter(lambda one: one != "*"), max_size=3).map(tuple),
    st.lists(PATTERNS | LIMITED, max_size=4).map(tuple),
)


@few
@given(REQUESTS, HEADERS, DROPPINGS)
def test_any_request_becomes_what_it_were_without_it(
    request_: ExportMetricsServiceRequest, headers: Any, patterns: Dropping
) -> None:
    """Rows, series ids and counts, whatever the patterns and the request."""
    kept, lost = without(request_, patterns)
    decoder = new_decoder(Drops(patterns.metrics, patterns.labels))
    for _ in range(2):
        batch = decode(request_.SerializeToString(), decoder, header_columns=headers)
        assert +Counter(dict(batch.dropped)) == lost
        expected = decode(kept.SerializeToString(), header_columns=headers)
        assert all_rows(batch) == all_rows(expected)
        assert batch.rejected == expected.rejected == {}


def test_points_that_become_one_series_are_all_kept(tmp_path: Path) -> None:
    """Two values of one time and series are two rows, as when a sender repeats a point."""
    request = ExportMetricsServiceRequest.FromString(gauge_request(1.0, 2.0, name="ray_x"))
    points = request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points
    for number, point in enumerate(points):
        point.time_unix_nano = points[0].time_unix_nano
        point.attributes.add(key="pid").value.int_value = number
    with Server(tmp_path / "data", env={"RAYOTEL_DROP_LABELS": "ray_?:pid"}) as server:
        assert server.post(request.SerializeToString(), PROTOBUF).status_code == 200
        assert server.stop() == 0
    lake = open_storage(str(tmp_path / "data" / "lake"))
    rows = ask(lake, "SELECT series_id AS s, data_point_value AS v FROM raymetrics ORDER BY v")
    assert [row["v"] for row in rows] == [1, 2]
    assert len({row["s"] for row in rows}) == 1


def test_resources_and_scopes_lose_attributes_too() -> None:
    """A pattern sees keys as they are sent, not the columns that they get; headers are kept."""
    request = gauges(1_795_200_000 * 10**9, k="v")
    outer = request.resource_metrics[0]
    for attributes in (outer.resource.attributes, outer.scope_metrics[0].scope.attributes):
        for key in ("k", "other"):
            attributes.add(key=key).value.string_value = "v"
    headers = (("k", "v"),)
    batch = decode(
        request.SerializeToString(), new_decoder(Drops([], ["m:k"])), header_columns=headers
    )
    (series,) = batch.series
    assert [column for column, _ in series.labels] == ["k", "resource_other", "scope_other"]
    assert list(batch.dropped.values()) == [3]


def test_a_large_attribute_that_is_dropped_rejects_nothing() -> None:
    """It is gone before it is judged; of a metric that is dropped, nothing is judged at all."""
    body = gauges(1_795_200_000 * 10**9, 1, big="x" * 70_000).SerializeToString()
    by_label = decode(body, new_decoder(Drops([], ["b*"])))
    assert (by_label.accepted_rows, sum(by_label.rejected.values())) == (1, 1)
    by_metric = decode(body, new_decoder(Drops(["m"])))
    assert (by_metric.accepted_rows, by_metric.rejected) == (0, {})
    assert list(by_metric.dropped.values()) == [2]


def test_a_request_without_anything_left_is_acknowledged_and_not_logged(tmp_path: Path) -> None:
    """Dropped is not rejected: 200, no partial success, nothing in the log."""
    with Server(tmp_path / "data", *NEVER, env={"RAYOTEL_DROP_METRICS": "ray_grpc_*"}) as server:
        size = re.compile(r"^rayotel_wal_bytes (\S+)$", re.MULTILINE)
        before = size.findall(server.get("/metrics").text)
        for value in range(3):
            answer = server.post(gauge_request(value, 0.5, name="ray_grpc_x"), PROTOBUF)
            assert answer.status_code == 200
            said = ExportMetricsServiceResponse.FromString(answer.content)
            assert said == ExportMetricsServiceResponse()
        assert size.findall(server.get("/metrics").text) == before
        assert counts(server) == {("drop_metrics", "ray_grpc_*"): 6}
        assert server.stop() == 0
    assert list((tmp_path / "data").rglob("*.parquet")) == []


def test_a_request_sent_again_is_counted_once(tmp_path: Path) -> None:
    """What is stored once is counted once."""
    with Server(tmp_path / "data", env={"RAYOTEL_DROP_LABELS": "k"}) as server:
        body = gauge_request(1.0, 2.0, k="v")
        for _ in range(2):
            assert server.post(body, PROTOBUF).status_code == 200
        assert counts(server) == {("drop_labels", "k"): 2}


def test_what_the_log_holds_is_decoded_by_the_patterns_of_its_day(tmp_path: Path) -> None:
    """Bodies are logged as they came, so a restart with other patterns applies these."""
    with Server(tmp_path / "data", *NEVER) as server:
        for name in ("ray_grpc_x", "ray_tasks"):
            body = gauge_request(1.0, name=name, Version="2.60.0")
            assert server.post(body, PROTOBUF).status_code == 200
        server.kill()
    with Server(tmp_path / "data", env=RECOMMENDED) as server:
        wait_until(lambda: list((tmp_path / "data").rglob("*.parquet")))
        assert server.stop() == 0
    (row,) = ask(open_storage(str(tmp_path / "data" / "lake")), "SELECT * FROM raymetrics")
    assert (row["metric_name"], "metric_Version" in row) == ("ray_tasks", False)


# -- settings --------------------------------------------------------------------------------------


@pytest.fixture
def in_file(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Writes rayotel.toml; the environment that names it."""

    def write(content: str) -> dict[str, str]:
        (tmp_path / "rayotel.toml").write_text(content)
        return {"RAYOTEL_CONFIG": str(tmp_path / "rayotel.toml")}

    return write


@pytest.mark.parametrize(
    "content",
    ['drop_metrics = "a_*,b_*  c"', 'drop_metrics = ["a_*", "b_*", "c"]'],
    ids=["text", "list"],
)
def test_patterns_are_a_text_or_a_list(
    content: str, in_file: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    """With blanks or commas between them; each has its counter from the start."""
    with Server(tmp_path / "data", env=in_file(content)) as server:
        found = counts(server)
    assert list(found) == [("drop_metrics", one) for one in ("a_*", "b_*", "c")]
    assert set(found.values()) == {0}


@pytest.mark.parametrize("members", ["[1]", '[""]', '["a", " "]', '[["a"]]'])
def test_a_list_of_anything_else_is_refused(
    members: str, in_file: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    """Exit code 2 and the setting's name."""
    env = in_file(f"drop_labels = {members}")
    done = rayotel_process("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), env=env)
    assert done.returncode == 2
    assert "'drop_labels'" in done.stderr


WRONG = {
    "every metric": ("**", ""),
    "every label": ("", "*"),
    "no label": ("", "ray_hunter2:"),
    "no metric": ("", ":hunter2"),
    "too many": (" ".join(["hunter2"] * (MAX_PATTERNS + 1)), ""),
    "too long": ("", "hunter2" * MAX_PATTERN_CHARACTERS),
    **{f"the label {name}": ("", f"hunter2,{name[:-1]}?") for name in SOURCE_LABELS},
    "a label of some metrics": ("", "hunter2*:[i]nst*"),
}


@pytest.mark.parametrize(("metrics", "labels"), WRONG.values(), ids=WRONG)
def test_patterns_that_cannot_be_meant_are_refused(
    metrics: str, labels: str, tmp_path: Path
) -> None:
    """A server does not start: exit code 2, the setting's name, and never the pattern."""
    with pytest.raises(UsageError):
        patterns(metrics, labels)
    env = {"RAYOTEL_DROP_METRICS": metrics, "RAYOTEL_DROP_LABELS": labels}
    data = tmp_path / "data"
    done = rayotel_process("serve", "--port", "0", "--data-dir", str(data), env=env)
    assert done.returncode == 2, done.stderr
    assert f"'drop_{'metrics' if metrics else 'labels'}'" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not data.exists()


@few
@given(
    st.lists(st.text("ab*?[]!-^\\\\&|~_", min_size=1, max_size=8), min_size=1, max_size=5),
    st.lists(st.text("ab[]!-^\\\\&|~_", max_size=5), min_size=20, max_size=20),
)
def test_any_text_is_a_pattern(patterns: list[str], names: list[str]) -> None:
    """One expression of all says what the standard library says of each."""
    drops = Drops(patterns)
    for name in (*names, *patterns):
        drop = drops.metric(name)
        assert (drop and drop.pattern) == Dropping(tuple(patterns)).of_metric(name)


def test_patterns_match_whole_names_in_their_case() -> None:
    """As fnmatch.fnmatchcase does; the first that matches is the one that is named."""
    drops = patterns("ray_grpc_*,ray_* [!r]*_created", "Version  ray_*:p?d x:y:z")
    by_name = {
        "ray_grpc_x": "ray_grpc_*", "ray_x": "ray_*", "Ray_x": None, "a_created": "[!r]*_created",
        "a_created_": None, "a\nb_created": "[!r]*_created",
    }  # fmt: skip
    found = {name: drops.metric(name) for name in by_name}
    assert {name: one and one.pattern for name, one in found.items()} == by_name
    for metric, key, pattern in (
        ("ray_x", "pid", "ray_*:p?d"), ("ray_x", "Version", "Version"), ("other", "pid", None),
        ("other", "version", None), ("x:y", "z", "x:y:z"), ("x", "y:z", None),
    ):  # fmt: skip
        labels = drops.labels_of(metric)
        one = labels and labels.of(key)
        assert (one and one.pattern) == pattern
