"""Every function of the installed DuckDB is decided: a question may call it, or it is refused."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from rayotel.errors import QueryError
from rayotel.query.ray import definitions
from rayotel.query.sql import functions, guard, syntax

TABLE_KINDS = "('table', 'table_macro')"


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that is locked as those of questions are."""
    with duckdb.connect() as opened:
        opened.execute("SET enable_external_access = false")
        opened.execute("SET lock_configuration = true")
        yield opened


def names(connection: duckdb.DuckDBPyConnection, where: str) -> set[str]:
    """Functions of this DuckDB."""
    rows = connection.execute(f"SELECT function_name FROM duckdb_functions() WHERE {where}")
    return {name for (name,) in rows.fetchall()}


def test_every_table_function_is_decided(connection: duckdb.DuckDBPyConnection) -> None:
    """A DuckDB with another table function needs a decision, and till then it is refused."""
    known = names(connection, f"function_type IN {TABLE_KINDS}")
    undecided = known - functions.ALLOWED_TABLE_FUNCTIONS - functions.REFUSED_TABLE_FUNCTIONS
    assert undecided == set()
    assert not functions.ALLOWED_TABLE_FUNCTIONS & functions.REFUSED_TABLE_FUNCTIONS


# forms in which a table function can be called; the last two have no tree
CALLS = (
    "FROM {}()", "SELECT * FROM {}('x')", 'FROM "{}"()', 'FROM main."{}" /* " */ (1)',
    "WITH a AS MATERIALIZED (FROM {}()) FROM a", "SELECT (SELECT 1 FROM {}(1))",
    "DESCRIBE FROM {}()", "SUMMARIZE FROM {}()", "EXPLAIN FROM {}()", "EXPLAIN ANALYZE FROM {}()",
    "FROM range(1) a, LATERAL (FROM {}(a.range))", "SELECT 1 WHERE EXISTS (FROM {}())",
    "FROM range(1) UNION ALL FROM {}()", "-- x\nFROM {}--()\n()", "VALUES ((SELECT 1 FROM {}()))",
    "PIVOT (FROM {}/**/('x')) ON a", 'FROM (PIVOT (FROM "{}" /* " */ ()) ON a)',
)  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_table_function_that_is_not_allowed_is_refused(
    connection: duckdb.DuckDBPyConnection, call: str
) -> None:
    """All of them, wherever they stand, in any case and with quotes, before they are bound."""
    known = names(connection, f"function_type IN {TABLE_KINDS}")
    for name in sorted(known - functions.ALLOWED_TABLE_FUNCTIONS):
        for spelled in (name, name.upper()):
            with pytest.raises(QueryError, match=f"{name} is not allowed"):
                guard.check(connection, call.format(spelled))


def test_no_pragma_runs(connection: duckdb.DuckDBPyConnection) -> None:
    """DuckDB makes other statements of some; as a statement, and as a call, all are refused."""
    pragmas = names(connection, "function_type = 'pragma'")
    assert "enable_profiling" in pragmas
    settings = {
        name for (name,) in connection.execute("SELECT name FROM duckdb_settings()").fetchall()
    }
    for name in sorted(pragmas | settings):
        for statement in ("PRAGMA {}", "pragma {}('x')", "/* x */ PRAGMA {}=1", "CALL {}()"):
            with pytest.raises((QueryError, duckdb.ParserException)):
                guard.check(connection, statement.format(name))


def test_what_no_tree_shows_is_refused_by_kind(connection: duckdb.DuckDBPyConnection) -> None:
    """The statements that change anything."""
    for sql in ("CHECKPOINT", "FORCE CHECKPOINT", "SET threads = 1", "SET VARIABLE a = 1"):
        with pytest.raises(QueryError, match="not allowed"):
            guard.check(connection, sql)
    with pytest.raises(QueryError, match="write_log is not allowed"):
        guard.check(connection, "SELECT ('x').write_log()")


@pytest.mark.parametrize(
    "sql",
    [
        "FROM range(3)",
        "FROM Range(3) PIVOT (count(*) FOR range IN (1, 2))",
        "PIVOT (FROM range(3)) ON range",
        "SELECT unnest([1, 2])",
        "FROM json_each('[1]')",
        "SELECT query, checkpoint FROM (SELECT 1 AS query, 2 AS checkpoint)",
        "WITH query(a) AS (SELECT 1) FROM query",
        "FROM duckdb_tables",
        "FROM information_schema.tables",
        "SELECT count(*) FROM metric_overview('x')",
    ],
)
def test_what_only_reads_is_allowed(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Names of functions are not reserved, and macros of the session are known."""
    guard.check(connection, sql, definitions.table_macros())


def test_words_are_found_behind_comments_and_in_quotes() -> None:
    """Tokens are DuckDB's own."""
    sql = 'SELECT "a ""b" /* x( */ (1), f--\n( 2), g/**/(3) -- h(\n'
    assert list(syntax.called(sql)) == ['a "b', "f", "g"]
    assert syntax.first_word("/* select */ -- x\n  PRAGMA x") == "pragma"
    assert syntax.explained("-- x\n explain analyze FROM t") == "FROM t"
    assert syntax.explained("EXPLAIN (ANALYZE) FROM t") is None
