"""The statements that a locked query session accepts: one statement that only reads.

DuckDB's own lock keeps a session from foreign files and from loading code. It does not keep the
session from writing to files that it may read. So the guard checks the kind of each statement too,
and closes two traps: `EXPLAIN ANALYZE` runs what it explains, and DuckDB 2.0 accepts a `COPY ...
TO` inside `WITH`, in a statement whose kind is SELECT.
"""

from __future__ import annotations

import json
import re

import duckdb

from rayotel.errors import QueryError

_WRITING_WORD = re.compile(r"copy|insert|update|delete|merge|logging", re.IGNORECASE)
_WRITING_NODE = re.compile(
    r'"type":"(COPY|INSERT|UPDATE|DELETE|MERGE)\w*_NODE"|"function_name":"\w*_logging"',
    re.IGNORECASE,
)
_PLAIN_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALY[ZS]E\s+)?(?=[^\s(])", re.IGNORECASE)
_HINT = "a session only reads its lake; --unlocked gives all of DuckDB on your own machine"


def check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise QueryError unless `sql` is one statement that only reads; duckdb.Error if none parses.

    `connection` must be locked: DuckDB 1.5 opens files while it takes some statements apart.
    """
    statements = connection.extract_statements(sql)
    kinds = duckdb.StatementType
    try:
        types = [statement.type for statement in statements]
    except ValueError:  # DuckDB's Python package does not know every kind of its own engine
        raise QueryError("this kind of statement is not allowed", hint=_HINT) from None
    if types == [kinds.CREATE, kinds.SELECT] and not statements[0].query:
        types = [kinds.SELECT]  # how DuckDB 1.5 takes a PIVOT apart
    if not types:
        raise QueryError("there is no SQL statement", hint="try: rayotel queries")
    if len(types) > 1:
        raise QueryError("more than one SQL statement", hint="run them one by one")
    if types[0] == kinds.EXPLAIN:
        plain = _PLAIN_EXPLAIN.match(sql)
        if plain is None:
            raise QueryError(
                "EXPLAIN with options is not allowed", hint="write EXPLAIN or EXPLAIN ANALYZE"
            )
        check(connection, sql[plain.end() :])
        return
    if types[0] not in (kinds.SELECT, kinds.MULTI):
        raise QueryError(f"{types[0].name} is not allowed: only questions are", hint=_HINT)
    if _WRITING_WORD.search(sql):
        _refuse_hidden_writes(connection, sql)


def _refuse_hidden_writes(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    rows = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    tree = json.loads(rows[0][0])
    if tree["error"]:
        # a PIVOT has no such tree, and only DuckDB 2.0 lets a write hide before one
        if duckdb.__version__.startswith("1."):
            return
        raise QueryError("a writing word together with PIVOT is not allowed", hint=_HINT)
    if _WRITING_NODE.search(json.dumps(tree, separators=(",", ":"))):
        raise QueryError("a write inside a question is not allowed", hint=_HINT)
