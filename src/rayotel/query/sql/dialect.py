"""A repair for SQL of other engines: reserved words of DuckDB used as names of columns.

`SELECT date_trunc('minute', t) AS window ... GROUP BY window` is correct elsewhere. DuckDB accepts
`AS window` and refuses `GROUP BY window`. The repair quotes such a word wherever it stands as a
name, if `AS` introduced it. It is tried only for SQL that does not parse, and used only if the
result does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import duckdb


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    is_keyword: bool


def quote_reserved_aliases(sql: str, reserved: frozenset[str]) -> str:
    """The SQL with those reserved words quoted that it introduces as aliases."""
    raw = sql.encode()
    tokens = _tokens(raw)
    aliases = {
        token.text
        for before, token in itertools.pairwise(tokens)
        if before.text == "as" and token.is_keyword and token.text in reserved
    }
    spans = [
        token
        for position, token in enumerate(tokens)
        if token.is_keyword and token.text in aliases and not _is_clause(tokens, position)
    ]
    for token in reversed(spans):
        end = token.start + len(token.text)
        raw = raw[: token.start] + b'"' + raw[token.start : end] + b'"' + raw[end:]
    return raw.decode()


def _tokens(raw: bytes) -> list[_Token]:
    tokenized = duckdb.tokenize(raw.decode())
    starts = [start for start, _ in tokenized] + [len(raw)]
    tokens = []
    for (start, kind), end in zip(tokenized, starts[1:], strict=True):
        is_keyword = kind == duckdb.token_type.keyword
        text = raw[start:end].decode(errors="replace").split(maxsplit=1)
        word = text[0] if text else ""
        tokens.append(_Token(word.lower() if is_keyword else word, start, is_keyword))
    return tokens


def _is_clause(tokens: list[_Token], position: int) -> bool:
    """Whether the word has its own meaning here: `WINDOW w AS (`, `CASE ... END`, `LIMIT 5`."""
    word = tokens[position].text
    before = tokens[position - 1].text if position else ""
    after = [token.text for token in tokens[position + 1 : position + 4]]
    if before in ("as", "by", ",", "."):
        return False
    if word == "window":
        return len(after) == 3 and after[1] == "as" and after[2].startswith("(")
    return word in ("end", "order", "group", "limit", "offset", "desc", "asc", "case", "when")
