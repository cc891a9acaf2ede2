"""Rows as they are written: every format read back by another library than the one that wrote."""

from __future__ import annotations

import base64
import csv
import fcntl
import io
import json
import math
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayotel.lake.storage.opening import open_storage
from rayotel.model import TimeRange
from rayotel.query.output import formats
from rayotel.query.session import Session
from support.command import rayotel
from support.harness import LIMITS, RAYOTEL, environment

patient = settings(deadline=None)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session over an empty lake: DuckDB makes the values."""
    storage = open_storage(str(tmp_path_factory.mktemp("lake")))
    with Session(storage, TimeRange(), LIMITS) as opened:
        yield opened


def written(session: Session, sql: str, format_: str) -> bytes:
    """The bytes of an answer in a format."""
    out = io.BytesIO()
    result = session.run(sql)
    formats.STREAMING[format_](result.schema, result.batches(), out)
    return out.getvalue()


def objects(session: Session, sql: str) -> list[dict[str, Any]]:
    """The objects of an answer; JSON and NDJSON must say the same."""
    whole: list[dict[str, Any]] = json.loads(written(session, sql, "json"))
    lines = written(session, sql, "ndjson").splitlines()
    assert [json.loads(line) for line in lines] == whole
    return whole


def cells(session: Session, sql: str) -> list[list[str]]:
    """The lines of an answer in CSV, the header first."""
    text = written(session, sql, "csv").decode()
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def one(session: Session, expression: str) -> Any:
    """One value as JSON has it."""
    return objects(session, f"SELECT {expression} AS v")[0]["v"]


def cell(session: Session, expression: str) -> str:
    """One value as CSV has it."""
    return cells(session, f"SELECT {expression} AS v")[1][0]


# -- values ---------------------------------------------------------------------------------------

VALUES: dict[str, tuple[Any, str]] = {
    "NULL": (None, ""),
    "true": (True, "true"),
    "9223372036854775807": (2**63 - 1, "9223372036854775807"),
    "-9223372036854775808": (-(2**63), "-9223372036854775808"),
    "18446744073709551615::UBIGINT": (2**64 - 1, "18446744073709551615"),
    "170141183460469231731687303715884105727::HUGEINT": (2**127 - 1, str(2**127 - 1)),
    "(SELECT sum(n) FROM (VALUES (9223372036854775807), (1)) AS t(n))": (2**63, str(2**63)),
    "1.50::DECIMAL(4, 2)": (1.5, "1.5"),
    "0.1::DOUBLE": (0.1, "0.1"),
    "1e300::DOUBLE": (1e300, "1e+300"),
    "5e-324::DOUBLE": (5e-324, "5e-324"),
    "'NaN'::DOUBLE": ("NaN", "NaN"),
    "'inf'::DOUBLE": ("Infinity", "Infinity"),
    "'-inf'::FLOAT": ("-Infinity", "-Infinity"),
    "'a \"b\", c; ü 日本 \\ |'": ('a "b", c; ü 日本 \\ |', 'a "b", c; ü 日本 \\ |'),
    "''": ("", ""),
    "'\\x00\\xFF'::BLOB": ("AP8=", "AP8="),
    "TIMESTAMPTZ '2026-11-20 16:00:00.25+01'": ("2026-11-20T15:00:00.250000Z",) * 2,
    "TIMESTAMP '2026-11-20 15:00:00'": ("2026-11-20T15:00:00",) * 2,
    "DATE '2026-11-20'": ("2026-11-20",) * 2,
    "TIME '15:00:00'": ("15:00:00",) * 2,
    "[1, NULL, 3]": ([1, None, 3], "[1, null, 3]"),
    "{'a': 'ü', 'b': [1.5]}": ({"a": "ü", "b": [1.5]}, '{"a": "ü", "b": [1.5]}'),
    "['NaN'::DOUBLE]": (["NaN"], '["NaN"]'),
    "MAP {'k': DATE '2026-11-20'}": ([["k", "2026-11-20"]], '[["k", "2026-11-20"]]'),
    "'6d9f0bb6-63b6-4b3c-a6ab-5f0f2bb0a9e4'::UUID": ("6d9f0bb6-63b6-4b3c-a6ab-5f0f2bb0a9e4",) * 2,
    "'b'::ENUM('a', 'b')": ("b", "b"),
}


@pytest.mark.parametrize("expression", VALUES)
def test_a_value_is_the_same_in_json_and_csv(session: Session, expression: str) -> None:
    """JSON has it as the nearest that JSON has, CSV as its text."""
    as_json, as_text = VALUES[expression]
    assert one(session, expression) == as_json
    assert type(one(session, expression)) is type(as_json)
    assert cell(session, expression) == as_text


@pytest.mark.parametrize("format_", ["json", "csv"])
def test_a_decimal_keeps_its_digits(session: Session, format_: str) -> None:
    """DECIMAL is exact; so is its text."""
    sql = "SELECT 1234567890123456789.123456789::DECIMAL(38, 9) AS v"
    assert b"1234567890123456789.123456789" in written(session, sql, format_)


BEYOND = {
    "'2026-01-01 00:00:00.000000001'::TIMESTAMP_NS": "2026-01-01T00:00:00.000000001",
    "'infinity'::TIMESTAMP": "infinity",
    "'-infinity'::TIMESTAMPTZ": "-infinity",
    "'infinity'::DATE": "infinity",
    "DATE '10000-01-01'": "10000-01-01",
    "TIMESTAMPTZ '10000-01-01 00:00:00+00'": "10000-01-01T00:00:00.000000Z",
}


@pytest.mark.parametrize("expression", BEYOND)
def test_a_moment_beyond_pythons_calendar_is_written(session: Session, expression: str) -> None:
    """What DuckDB can answer, JSON and CSV can write."""
    assert one(session, expression) == cell(session, expression) == BEYOND[expression]


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ("90 SECONDS", "90 seconds"),
        ("'1 month 2 days'", "1 months 2 days"),
        ("0 DAYS", "0 seconds"),
        ("1234567 SECONDS", "1234567 seconds"),
        ("'3 hours 0.123456 seconds'", "10800.123456 seconds"),
    ],
)
def test_an_interval_is_text_with_units(session: Session, interval: str, text: str) -> None:
    """A difference of two moments says its units and keeps its digits."""
    assert one(session, f"INTERVAL {interval}") == text
    sql = f"SELECT INTERVAL {interval} AS v"
    assert pq.read_table(io.BytesIO(written(session, sql, "parquet"))).to_pylist() == [{"v": text}]


@pytest.mark.parametrize(
    ("expression", "format_"),
    [
        ("['infinity'::DATE]", "json"),
        ("{'a': 'infinity'::TIMESTAMP}", "csv"),
        ("[INTERVAL 90 SECONDS]", "json"),
        ("{'a': INTERVAL 90 SECONDS}", "csv"),
        ("[INTERVAL 90 SECONDS]", "parquet"),
    ],
)
def test_values_inside_others_are_written_like_them(
    session: Session, expression: str, format_: str
) -> None:
    """A list or struct of moments and intervals holds their texts."""
    content = written(session, f"SELECT {expression} AS v", format_)
    assert format_ == "parquet" or b"infinity" in content or b"90 seconds" in content


@pytest.mark.parametrize("format_", formats.STREAMING)
@pytest.mark.parametrize(
    "values",
    [
        '* EXCLUDE ("union") FROM test_all_types()',
        "[{'a': INTERVAL 90 SECONDS}, NULL], [NULL, [INTERVAL 1 DAY], []], NULL::INTERVAL",
    ],
)
def test_every_type_can_be_written(session: Session, values: str, format_: str) -> None:
    """All of DuckDB's types with their extremes, and types inside types."""
    assert written(session, f"SELECT {values}", format_)


@pytest.mark.xfail(strict=True, reason="docs/guarantees.md, known limits: maps and unions")
@pytest.mark.parametrize(
    ("values", "format_"),
    [
        ("MAP {'a': 'infinity'::DATE}", "json"),
        ("['infinity'::DATE]::DATE[1]", "csv"),
        ("union_value(a := 'infinity'::DATE)", "json"),
        ("union_value(a := 1)", "parquet"),
        ("MAP {'a': INTERVAL 90 SECONDS}", "parquet"),
    ],
)
def test_maps_arrays_and_unions_can_be_written(session: Session, values: str, format_: str) -> None:
    """They hold what a column can hold."""
    assert written(session, f"SELECT {values} AS v", format_)


@pytest.mark.xfail(strict=True, reason="docs/guarantees.md, known limits: the last day")
def test_the_last_day_of_duckdb_is_written(session: Session) -> None:
    """A date that Arrow cannot spell is at least no nonsense."""
    assert "valueTout" not in cell(session, "(SELECT max(date) FROM test_all_types())")


@patient
@given(st.lists(st.lists(st.none() | st.text(), min_size=2, max_size=2), max_size=5))
def test_any_text_survives(rows: list[list[str | None]]) -> None:
    """Quotes, commas, line breaks, NUL and emoji come back as they were; null is empty in CSV."""
    fields = pa.schema([("a", pa.string()), ("b", pa.string())])
    columns = [[row[n] for row in rows] for n in range(2)]
    batches = pa.table([pa.array(c, pa.string()) for c in columns], schema=fields).to_batches()
    out = io.BytesIO()
    formats.write_csv(fields, batches, out)
    read = list(csv.reader(io.StringIO(out.getvalue().decode(), newline=""), strict=True))
    assert read == [["a", "b"], *[[text or "" for text in row] for row in rows]]
    out = io.BytesIO()
    formats.write_ndjson(fields, batches, out)
    lines = out.getvalue().decode().split("\n")[:-1]
    assert [list(json.loads(line).values()) for line in lines] == rows


@patient
@given(st.lists(st.floats(), min_size=1, max_size=5))
def test_any_double_survives(values: list[float]) -> None:
    """A double read back from JSON or CSV is the same double, also -0.0 and what is no number."""
    table = pa.table({"v": pa.array(values, pa.float64())})
    for write, read in ((formats.write_ndjson, _from_ndjson), (formats.write_csv, _from_csv)):
        out = io.BytesIO()
        write(table.schema, table.to_batches(), out)
        again = read(out.getvalue().decode())
        assert [struct.pack(">d", v) for v in again if not math.isnan(v)] == [
            struct.pack(">d", v) for v in values if not math.isnan(v)
        ]
        assert [math.isnan(v) for v in again] == [math.isnan(v) for v in values]


def _from_ndjson(text: str) -> list[float]:
    return [float(json.loads(line)["v"]) for line in text.splitlines()]


def _from_csv(text: str) -> list[float]:
    return [float(line) for line in text.splitlines()[1:]]


# -- rows -----------------------------------------------------------------------------------------

NOTHING = "SELECT 1 AS a, 'x' AS b WHERE false"


def test_no_rows_are_an_empty_result_not_nothing(session: Session) -> None:
    """Every format says that the answer is empty, and which columns it would have had."""
    assert json.loads(written(session, NOTHING, "json")) == []
    assert written(session, NOTHING, "ndjson") == b""
    assert cells(session, NOTHING) == [["a", "b"]]
    assert written(session, NOTHING, "markdown").decode().splitlines() == [
        "| a | b |",
        "| --- | --- |",
    ]
    table = pq.read_table(io.BytesIO(written(session, NOTHING, "parquet")))
    assert (table.column_names, table.num_rows) == (["a", "b"], 0)


def test_many_rows_are_one_result(session: Session) -> None:
    """Rows of many batches stay in order and are well-formed together."""
    sql = "SELECT range AS n, 'x' || range AS t FROM range(20000)"
    assert [row["n"] for row in objects(session, sql)] == list(range(20_000))
    assert [line[1] for line in cells(session, sql)[1:]] == [f"x{n}" for n in range(20_000)]
    assert pq.read_table(io.BytesIO(written(session, sql, "parquet"))).num_rows == 20_000
    assert len(written(session, sql, "markdown").splitlines()) == 20_002


def test_columns_of_one_name_are_all_there(session: Session) -> None:
    """A join of two tables has two columns `a`: both are written."""
    sql = "SELECT 1 AS a, 2 AS a, 3 AS b, 4 AS a"
    assert objects(session, sql) == [{"a": 1, "a_1": 2, "b": 3, "a_2": 4}]
    assert cells(session, sql) == [["a", "a", "b", "a"], ["1", "2", "3", "4"]]
    table = pq.ParquetFile(io.BytesIO(written(session, sql, "parquet"))).read()
    assert [column.to_pylist() for column in table.columns] == [[1], [2], [3], [4]]


def test_a_made_up_name_hides_no_column(session: Session) -> None:
    """`a`, `a` and `a_1`: three columns are three members."""
    (row,) = objects(session, "SELECT 1 AS a, 2 AS a, 3 AS a_1")
    assert sorted(row.values()) == [1, 2, 3]


def test_parquet_keeps_types_and_values(session: Session) -> None:
    """What DuckDB answers is what Parquet holds, nulls and nanoseconds included."""
    sql = """SELECT 1::TINYINT AS i, 'NaN'::DOUBLE AS d, NULL::VARCHAR AS n, [1, 2] AS l,
        TIMESTAMPTZ '2026-11-20 15:00:00.000001+00' AS t, '\\x00'::BLOB AS b,
        '2026-11-20 15:00:00.000000001'::TIMESTAMP_NS AS ns"""
    table = pq.read_table(io.BytesIO(written(session, sql, "parquet")))
    types = {field.name: str(field.type) for field in table.schema}
    assert types["t"] == "timestamp[us, tz=UTC]"
    assert (types["i"], types["d"], types["n"], types["b"]) == (
        "int8",
        "double",
        "string",
        "binary",
    )
    assert table["ns"].cast(pa.int64()).to_pylist()[0] % 1000 == 1
    values = table.drop_columns(["ns", "t", "d"]).to_pylist()
    assert values == [{"i": 1, "n": None, "l": [1, 2], "b": b"\0"}]
    assert math.isnan(table["d"].to_pylist()[0])


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "a\nb",
        "\\|",
        "`code`",
        "a\rb",
        "a\r\nb",
    ],
)
def test_a_cell_of_markdown_stays_one_cell(session: Session, text: str) -> None:
    """Whatever is in it, a row is a line with as many cells as there are columns."""
    sql = f"SELECT {literal(text)} AS t, 7 AS n"
    lines = re.split(r"\r\n|\r|\n", written(session, sql, "markdown").decode())
    assert lines[:2] == ["| t | n |", "| --- | --- |"]
    assert lines[3:] == [""]
    unescaped = re.sub(r"\\[\\|]", "", lines[2])
    assert unescaped.count("|") == 3
    assert unescaped.endswith("| 7 |")


def literal(text: str) -> str:
    """Any text as an expression of SQL."""
    return f"decode(from_base64('{base64.b64encode(text.encode()).decode()}'))"


# -- tables ---------------------------------------------------------------------------------------


def on_a_terminal(columns: int, *arguments: str) -> list[str]:
    """The lines of a command's output on a terminal so wide, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {**environment({"TERM": "xterm"}), "COLUMNS": str(columns)}
    with subprocess.Popen([*RAYOTEL, *arguments], stdout=theirs, stdin=theirs, env=env) as process:
        os.close(theirs)
        said = b""
        while piece := _read(ours):
            said += piece
    os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()).splitlines()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other side is closed
        return b""


WIDE = "SELECT repeat('wide ', 30) AS a, repeat('w', 200) AS b, 1.0::DOUBLE AS n, now() AS t"


@pytest.mark.system
def test_a_table_fits_a_terminal(tmp_path: Path) -> None:
    """On 80 columns nothing runs over, and nothing is cut off."""
    lines = on_a_terminal(80, "query", WIDE, "--data-dir", str(tmp_path))
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("w") >= 200 + 30
    assert "…" not in "".join(lines)


def test_a_table_in_a_pipe_has_a_line_per_row(tmp_path: Path) -> None:
    """Without a terminal there is no width to fit: rows can be searched line by line."""
    done = rayotel("query", f"{WIDE}, 'end' AS e", "--data-dir", str(tmp_path))
    (line,) = [line for line in done.stdout.splitlines() if "w" * 200 in line]
    assert line.rstrip().endswith("end")
    assert "\x1b" not in done.stdout


def test_a_table_shows_values_for_the_eye(tmp_path: Path) -> None:
    """Whole doubles without a fraction, moments without the T, nothing for null."""
    sql = (
        "SELECT 3.0::DOUBLE AS n, TIMESTAMPTZ '2026-11-20 15:00:00+00' AS t, NULL AS z, '[b]' AS m"
    )
    done = rayotel("query", sql, "--data-dir", str(tmp_path))
    assert done.stdout.splitlines()[3].split() == ["3", "2026-11-20", "15:00:00Z", "[b]"]


def test_a_table_of_too_many_rows_says_so(tmp_path: Path) -> None:
    """A table ends after 10,000 rows, in words on standard error; other formats have all."""
    ask = ("query", "FROM range(10001)", "--data-dir", str(tmp_path))
    table, everything = rayotel(*ask), rayotel(*ask, "--format", "csv")
    assert "only the first 10000 rows" in table.stderr
    assert [line.strip() for line in table.stdout.splitlines() if line.strip()][-1] == "9999"
    assert (len(everything.stdout.splitlines()), everything.stderr) == (10_002, "")
