"""The statements that a locked query session accepts: one statement that only reads.

DuckDB's own lock keeps a session from foreign files and from loading code. It does not keep the
session from writing to files that it may read, or from calling functions that change it. So the
guard checks the kind of each statement too, and every function in it; `functions` has the lists.
It also closes two traps: `EXPLAIN ANALYZE` runs what it explains, and DuckDB 2.0 accepts a `COPY
... TO` inside `WITH`, in a statement whose kind is SELECT.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

import duckdb

from rayotel.errors import QueryError
from rayotel.query.sql import syntax
from rayotel.query.sql.functions import (
    ALLOWED_TABLE_FUNCTIONS,
    REFUSED_FUNCTIONS,
)

_WRITING_WORD = re.compile(r"copy|insert|update|delete|merge", re.IGNORECASE)
_WRITING_NODE = re.compile(r"(COPY|INSERT|UPDATE|DELETE|MERGE)\w*_NODE", re.IGNORECASE)
_HINT = "a session only reads its lake; --unlocked gives all of DuckDB on your own machine"


def check(
    connection: duckdb.DuckDBPyConnection, sql: str, macros: AbstractSet[str] = frozenset()
) -> None:
    """Raise QueryError unless `sql` is one statement that only reads; duckdb.Error if none parses.

    `connection` must be locked: DuckDB 1.5 opens files while it takes some statements apart.
    `macros`: table macros of the session, in lower case.
    """
    if syntax.first_word(sql) == "pragma":  # some become other statements when they are parsed
        raise QueryError("PRAGMA is not allowed: only questions are", hint=_HINT)
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
        explained = syntax.explained(sql)
        if explained is None:
            raise QueryError(
                "EXPLAIN with options is not allowed", hint="write EXPLAIN or EXPLAIN ANALYZE"
            )
        check(connection, explained, macros)
        return
    if types[0] not in (kinds.SELECT, kinds.MULTI):
        raise QueryError(f"{types[0].name} is not allowed: only questions are", hint=_HINT)
    tree = syntax.tree(connection, sql)
    if tree is None:
        _check_words(connection, sql, macros)
    else:
        _check_nodes(tree, macros)


def _check_nodes(tree: syntax.Node, macros: AbstractSet[str]) -> None:
    for node in syntax.nodes(tree):
        kind = node.get("type")
        if isinstance(kind, str) and _WRITING_NODE.fullmatch(kind):
            raise QueryError("a write inside a question is not allowed", hint=_HINT)
        if kind == "TABLE_FUNCTION":
            name = node["function"]["function_name"].lower()
            if name not in ALLOWED_TABLE_FUNCTIONS and name not in macros:
                raise _refused(name)
        name = node.get("function_name")
        if isinstance(name, str) and name.lower() in REFUSED_FUNCTIONS:
            raise _refused(name)


def _check_words(connection: duckdb.DuckDBPyConnection, sql: str, macros: AbstractSet[str]) -> None:
    """The same for a PIVOT, of which DuckDB shows no tree: any word before a parenthesis counts."""
    if _WRITING_WORD.search(sql) and not duckdb.__version__.startswith("1."):
        # only DuckDB 2.0 lets a write hide before a PIVOT
        raise QueryError("a writing word together with PIVOT is not allowed", hint=_HINT)
    rows = connection.execute(
        "SELECT lower(function_name) FROM duckdb_functions()"
        " WHERE function_type NOT IN ('scalar', 'aggregate', 'macro')"
    ).fetchall()
    refused = {name for (name,) in rows} - ALLOWED_TABLE_FUNCTIONS - macros | REFUSED_FUNCTIONS
    for name in syntax.called(sql):
        if name in refused:
            raise _refused(name)


def _refused(name: str) -> QueryError:
    return QueryError(f"the function {name[:100]} is not allowed in a question", hint=_HINT)
