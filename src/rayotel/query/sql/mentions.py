"""Which columns of a wide stream SQL can need, so that a view need not have thousands.

A column that SQL uses is spelled in it, in one piece. So the names that stand anywhere in the text
suffice, unless the SQL asks for columns without naming them: a star, DESCRIBE, a NATURAL JOIN, a
table taken as a value, and so on. Where that is not certain, all columns are there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import duckdb

from rayotel.query.sql import syntax
from rayotel.query.sql.syntax import Node

# what these read has no columns but its own
_PLAIN_FUNCTIONS = frozenset(
    {"range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree"}
)
_UNNAMED_IN_DEFINITIONS = re.compile(r"\bcolumns\s*\(|\b(un)?pivot\b", re.IGNORECASE)


def needs_all(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    streams: Collection[str],
    passing: Collection[str],
    closed: Collection[str],
) -> bool:
    """Whether SQL could need columns that it does not name.

    All in lower case: `streams` are the names of wide tables. Views and macros that are `passing`
    give every column of a stream; those that are `closed` only columns of their own.
    """
    if syntax.first_word(sql) == "explain":
        sql = syntax.explained(sql) or sql
    tree = syntax.tree(connection, sql)
    if tree is None:
        return True
    wide = {*streams, *passing}
    all_nodes = list(syntax.nodes(tree))
    known = {*wide, *closed, *_names_of_ctes(all_nodes)}
    rows = wide | {
        node["alias"].lower() for node in all_nodes if _is_table(node) and node.get("alias")
    }
    return any(_is_open(node, wide, known, rows) for node in all_nodes)


def any_unnamed(definitions: Iterable[str]) -> bool:
    """Whether SQL of views and macros computes something of every column."""
    return any(_UNNAMED_IN_DEFINITIONS.search(sql) for sql in definitions)


def mentioned(names: Iterable[str], texts: Iterable[str]) -> Iterator[str]:
    """The names that stand in SQL, in any case and with quotes or without."""
    text = "\n".join(texts).lower()
    return (name for name in names if name.lower().replace('"', '""') in text)


def _is_open(node: Node, wide: set[str], known: set[str], rows: set[str]) -> bool:
    kind = node.get("type")
    if kind in ("SHOW_REF", "PIVOT") or node.get("ref_type") == "NATURAL":
        return True
    if kind == "BASE_TABLE":
        is_elsewhere = bool(node.get("schema_name") or node.get("catalog_name"))
        # t(a, b) names columns by their places
        is_renamed = bool(node.get("column_name_alias"))
        return is_elsewhere or is_renamed or node["table_name"].lower() not in known
    if kind == "TABLE_FUNCTION":
        is_renamed = bool(node.get("column_name_alias")) and _function(node) in wide
        return is_renamed or _function(node) not in known | _PLAIN_FUNCTIONS
    if kind == "COLUMN_REF":
        return node["column_names"][-1].lower() in rows
    if kind == "SELECT_NODE":
        return _has_star(node) and any(
            _is_table(source) and _table(source) in wide for source in _own(node["from_table"])
        )
    # t.*, whichever select t belongs to
    return kind == "STAR" and node.get("relation_name", "").lower() in rows


def _has_star(select: Node) -> bool:
    others = ("from_table", "cte_map", "modifiers")
    parts = [value for key, value in select.items() if key not in others]
    # ORDER BY ALL is a star too, of what is selected
    ordered = (node for node in _own(select.get("modifiers")) if node.get("expr"))
    return any(node.get("class") == "STAR" for node in (*_own(parts), *ordered))


def _own(value: Any) -> Iterator[Node]:
    """Nodes of a part of a select, without those of selects inside it."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, list):
            waiting += current
        elif isinstance(current, dict) and current.get("type") != "SELECT_NODE":
            yield current
            waiting += current.values()


def _is_table(node: Node) -> bool:
    return node.get("type") in ("BASE_TABLE", "TABLE_FUNCTION")


def _table(node: Node) -> str:
    name: str = node["table_name"] if node["type"] == "BASE_TABLE" else _function(node)
    return name.lower()


def _function(node: Node) -> str:
    name: str = node["function"]["function_name"]
    return name.lower()


def _names_of_ctes(all_nodes: Iterable[Node]) -> Iterator[str]:
    for node in all_nodes:
        ctes = node.get("cte_map")
        if isinstance(ctes, dict):
            yield from (entry["key"].lower() for entry in ctes["map"])
        if isinstance(name := node.get("cte_name"), str):
            yield name.lower()
