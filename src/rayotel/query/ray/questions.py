"""The shipped questions: SQL files with a header that says what they answer.

    -- question: Which nodes were hot, minute by minute?
    -- parameter: min_cpu = 0: only minutes in which a node's CPU reached this percentage
    -- column: minute: UTC minute of event time
    SELECT ...

A parameter is used in the SQL as `$min_cpu`; its value is text unless the SQL casts it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rayotel.errors import UsageError
from rayotel.query.ray import header
from rayotel.shipped import shipped_directory

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
_KINDS = ("question", "note", "parameter", "column")
_PARAMETER = re.compile(r"(?P<name>[a-z_]+) = (?P<default>[^:]*): (?P<meaning>.+)")


@dataclass(frozen=True, slots=True)
class ShippedQuery:
    """A question with its SQL.

    `parameters`: name to (default, meaning); `columns`: name to meaning.
    """

    name: str
    question: str
    note: str
    parameters: Mapping[str, tuple[str, str]]
    columns: Mapping[str, str]
    sql: str

    def bind(self, given: Mapping[str, str]) -> dict[str, str]:
        """Values for all parameters. Raises UsageError for one that the query does not have."""
        for name in given:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise UsageError(
                    f"query '{self.name}' has no parameter '{name}'", hint=f"it has: {known}"
                )
        return {name: given.get(name, default) for name, (default, _) in self.parameters.items()}


def all_queries() -> list[ShippedQuery]:
    """Every shipped question, by name."""
    return [parse(path.stem, path.read_text("utf-8")) for path in _files()]


def find(name: str) -> ShippedQuery:
    """One question by name. Raises UsageError."""
    names = [path.stem for path in _files()]
    if name not in names:
        raise UsageError(f"no shipped query '{name[:60]}'", hint=f"there are: {', '.join(names)}")
    path = shipped_directory("queries") / f"{name}.sql"
    return parse(name, path.read_text("utf-8"))


def _files() -> list[Path]:
    return sorted(p for p in shipped_directory("queries").glob("*.sql") if _NAME.fullmatch(p.stem))


def parse(name: str, text: str) -> ShippedQuery:
    """A question from its file's text. Raises UsageError for a header that is not one."""
    top = header.parse(name, text, _KINDS)
    parameters = {
        match["name"]: (match["default"], match["meaning"])
        for match in top.matches("parameter", _PARAMETER)
    }
    columns = dict(top.pairs("column"))
    return ShippedQuery(name, top.text("question"), top.text("note"), parameters, columns, text)
