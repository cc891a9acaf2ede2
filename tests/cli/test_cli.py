"""The `rayotel` command: exit codes, streams of output, settings. Real processes: tests/system."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rayotel import __version__
from rayotel.cli.main import cli
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.query.ray import questions
from support.command import rayotel
from support.harness import gauge_request
from support.lakes import write

Done = subprocess.CompletedProcess[str]
MINUTE_NANO = 60 * 10**9
SECRET = "hunter2-SWORDFISH"


def succeeded(done: Done) -> str:
    """The data of a command that must have worked, without words of trouble."""
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    return done.stdout


def failed(done: Done, code: int, *words: str) -> None:
    """A command must have failed with this code and these words, no data and no traceback."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def recent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data directory with points of 30, 80 and 100 minutes ago, whose values say so."""
    data_dir = tmp_path_factory.mktemp("recent") / "data"
    lake = open_storage(str(data_dir / "lake"))
    for number, minutes in enumerate((30, 80, 100), 1):
        at = time.time_ns() - minutes * MINUTE_NANO
        write(lake, gauge_request(minutes, time_unix_nano=at, Name="f"), first=number)
    return str(data_dir)


VALUES = "SELECT data_point_value::INT AS v FROM raymetrics ORDER BY v"


def values(data_dir: str, *options: str) -> list[int]:
    """The values that a range has."""
    answer = rayotel("query", VALUES, "--data-dir", data_dir, "--format", "json", *options)
    return [row["v"] for row in json.loads(succeeded(answer))]


# -- questions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1 AS a", "-- a comment\nSELECT 1 AS a", "--\tone\nSELECT 1 AS a", "SELECT 1 AS a;"],
)
def test_sql_comes_from_the_argument(recent: str, sql: str) -> None:
    """Also SQL that begins with a comment, which is no option."""
    done = rayotel("query", sql, "--format", "ndjson", "--data-dir", recent)
    assert json.loads(succeeded(done)) == {"a": 1}
    assert done.stderr == ""


def test_sql_comes_from_a_file_or_standard_input(recent: str, tmp_path: Path) -> None:
    """--file, nothing at all, and - are three ways to one answer."""
    file = tmp_path / "q.sql"
    file.write_text("-- ü\nSELECT 'ü' AS a\n", "utf-8")
    common = ("query", "--format", "csv", "--data-dir", recent)
    for done in (
        rayotel(*common, "--file", str(file)),
        rayotel(*common, stdin=file.read_text("utf-8")),
        rayotel(*common, "-", stdin=file.read_text("utf-8")),
    ):
        assert succeeded(done) == "a\nü\n"


def test_a_shipped_question_takes_parameters(recorded_lake: Storage) -> None:
    """--name asks it, --param narrows it."""
    common = ("query", "--name", "task-failures", "--storage", recorded_lake.url)
    done = rayotel(*common, "--param", "task=trans%", "--format", "json")
    assert sum(row["failed_attempts"] for row in json.loads(succeeded(done))) == 12


WRONG_USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "a name that is none": (("query", "--name", "nope"), "task-failures"),
    "a parameter that is none": (("query", "--name", "fleet", "--param", "a=b"), "'a'"),
    "a parameter without a value": (("query", "SELECT 1", "--param", "a"), "NAME=VALUE"),
    "two questions": (("query", "SELECT 1", "--name", "fleet"), "--name"),
    "a file that is not there": (("query", "--file", "/nowhere/q.sql"), "No such file"),
    "a duration that is none": (("query", "SELECT 1", "--since", "1x"), "1h30m"),
    "no duration": (("query", "SELECT 1", "--since", "0s"), "duration"),
    "a time that is none": (("query", "SELECT 1", "--from", "soon"), "2026-11-20"),
    "two beginnings": (("query", "SELECT 1", "--since", "1h", "--from", "now"), "--from"),
    "an end before the beginning": (
        ("query", "SELECT 1", "--from", "2026-11-20", "--to", "2026-11-19"),
        "before it begins",
    ),
    "a format that is none": (("query", "SELECT 1", "--format", "xml"), "ndjson"),
    "an option that is none": (("query", "SELECT 1", "--frobnicate"), "--frobnicate"),
    "a command that is none": (("frobnicate",), "frobnicate"),
    "a question that is none": (("queries", "nope"), "fleet"),
    "a schema of nothing": (("streams", "--schema"), "--schema"),
    "a recording that is none": (("replay", "/nowhere"), "requests.ndjson"),
    "a speed that is none": (("replay", "/nowhere", "--speed", "-1"), "--speed"),
    "another storage": (("streams", "--storage", "gs://b/p"), "s3://"),
}


@pytest.mark.parametrize(("arguments", "word"), WRONG_USAGE.values(), ids=WRONG_USAGE.keys())
def test_wrong_usage_is_said_with_exit_code_2(arguments: tuple[str, ...], word: str) -> None:
    """Words on standard error that help, nothing on standard output."""
    failed(rayotel(*arguments), 2, word)


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("SELECT 1 FORM x", "LINE 1"),
        ("SELECT * FROM nope", "rayotel streams"),
        ("COPY (SELECT 1) TO '/tmp/x'", "--unlocked"),
        ("SELECT error('boom')", "boom"),
        ("", "no SQL"),
    ],
)
def test_a_question_that_fails_has_exit_code_1(recent: str, sql: str, word: str) -> None:
    """The reason is on standard error."""
    failed(rayotel("query", sql, "--data-dir", recent), 1, "error: ", word)


# -- time ranges ----------------------------------------------------------------------------------


def test_a_duration_has_several_units(recent: str) -> None:
    """--since 1h30m is ninety minutes."""
    assert values(recent, "--since", "1h30m") == [30, 80]
    assert values(recent, "--since", "1w2d") == [30, 80, 100]
    assert values(recent, "--since", "60s") == []


def test_a_range_has_a_beginning_and_an_end(recent: str) -> None:
    """--from and --to are moments in any zone, UTC without one; --since counts back from --to."""
    ago = datetime.fromtimestamp(time.time() - 90 * 60, tz=UTC)
    text, zoned = f"{ago:%Y-%m-%dT%H:%M:%S}", ago.astimezone().isoformat()
    assert values(recent, "--from", text) == [30, 80]
    assert values(recent, "--from", zoned, "--to", "now") == [30, 80]
    assert values(recent, "--to", text) == [100]
    assert values(recent, "--to", text, "--since", "15m") == [100]


# -- output ---------------------------------------------------------------------------------------


def test_output_goes_to_a_file_whole_or_not_at_all(recent: str, tmp_path: Path) -> None:
    """A question that fails on its way leaves the file that was there, and nothing beside it."""
    target = tmp_path / "answer.parquet"
    common = ("query", "--data-dir", recent, "--format", "parquet", "--output", str(target))
    assert succeeded(rayotel(*common, VALUES)) == ""
    late = "SELECT if(range = 150000, error('late'), range) AS v FROM range(200000)"
    failed(rayotel(*common, late), 1, "error: ")
    assert pq.read_table(target).to_pydict() == {"v": [30, 80, 100]}
    assert [path.name for path in tmp_path.iterdir()] == ["answer.parquet"]


def test_output_to_a_place_that_is_none_is_wrong_usage(recent: str) -> None:
    """The place is named."""
    done = rayotel("query", "SELECT 1", "--data-dir", recent, "--output", "/nowhere/a.csv")
    failed(done, 2, "/nowhere/a.csv")


def test_an_unlocked_question_may_write(recent: str, tmp_path: Path) -> None:
    """--unlocked gives all of DuckDB."""
    sql = f"COPY ({VALUES}) TO '{tmp_path / 'copy.csv'}'"
    succeeded(rayotel("query", sql, "--unlocked", "--data-dir", recent))
    assert (tmp_path / "copy.csv").read_text() == "v\n30\n80\n100\n"


# -- the other commands ---------------------------------------------------------------------------


def test_every_command_explains_itself() -> None:
    """--help of the whole and of each command, --version."""
    assert succeeded(rayotel("--version")).split()[-1] == __version__
    whole = succeeded(rayotel("--help"))
    for name in cli.commands:
        assert f"\n  {name} " in whole
        assert f" {name} [OPTIONS]" in succeeded(rayotel(name, "--help"))


def test_questions_are_listed_and_shown(recorded_lake: Storage) -> None:
    """`queries` lists each with its question, `queries NAME` prints SQL that can be run."""
    listed = succeeded(rayotel("queries"))
    names = [line.split()[0] for line in listed.splitlines()]
    assert names == [one.name for one in questions.all_queries()]
    assert {"fleet", "node-cpu", "around"} <= set(names)
    assert all(line.endswith("?") for line in listed.splitlines())
    sql = succeeded(rayotel("queries", "scrape-health"))
    common = ("query", "--storage", recorded_lake.url, "--format", "csv")
    by_name, by_sql = rayotel(*common, "--name", "scrape-health"), rayotel(*common, stdin=sql)
    assert succeeded(by_name) == succeeded(by_sql) != ""


def test_streams_are_listed_with_their_times(recent: str, recorded_lake: Storage) -> None:
    """Rows, bytes, files, first and last event, and how long ago that was; a range narrows."""
    common = ("streams", "--data-dir", recent, "--format", "json")
    (row,) = json.loads(succeeded(rayotel(*common)))
    assert (row["stream"], row["rows"]) == ("raymetrics", 3)
    assert row["files"] >= 2
    assert row["bytes"] > 1000
    assert 30 * 60 - 5 < row["lag_seconds"] < 30 * 60 + 600
    (row,) = json.loads(succeeded(rayotel(*common, "--since", "45m")))
    assert row["rows"] == 1
    done = rayotel("streams", "--storage", recorded_lake.url, "--format", "ndjson")
    assert json.loads(succeeded(done))["rows"] == 111_713


def test_a_schema_says_what_columns_hold(recent: str) -> None:
    """Also where the column's name differs from the label's."""
    done = rayotel("streams", "raymetrics", "--schema", "--format", "csv", "--data-dir", recent)
    held = {row["column"]: row["holds"] for row in csv.DictReader(succeeded(done).splitlines())}
    assert held["metric_label_Name"] == "point attribute Name"
    assert held["metric_name"] == "name of the metric"


def test_a_stream_that_is_not_there_is_an_error(recent: str) -> None:
    """The hint says how to list those that are."""
    failed(rayotel("streams", "nope", "--data-dir", recent), 1, "'nope'", "rayotel streams")
    schema = rayotel("streams", "nope", "--schema", "--data-dir", recent)
    failed(schema, 1, "nope", "rayotel streams")
