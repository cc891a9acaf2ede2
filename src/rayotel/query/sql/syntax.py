"""What DuckDB's own parser and tokenizer say of SQL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

Node = dict[str, Any]
# a comment may follow a word at once
_WORD = re.compile(r'"(?:[^"]|"")*"|[\w$]+|\S')
_PLAIN_EXPLAIN = re.compile(r"EXPLAIN\s+(ANALY[ZS]E\s+)?(?=[^\s(])", re.IGNORECASE)


def tree(connection: duckdb.DuckDBPyConnection, sql: str) -> Node | None:
    """The parse tree of one SELECT; None for what DuckDB shows no tree of, such as a PIVOT."""
    rows = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    parsed: Node = json.loads(rows[0][0])
    return None if parsed["error"] else parsed


def nodes(tree: Node) -> Iterator[Node]:
    """All nodes of a tree."""
    waiting: list[Any] = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def explained(sql: str) -> str | None:
    """What EXPLAIN or EXPLAIN ANALYZE explains; None where it has options."""
    start = next(iter(duckdb.tokenize(sql)), (0, None))[0]
    rest = sql.encode()[start:].decode()
    plain = _PLAIN_EXPLAIN.match(rest)
    return None if plain is None else rest[plain.end() :]


def first_word(sql: str) -> str:
    """The first word of SQL, behind comments, in lower case."""
    return next(_words(sql), "")


def called(sql: str) -> Iterator[str]:
    """Every name before a parenthesis, in lower case and without quotes."""
    before = ""
    for word in _words(sql):
        if word.startswith("("):
            yield before
        before = word[1:-1].replace('""', '"') if word.startswith('"') else word


def _words(sql: str) -> Iterator[str]:
    raw = sql.encode()
    starts = [start for start, _ in duckdb.tokenize(sql)]
    for start, end in zip(starts, [*starts, len(raw)][1:], strict=True):
        word = _WORD.match(raw[start:end].decode(errors="replace"))
        yield word[0].lower() if word else ""
