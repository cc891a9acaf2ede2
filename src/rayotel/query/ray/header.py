"""The header of an SQL file, and the words of its SQL.

    -- question: Which nodes were hot, minute by minute?
    -- column: minute: start of the minute, UTC
    SELECT ...

Comment lines at the top of the file, each with a kind, in any order; a kind may come several times.
`questions` and `definitions` say which kinds they have.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rayotel.errors import UsageError

_LINE = re.compile(r"-- ([a-z]+): (.*)")
_PAIR = re.compile(r"(?P<name>\.\.\.|[A-Za-z][A-Za-z0-9_]*): (?P<meaning>.+)")
# comments and strings of every kind, and quoted names, each to its end
_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | "(?:[^"]|"")*"
    | \b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$""",
    re.DOTALL | re.VERBOSE,
)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a file says, by kind, and the SQL below it."""

    of: str
    lines: Mapping[str, tuple[str, ...]]
    sql: str

    def all(self, kind: str) -> tuple[str, ...]:
        """Every line of a kind, in order."""
        return self.lines.get(kind, ())

    def text(self, kind: str) -> str:
        """The lines of a kind as one text."""
        return " ".join(self.all(kind))

    def pairs(self, kind: str) -> tuple[tuple[str, str], ...]:
        """`name: meaning` in each line of a kind. Raises UsageError."""
        return tuple((match["name"], match["meaning"]) for match in self.matches(kind, _PAIR))

    def matches(self, kind: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        """Each line of a kind as a match of a pattern. Raises UsageError for one that is none."""
        matched = []
        for line in self.all(kind):
            match = pattern.fullmatch(line)
            if match is None:
                raise UsageError(f"'{self.of}' has a {kind} that is none: {line[:60]}")
            matched.append(match)
        return matched


def parse(of: str, text: str, kinds: Collection[str]) -> Header:
    """The header of a file's text. Raises UsageError for a line that is none of these kinds."""
    lines = text.splitlines(keepends=True)
    top = list(itertools.takewhile(lambda line: line.startswith("--"), lines))
    by_kind: dict[str, tuple[str, ...]] = {}
    for line in top:
        match = _LINE.fullmatch(line.rstrip("\n"))
        if match is None or match[1] not in kinds:
            raise UsageError(f"'{of}' has a header line that is none: {line[:60].rstrip()}")
        by_kind[match[1]] = (*by_kind.get(match[1], ()), match[2])
    return Header(of, by_kind, "".join(lines[len(top) :]))


def words(sql: str) -> set[str]:
    """Lower-case words of SQL, quoted names among them; not those of comments and strings."""
    return set(_WORD.findall(_TOKEN.sub(_name_alone, sql).lower()))


def without_comments(sql: str) -> str:
    """SQL without its comments; strings and names stay as they are."""
    return _TOKEN.sub(lambda token: " " if token[0][:2] in ("--", "/*") else token[0], sql)


def _name_alone(token: re.Match[str]) -> str:
    return token[0] if token[0].startswith('"') else " "
