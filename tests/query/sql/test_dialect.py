"""SQL of other engines: the published queries as they are, reserved words as aliases, no more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayotel.errors import QueryError
from rayotel.lake.storage.interface import Storage
from rayotel.model import TimeRange
from rayotel.query.session import Session
from rayotel.query.sql import dialect
from support.harness import LIMITS
from support.published import CLUSTERS, FAILED_TASKS, NODE_CPU, OBJECT_STORE

Rows = list[dict[str, Any]]
patient = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def session(recorded_lake: Storage) -> Iterator[Session]:
    """A session over the recorded cluster."""
    with Session(recorded_lake, TimeRange(), LIMITS) as opened:
        yield opened


def answer(session: Session, sql: str) -> Rows:
    """All rows."""
    return session.run(sql).rows()


# -- the published queries ------------------------------------------------------------------------


def test_published_cpu_by_node_names_its_nodes(session: Session) -> None:
    """Node metrics have `ip` and no NodeAddress: the query still groups by a node."""
    rows = answer(session, NODE_CPU)
    assert list(rows[0]) == ["minute", "node", "avg_cpu"]
    assert {row["node"] for row in rows} == {"192.0.2.2"}
    assert all(0 < row["avg_cpu"] <= 100 for row in rows)
    minutes = [row["minute"] for row in rows]
    assert minutes == sorted(set(minutes))
    assert all(minute.second == minute.microsecond == 0 for minute in minutes)


def test_published_failed_tasks_group_by_window(session: Session) -> None:
    """`window` is a reserved word in DuckDB: the alias works, ordered as asked."""
    rows = answer(session, FAILED_TASKS)
    assert list(rows[0]) == ["window", "job", "state", "task_count"]
    assert {row["state"] for row in rows} == {"FAILED"}
    assert sum(row["task_count"] for row in rows) > 1000  # running totals, summed over scrapes
    order = [(row["window"], -row["task_count"]) for row in rows]
    assert order == sorted(order)


def test_published_object_store_memory_has_nodes_and_states(session: Session) -> None:
    """Every row names its node and the state of the objects."""
    rows = answer(session, OBJECT_STORE)
    assert list(rows[0]) == ["minute", "node", "object_state", "avg_memory"]
    assert {row["node"] for row in rows} == {"192.0.2.2"}
    assert {"SEALED", "UNSEALED"} <= {row["object_state"] for row in rows}
    assert max(row["avg_memory"] for row in rows) > 1_000_000


def test_published_clusters_are_sessions(session: Session) -> None:
    """One cluster was recorded: one row."""
    (row,) = answer(session, CLUSTERS)
    assert list(row) == ["cluster", "node", "avg_cpu"]
    assert row["cluster"].startswith("session_2026-11-20_")
    assert row["node"] == "192.0.2.2"
    assert 0 < row["avg_cpu"] < 100


# -- reserved words as aliases --------------------------------------------------------------------

# words that stand for a value, or without which nothing is a query
NOT_NAMES = {"as", "default", "false", "from", "null", "select", "true"}
RESERVED = sorted(
    row[0]
    for row in duckdb.execute(
        "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
    ).fetchall()
    if row[0] not in NOT_NAMES
)
TABLE = "(VALUES ('x', 1), ('y', 1), ('y', 2)) AS r(a, b)"
SHAPES = (
    f"SELECT a AS {{}}, count(*) AS n FROM {TABLE} GROUP BY {{}} ORDER BY {{}}",
    f"SELECT a AS {{}}, count(*) AS n FROM {TABLE} GROUP BY {{}} ORDER BY n, {{}} DESC",
    f"SELECT a AS t, b AS {{}} FROM {TABLE} GROUP BY t, {{}} ORDER BY t, {{}}",
)


@pytest.mark.parametrize("word", [*RESERVED, "user", "date", "minute", "WINDOW", "Order"])
def test_a_reserved_word_is_an_alias_that_can_be_grouped_by(session: Session, word: str) -> None:
    """The answer is that of the same query with the alias quoted everywhere."""
    for shape in SHAPES:
        quoted = f'"{word}"'
        expected = answer(session, shape.format(quoted, quoted, quoted))
        assert len(expected) > 1
        assert answer(session, shape.format(word, word, word)) == expected


TEXTS = "'AS window, GROUP BY window; -- ü €'"
SAME_AS_QUOTED = {
    "a window clause beside the alias": """
        SELECT date_trunc('hour', time_unix_nano) AS @, sum(count(*)) OVER w AS n
        FROM raymetrics GROUP BY @ WINDOW w AS (PARTITION BY 1) ORDER BY @""",
    "a window clause over the alias": """
        SELECT metric_type AS @, row_number() OVER w AS n
        FROM raymetrics GROUP BY @ WINDOW w AS (ORDER BY @) ORDER BY n""",
    "two window clauses": """
        SELECT metric_type AS @, row_number() OVER w AS n, rank() OVER v AS r FROM raymetrics
        GROUP BY @ WINDOW w AS (ORDER BY metric_type), v AS (ORDER BY metric_type) ORDER BY @""",
    "a text that looks like it": f"""
        SELECT {TEXTS} AS words, metric_type AS @ FROM raymetrics GROUP BY words, @ ORDER BY @""",
    "comments that look like it": """
        SELECT metric_type AS @ -- AS window GROUP BY window
        /* AS window */ FROM raymetrics /* ü window € */ GROUP BY @ ORDER BY @ -- window""",
    "dollar quotes": """
        SELECT $$ GROUP BY window $$ AS t, metric_type AS @ FROM raymetrics GROUP BY t, @
        ORDER BY @""",
    "names of more bytes than characters": """
        SELECT '日本語' AS "größe €", metric_type AS @ FROM raymetrics GROUP BY "größe €", @
        ORDER BY @""",
    "a quoted name of the same word": """
        SELECT metric_type AS @, 1 AS "window of time" FROM raymetrics GROUP BY @ ORDER BY @""",
    "a table's column": """
        WITH t AS (SELECT metric_type AS @ FROM raymetrics)
        SELECT t.@, count(*) AS n FROM t GROUP BY t.@ ORDER BY t.@""",
    "no space around": "SELECT metric_type AS @,1 AS b FROM raymetrics GROUP BY b,@ ORDER BY(@)",
}


@pytest.mark.parametrize("shape", SAME_AS_QUOTED.values(), ids=SAME_AS_QUOTED.keys())
def test_only_the_alias_is_quoted(session: Session, shape: str) -> None:
    """Clauses, texts, comments and other names of the same letters stay what they are."""
    expected = answer(session, shape.replace("@", '"window"'))
    assert expected
    assert answer(session, shape.replace("@", "window")) == expected


def test_a_case_expression_ends_where_it_ended(session: Session) -> None:
    """`END` closes its CASE beside an alias `end`, `LIMIT` limits beside an alias `limit`."""
    shape = """SELECT CASE WHEN metric_type = 'gauge' THEN 1 ELSE 2 END AS @, count(*) AS #
        FROM raymetrics GROUP BY @ ORDER BY @, # DESC LIMIT 1"""
    expected = answer(session, shape.replace("@", '"end"').replace("#", '"limit"'))
    assert len(expected) == 1
    assert answer(session, shape.replace("@", "end").replace("#", "limit")) == expected


# -- what is wrong stays wrong, what is right stays as it is --------------------------------------


@pytest.mark.parametrize(
    ("sql", "at"),
    [
        ("SELECT 1 FORM raymetrics", 14),
        ("SELECT metric_type AS window FROM raymetrics GROUP BY window window", 54),
        ("SELECT 1 AS window, 'ü' FROM raymetrics GROUP BY window HAVING HAVING 1", 48),
        ("SELECT (1", None),
        ("SELECT 'no end", 7),
    ],
)
def test_wrong_sql_keeps_its_own_error(session: Session, sql: str, at: int | None) -> None:
    """The message and the position are those of the SQL as it was written."""
    with pytest.raises(QueryError) as raised:
        answer(session, sql)
    with pytest.raises(duckdb.Error) as original:
        duckdb.connect().extract_statements(sql)
    assert raised.value.message == str(original.value).strip()
    assert (at is None) or f"LINE 1: {sql}\n{' ' * (8 + at)}^" in raised.value.message


WORDS = ["window", "end", "order", "desc", "group", "limit", "a", "metric_type"]
aliases = st.sampled_from(WORDS) | st.sampled_from([f'"{word}"' for word in WORDS])
expressions = st.sampled_from(
    ["1", "'AS end'", "metric_type", "count(*)", "CASE WHEN true THEN 1 END", "sum(1) OVER ()"]
)


@st.composite
def questions(draw: st.DrawFn) -> str:
    """A SELECT with aliases, some of them reserved words, some quoted; often it does not parse."""
    columns = draw(st.lists(st.tuples(expressions, aliases), min_size=1, max_size=3))
    shown = ", ".join(f"{expression} AS {alias}" for expression, alias in columns)
    clauses = [f"SELECT {shown} FROM (SELECT 'x' AS metric_type)"]
    for clause in ("GROUP BY", "HAVING", "ORDER BY"):
        if draw(st.booleans()):
            clauses.append(f"{clause} {draw(aliases)}")
    if draw(st.booleans()):
        clauses.append(f"LIMIT {draw(st.integers(0, 3))}")
    return draw(st.sampled_from([" ", "\n", " /* end */ "])).join(clauses)


def outcome(ask: Callable[[], Rows]) -> Rows | str:
    """The rows, or the first line of the error."""
    try:
        return ask()
    except (duckdb.Error, QueryError) as error:
        return str(error).splitlines()[0]


@patient
@given(sql=questions())
def test_sql_that_parses_is_never_changed(session: Session, sql: str) -> None:
    """What DuckDB takes, it gets as it is: the same names and rows, or the same error."""
    plain = duckdb.connect()
    try:
        plain.extract_statements(sql)
    except duckdb.ParserException:
        return
    assert outcome(lambda: answer(session, sql)) == outcome(
        lambda: plain.sql(sql).to_arrow_table().to_pylist()
    )


PIECES = [
    "SELECT",
    "1",
    "AS",
    "window",
    "end",
    "order",
    "GROUP",
    "BY",
    ",",
    ";",
    "'",
    '"',
    "--",
    "/*",
    "*/",
    "$$",
    "ü",
    "日本",
    "(",
    ")",
    ".",
    "€",
    "a",
]
pieces = st.sampled_from([*PIECES, "\n", "\u00a0", "\x00"])


@patient
@given(st.lists(pieces, max_size=12).map(" ".join) | st.text(max_size=40))
def test_a_repair_adds_quotes_and_nothing_else(sql: str) -> None:
    """Whatever the text, not a character is lost, moved or changed."""
    repaired = dialect.quote_reserved_aliases(sql, frozenset(RESERVED))
    assert repaired.replace('"', "") == sql.replace('"', "")
    assert repaired.count('"') >= sql.count('"')


@patient
@given(sql=st.lists(pieces, max_size=12).map(" ".join) | st.text(max_size=40))
def test_any_text_is_answered_or_refused(session: Session, sql: str) -> None:
    """Nonsense is a QueryError, never another error."""
    with contextlib.suppress(QueryError):
        answer(session, sql)


def test_text_that_is_no_unicode_is_refused(session: Session) -> None:
    """Bytes of a command line that are not UTF-8 arrive as lone surrogates: a QueryError too."""
    with pytest.raises(QueryError):
        answer(session, "SELECT '\udcff' AS a")
