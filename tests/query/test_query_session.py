"""Sessions over small lakes of both kinds: views, time ranges, values, limits, errors."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayotel.errors import LakeError, QueryError, StorageMissing
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import TimeRange
from rayotel.query.process.limits import Limits
from rayotel.query.session import Session
from support.harness import LIMITS, ask, wait_until
from support.lakes import T0, gauge, part_name, write

SECOND, MINUTE, HOUR = 10**9, 60 * 10**9, 3600 * 10**9
_numbers = itertools.count()


@pytest.fixture(scope="module", params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Opens empty lakes of one kind, all in one directory or bucket."""
    if request.param == "directory":
        root = tmp_path_factory.mktemp("lakes")
        return lambda: open_storage(str(root / f"lake-{next(_numbers)}"))
    url, directory = request.getfixturevalue("s3")
    (directory / "sessions").mkdir()
    return lambda: open_storage(f"s3://sessions/{next(_numbers)}", s3_endpoint=url)


@pytest.fixture
def lake(place: Any) -> Iterator[Storage]:
    """An empty lake."""
    storage: Storage = place()
    wait_until(lambda: is_there(storage))
    yield storage
    storage.close()


def is_there(storage: Storage) -> bool:
    """Whether the server knows the bucket: rclone sees one made behind its back within a second."""
    with contextlib.suppress(StorageMissing):
        storage.folders("")
        return True
    return False


def values(storage: Storage, range_: TimeRange | None = None) -> list[float]:
    """Every value of `raymetrics` in the range, sorted."""
    found = ask(storage, "SELECT data_point_value AS v FROM raymetrics ORDER BY v", range_)
    return [row["v"] for row in found]


# -- views and time ranges ------------------------------------------------------------------------


def test_every_stream_is_a_table_of_its_name(lake: Storage) -> None:
    """One view per stream; what only looks like one is none."""
    write(lake, gauge(1))
    write(lake, gauge(2), stream="other-stream")
    lake.put("not a stream/x", memoryview(b"x"))
    assert [row["name"] for row in ask(lake, "SHOW TABLES")] == ["other-stream", "raymetrics"]
    assert ask(lake, 'SELECT data_point_value AS v FROM "other-stream"') == [{"v": 2}]


def test_a_lake_without_streams_answers(lake: Storage) -> None:
    """An empty lake is no error, a table that is not there is one with a hint."""
    assert ask(lake, "SELECT 1 AS a") == [{"a": 1}]
    with pytest.raises(QueryError, match="raymetrics does not exist") as raised:
        ask(lake, "SELECT * FROM raymetrics")
    assert "rayotel streams" in str(raised.value.hint)


def test_a_range_begins_with_its_start_and_ends_before_its_end(lake: Storage) -> None:
    """Points are filtered inside the hour: the start is in, the end is out."""
    write(lake, *(gauge(n, at=T0 + n * MINUTE) for n in range(5)))
    assert values(lake, TimeRange(T0 + MINUTE, T0 + 3 * MINUTE)) == [1, 2]
    assert values(lake, TimeRange(T0 + 3 * MINUTE, None)) == [3, 4]
    assert values(lake, TimeRange(None, T0 + MINUTE)) == [0]


def test_parts_of_hours_outside_the_range_are_not_opened(lake: Storage) -> None:
    """A damaged part of another hour disturbs only those who ask for its hour."""
    write(lake, gauge(1))
    write(lake, gauge(2), stream="healthy")
    for hour in (T0 // HOUR - 1, T0 // HOUR + 1):
        garbage = part_name(1, stream="raymetrics", hour=hour, receiver="0" * 12)
        lake.put(garbage.key, memoryview(b"garbage that is no Parquet"))
    assert values(lake, TimeRange(T0, T0 + HOUR)) == [1]
    assert ask(lake, "SELECT count(*) AS n FROM healthy") == [{"n": 1}]
    with pytest.raises(LakeError, match="hour=14"):
        values(lake, TimeRange(T0 - 1, T0 + HOUR))


def test_points_of_several_hours_and_days_are_one_table(lake: Storage) -> None:
    """Hours are directories; a question spans them."""
    write(lake, *(gauge(n, at=T0 + n * HOUR) for n in range(10)))
    assert values(lake) == list(range(10))
    assert values(lake, TimeRange(T0 + 8 * HOUR, T0 + 10 * HOUR)) == [8, 9]


def test_a_covered_part_is_not_counted(lake: Storage) -> None:
    """Between the writing of a bigger part and the removal of what it covers, points count once."""
    write(lake, gauge(1), first=1)
    write(lake, gauge(2), first=2)
    write(lake, gauge(3), first=3)
    write(lake, gauge(1), gauge(2), first=1, last=2, level=1)
    assert values(lake) == [1, 2, 3]


def test_a_session_sees_the_lake_as_it_was_when_it_opened(lake: Storage) -> None:
    """One listing per session: what is committed later is for the next one."""
    write(lake, gauge(1), first=1)
    with Session(lake, TimeRange(), LIMITS) as session:
        write(lake, gauge(2), first=2)
        counted = session.run("SELECT count(*) AS n FROM raymetrics").rows()
    assert counted == [{"n": 1}]
    assert values(lake) == [1, 2]


# -- columns and values ---------------------------------------------------------------------------


def test_parts_with_different_labels_are_one_table(lake: Storage) -> None:
    """A label that a part does not have is null in its rows."""
    write(lake, gauge(1, a="x"), first=1)
    write(lake, gauge(2, b="y"), first=2)
    found = ask(lake, "SELECT metric_a AS a, metric_b AS b FROM raymetrics ORDER BY a")
    assert found == [{"a": "x", "b": None}, {"a": None, "b": "y"}]


def test_labels_that_differ_only_in_case_are_one_column(lake: Storage) -> None:
    """Engines cannot tell them apart, so whichever spelling is asked for has all of them."""
    requests = (gauge(0, Pod="Pod"), gauge(1, pod="pod"), gauge(2, POD="POD"))
    for number, request in enumerate(requests):
        write(lake, request, first=number + 1)
    found = ask(lake, "SELECT metric_pod, metric_Pod AS b FROM raymetrics ORDER BY metric_POD")
    assert [row["b"] for row in found] == ["POD", "Pod", "pod"]
    assert all(len(set(row.values())) == 1 for row in found)


def test_a_stream_without_data_in_the_range_keeps_its_columns(lake: Storage) -> None:
    """A question about a quiet hour is answered with no rows, not with an error."""
    write(lake, gauge(1, pod="x"))
    sql = "SELECT metric_pod, time_unix_nano FROM raymetrics"
    assert ask(lake, sql, TimeRange(T0 + HOUR, T0 + 2 * HOUR)) == []
    assert len(ask(lake, sql)) == 1


def test_a_stream_whose_parts_are_all_gone_has_the_fixed_columns(lake: Storage) -> None:
    """After retention took everything, a stream can still be asked."""
    lake.put("raymetrics/notes.txt", memoryview(b"x"))
    sql = "SELECT metric_name, data_point_exemplars, data_point_bucket_counts FROM raymetrics"
    assert ask(lake, sql) == []


def test_rays_labels_are_there_in_a_stream_that_never_saw_them(lake: Storage) -> None:
    """The published queries name labels; where none came they are null."""
    write(lake, gauge(1))
    names = "metric_NodeAddress metric_SessionName metric_JobId metric_State metric_ObjectState"
    columns = [*names.split(), "metric_Location", "metric_label_Name", "metric_instance"]
    columns += ["metric_cluster_id", "cluster_id", "metric_IsRetry", "metric_ip"]
    found = ask(lake, f"SELECT {', '.join(columns)} FROM raymetrics")
    assert found == [dict.fromkeys(columns)]


def test_a_label_called_name_does_not_hide_the_metrics_name(lake: Storage) -> None:
    """Ray's `Name` is `metric_label_Name`, also for an engine that ignores case."""
    write(lake, gauge(1, name="ray_tasks", Name="f"))
    found = ask(lake, "SELECT metric_Name AS metric, metric_label_Name AS task FROM raymetrics")
    assert found == [{"metric": "ray_tasks", "task": "f"}]


def test_an_address_is_filled_from_ip_only_where_there_is_none(lake: Storage) -> None:
    """Ray's node metrics have `ip` and no `NodeAddress`; an empty label is an absent one."""
    write(lake, gauge(1, ip="10.0.0.1"), gauge(2, NodeAddress="", ip="10.0.0.2"), first=1)
    write(lake, gauge(3, NodeAddress="node", ip="10.0.0.3"), gauge(4), first=2)
    sql = "SELECT metric_NodeAddress AS node FROM raymetrics ORDER BY data_point_value"
    assert [row["node"] for row in ask(lake, sql)] == ["10.0.0.1", "10.0.0.2", "node", None]


OF_THE_EVENT = (
    "date_trunc('minute', t) = '2026-11-20 15:01:00+00'",
    "t < now() + INTERVAL 100 YEARS",
    "t > TIMESTAMP '2026-11-20 15:01:00'",
    "t < TIMESTAMPTZ '2026-11-20 16:02:00+01:00'",
    "t BETWEEN '2026-11-20 15:01:01' AND '2026-11-20T15:01:02Z'",
    "t::DATE = '2026-11-20'",
    "t - INTERVAL 1 MINUTE < '2026-11-20 15:00:02'",
    "extract(hour FROM t) = 15",
    "t::VARCHAR LIKE '2026-11-20 15:01:01.123%+00'",
)
OF_THE_ARRIVAL = (
    "date_trunc('day', t) = '2026-11-21'",
    "t < now() + INTERVAL 100 YEARS",
    "t = TIMESTAMPTZ '2026-11-21 02:00:00+01:00'",
    "t::VARCHAR = '2026-11-21 01:00:00+00'",
)


@pytest.mark.parametrize(
    ("column", "truths"), [("time_unix_nano", OF_THE_EVENT), ("p_timestamp", OF_THE_ARRIVAL)]
)
def test_times_behave_as_times(lake: Storage, column: str, truths: tuple[str, ...]) -> None:
    """date_trunc, now(), strings, literals of every kind and intervals work; shown in UTC."""
    write(lake, gauge(1, at=T0 + 61 * SECOND + 123_456_789))
    for truth in truths:
        found = ask(lake, f"SELECT {truth} AS holds FROM (SELECT {column} AS t FROM raymetrics)")
        assert found == [{"holds": True}], truth


def test_times_in_the_file_are_microseconds(lake: Storage) -> None:
    """Every engine reads them as SQL does here; what is less than a microsecond is cut off."""
    (key,) = write(lake, gauge(1, at=T0 + 123_456_789))
    table = pq.read_table(io.BytesIO(lake.read(key)))
    assert table["time_unix_nano"].cast(pa.int64()).to_pylist() == [(T0 + 123_456_789) // 1000]
    assert str(table.schema.field("time_unix_nano").type) == "timestamp[us, tz=UTC]"


def test_values_that_are_no_numbers_stay_what_they_are(lake: Storage) -> None:
    """NaN and infinities are neither null nor zero."""
    write(lake, gauge(math.inf, -math.inf, -0.0, 5e-324, math.nan))
    found = ask(lake, "SELECT data_point_value AS v FROM raymetrics")
    assert [repr(row["v"]) for row in found] == ["inf", "-inf", "-0.0", "5e-324", "nan"]


def test_streams_whose_names_differ_only_in_case_break_nothing(lake: Storage) -> None:
    """SQL cannot tell them apart: a session opens all the same, and other streams answer."""
    for stream in ("Jobs", "jobs", "raymetrics"):
        write(lake, gauge(1), stream=stream)
    assert ask(lake, "SELECT count(*) AS n FROM jobs") == [{"n": 1}]
    assert ask(lake, "SELECT count(*) AS n FROM \"raymetrics\" WHERE metric_name <> 'jobs'")


def test_parameters_are_values_not_sql(lake: Storage) -> None:
    """A parameter is bound; quotes in it mean nothing."""
    write(lake, gauge(1, pod="o'x"), gauge(2, pod="y"))
    with Session(lake, TimeRange(), LIMITS) as session:
        sql = "SELECT data_point_value AS v FROM raymetrics WHERE metric_pod = $pod"
        assert session.run(sql, {"pod": "o'x"}).rows() == [{"v": 1}]
        assert session.run(sql, {"pod": "' OR true --"}).rows() == []


def test_a_parameter_of_another_type_is_named(lake: Storage) -> None:
    """Whoever gives several sees which one is wrong."""
    with Session(lake, TimeRange(), LIMITS) as session, pytest.raises(QueryError) as raised:
        session.run("SELECT $a AS a LIMIT $limit", {"a": "x", "limit": "abc"})
    assert "parameter 'limit'" in str(raised.value.hint)


# -- limits and errors ----------------------------------------------------------------------------


def test_a_query_that_runs_too_long_is_ended(lake: Storage) -> None:
    """It ends in time, the hint names the setting, and the session can be asked again."""
    limits = Limits(memory_bytes=1 << 30, threads=2, timeout_seconds=0.5)
    with Session(lake, TimeRange(), limits) as session:
        with pytest.raises(QueryError, match=r"longer than 0\.5 seconds") as raised:
            session.run("SELECT count(*) FROM range(100000000) AS a, range(100000000) AS b").rows()
        assert "RAYOTEL_QUERY_TIMEOUT_SECONDS" in str(raised.value.hint)
        assert session.run("SELECT 1 AS a").rows() == [{"a": 1}]


def test_after_a_timeout_other_errors_are_themselves_again(tmp_path: Path) -> None:
    """One question that ran too long does not make the next one late."""
    limits = Limits(memory_bytes=1 << 30, threads=2, timeout_seconds=3)
    with Session(open_storage(str(tmp_path)), TimeRange(), limits) as session:
        with pytest.raises(QueryError, match="longer than"):
            session.run("SELECT count(*) FROM range(100000000) a, range(100000000) b").rows()
        with pytest.raises(QueryError) as raised:
            session.run("SELECT if(range = 199999, error('x'), range) FROM range(200000)").rows()
    assert "longer than" not in raised.value.message


def test_a_query_that_needs_too_much_memory_is_ended(lake: Storage) -> None:
    """The error's hint names the setting."""
    limits = Limits(memory_bytes=64 << 20, threads=2, timeout_seconds=600)
    with Session(lake, TimeRange(), limits) as session:
        with pytest.raises(QueryError, match="Out of Memory") as raised:
            session.run("SELECT list(range) AS everything FROM range(100000000)").rows()
        assert "RAYOTEL_QUERY_MEMORY_BYTES" in str(raised.value.hint)


def test_nothing_remains_of_a_session(
    lake: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What DuckDB spilled is removed, after a failure too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    write(lake, gauge(1))
    limits = Limits(memory_bytes=64 << 20, threads=2, timeout_seconds=30)
    with Session(lake, TimeRange(), limits) as session:
        assert len(list(tmp_path.iterdir())) == 1
        with pytest.raises(QueryError):
            session.run("SELECT * FROM range(100000000) ORDER BY hash(range) OFFSET 1").rows()
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_nobody_reads_leaves_nothing_behind(lake: Storage) -> None:
    """Closing a session also ends the clock of its last question."""
    limits = Limits(memory_bytes=64 << 20, threads=2, timeout_seconds=3600)
    with Session(lake, TimeRange(), limits) as session:
        session.run("SELECT 1")
    wait_until(lambda: not any(isinstance(one, threading.Timer) for one in threading.enumerate()))


def test_a_part_that_went_away_is_no_matter_of_permission(tmp_path: Path) -> None:
    """Retention or compaction may remove a part of an open session: the error does not mislead."""
    storage = open_storage(str(tmp_path / "lake"))
    (key,) = write(storage, gauge(1))
    with Session(storage, TimeRange(), LIMITS) as session:
        storage.delete(key)
        with pytest.raises(QueryError) as raised:
            session.run("SELECT count(*) FROM raymetrics").rows()
    assert "Permission" not in raised.value.message
    assert "--unlocked" not in str(raised.value.hint)


def test_an_error_on_the_way_is_not_taken_for_a_timeout(tmp_path: Path) -> None:
    """Only what ran too long is said to have run too long; a race, so it is asked many times."""
    sql = "SELECT if(range = 150000, error('late'), range) AS v FROM range(200000)"
    for _ in range(200):
        storage = open_storage(str(tmp_path))
        with Session(storage, TimeRange(), LIMITS, mentioned_in=sql) as session:
            with pytest.raises(QueryError) as raised:
                session.run(sql).rows()
            assert "longer than" not in raised.value.message


def test_a_type_that_arrow_does_not_know_is_refused(tmp_path: Path) -> None:
    """An answer that cannot be passed on is a QueryError that names the type."""
    with pytest.raises(QueryError, match="VARIANT"):
        ask(open_storage(str(tmp_path)), "SELECT 1::VARIANT AS v")


lost = pytest.mark.xfail(strict=True, reason="docs/guarantees.md, known limits: the caret")


@pytest.mark.parametrize(
    ("sql", "column"),
    [
        ("SELECT 1 FORM raymetrics", 14),
        ("SELECT metric_nme FROM raymetrics", 7),
        ("SELECT 1 + lenth('x')", 11),
        ("SELECT 1 FROM raymetric", 14),
        pytest.param("SELECT   'x'::INT AS a", 12, marks=lost),
    ],
)
def test_an_error_points_at_its_place(lake: Storage, sql: str, column: int) -> None:
    """The message shows the line as it was written and a caret below the place."""
    write(lake, gauge(1))
    with pytest.raises(QueryError) as raised:
        ask(lake, sql)
    lines = raised.value.message.splitlines()
    shown = next((n for n, line in enumerate(lines) if line == f"LINE 1: {sql}"), None)
    assert shown is not None, lines
    assert lines[shown + 1].index("^") - len("LINE 1: ") == column
