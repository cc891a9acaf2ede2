"""What every session knows of metrics and of Ray: views and macros in SQL, one a file in `sql/`.

    -- about: what it gives
    -- note: what to keep in mind
    -- parameter: stream: name of a metrics stream, quoted        (macros)
    -- column: time: start of the minute, UTC                     (views and table macros)
    -- example: SELECT ...
    CREATE VIEW ...

Only what a question mentions is made, with what that needs; `CREATE TABLE` where several others
need the same small answer. The SQL names the default streams; for
others they are replaced. `"<stream> past"` is a stream with `LOOKBACK_SECONDS` before the range, so
that a rise across its beginning is seen; `range_begins()` says where it begins.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rayotel.errors import UsageError
from rayotel.lake.signal import EVENTS, METRICS, Signal
from rayotel.model import NANOSECONDS_PER_SECOND, TimeRange, is_stream_name

METRICS_STREAM, EVENTS_STREAM = METRICS.default_stream, EVENTS.default_stream
LOOKBACK_SECONDS = 120
PAST = " past"
_HEADER = re.compile(r"-- (about|note|parameter|column|example): (.*)")
_STREAM = re.compile(rf"\b({METRICS_STREAM}|{EVENTS_STREAM})\b")
# a stream stands in SQL as a bare word, or behind a quote of either kind
_QUOTED_STREAM = re.compile(rf"([\"']?)\b({METRICS_STREAM}|{EVENTS_STREAM})\b")
_READS_PAST = re.compile(rf"{PAST}[\"']")


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams that views and shipped questions read."""

    metrics: str = METRICS_STREAM
    events: str = EVENTS_STREAM

    def __post_init__(self) -> None:
        for setting, name in (("metrics", self.metrics), ("events", self.events)):
            if not is_stream_name(name):
                raise UsageError(f"setting '{setting}_stream' is not a stream name")
        if self.metrics == self.events:
            raise UsageError("settings 'metrics_stream' and 'events_stream' are the same stream")

    @property
    def by_default(self) -> dict[str, str]:
        """Each of them by the name that definitions and questions have for it."""
        return {METRICS_STREAM: self.metrics, EVENTS_STREAM: self.events}

    def signal(self, stream: str) -> Signal:
        """What one of these streams holds."""
        return EVENTS if stream == self.events else METRICS

    def put_into(self, sql: str) -> str:
        """SQL that names the default streams, with these instead."""
        if self == Streams():
            return sql
        names = self.by_default
        return _QUOTED_STREAM.sub(
            lambda found: found[1] + names[found[2]] if found[1] else f'"{names[found[2]]}"', sql
        )


@dataclass(frozen=True, slots=True)
class Definition:
    """One view or macro. `columns` and `parameters`: (name, meaning) in order."""

    name: str
    is_macro: bool
    about: str
    notes: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]
    sql: str

    def statement(self, streams: Streams) -> str:
        """The SQL that makes it, over these streams."""
        return streams.put_into(self.sql)

    @property
    def reads_past(self) -> bool:
        """Whether it looks at what came before the time range."""
        return _READS_PAST.search(self.sql) is not None


# made of data that takes a while to read
METRIC_FACTS = Definition(
    name="ray_metrics",
    is_macro=False,
    about="what each of Ray's metrics really is, whatever type it is sent with",
    notes=(
        "A metric whose kind depends on a label has a row for each value of that label; join with"
        " label_value IS NULL OR label_value = the label's column.",
    ),
    parameters=(),
    columns=(
        ("metric_name", "name of the metric"),
        ("label", "label that the kind depends on; null where it depends on none"),
        ("label_value", "its value"),
        ("kind", "gauge, counter, cumulative_gauge, owner_gauge, histogram, info or broken"),
        ("unit", "unit of the values"),
        ("meaning", "what it tells"),
        ("caution", "what goes wrong when it is used naively"),
        ("source", "how that is known"),
    ),
    examples=("SELECT metric_name, meaning FROM ray_metrics WHERE kind = 'cumulative_gauge'",),
    sql="CREATE VIEW ray_metrics AS ...",
)


@functools.cache
def all_definitions() -> dict[str, Definition]:
    """Every definition by its name."""
    files = (Path(__file__).parent / "sql").rglob("*.sql")
    found = [parse(path.stem, path.read_text("utf-8")) for path in files]
    return {one.name: one for one in sorted([*found, METRIC_FACTS], key=lambda one: one.name)}


def find(name: str) -> Definition:
    """One by name. Raises UsageError."""
    found = all_definitions().get(name.lower())
    if found is None:
        names = ", ".join(all_definitions())
        raise UsageError(f"no view or macro '{name[:60]}'", hint=f"there are: {names}")
    return found


def needed(sql: str | None) -> list[Definition]:
    """What SQL mentions and what that needs, in an order that works; everything for None."""
    known = all_definitions()
    found: dict[str, Definition] = {}

    def take(names: Iterable[str]) -> None:
        for name in names:
            if name not in found:
                take(one for one in _mentioned(known[name].sql) if one != name)
                found[name] = known[name]

    take(known if sql is None else _mentioned(sql))
    return list(found.values())


def mentioned_streams(wanted: list[Definition], streams: Streams, sql: str | None) -> set[str]:
    """The streams that definitions are about, or that SQL names beside them."""
    names = streams.by_default
    found = {names[one] for definition in wanted for one in _STREAM.findall(definition.sql)}
    beside = {name for name in names.values() if wanted and name in (sql or "")}
    return found | beside


def with_past(range_: TimeRange) -> TimeRange:
    """The range with what came shortly before it."""
    if range_.start is None:
        return range_
    return TimeRange(range_.start - LOOKBACK_SECONDS * NANOSECONDS_PER_SECOND, range_.end)


def range_begins(range_: TimeRange) -> str:
    """SQL of the macro that says where the range begins."""
    moment = "TIMESTAMPTZ '-infinity'"
    if range_.start is not None:
        moment = f"make_timestamptz({range_.start // 1000})"
    return f"CREATE MACRO range_begins() AS {moment}"


def _mentioned(sql: str) -> list[str]:
    words = set(re.findall(r"[a-z_]+", sql.lower()))
    return [name for name in all_definitions() if name in words]


def parse(name: str, text: str) -> Definition:
    """A definition from its file. Raises ValueError for a header line that is none."""
    lines = text.splitlines()
    headers = [line for line in lines if line.startswith("--")]
    sql = "\n".join(line for line in lines if not line.startswith("--"))
    found: dict[str, list[str]] = {}
    for line in headers:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise ValueError(f"definition '{name}' has a header line that is none: {line[:60]}")
        found.setdefault(match[1], []).append(match[2])
    return Definition(
        name,
        sql.startswith("CREATE MACRO"),
        " ".join(found.get("about", [])),
        tuple(found.get("note", [])),
        tuple(map(_pair, found.get("parameter", []))),
        tuple(map(_pair, found.get("column", []))),
        tuple(found.get("example", [])),
        sql,
    )


def explained(one: Definition) -> str:
    """A definition in words: what it gives, how it is called, its columns, examples, its SQL."""
    called = f"{one.name}({', '.join(name for name, _ in one.parameters)})"
    lines = [called if one.is_macro else one.name, f"  {one.about}"]
    lines += ["", *(f"  {note}" for note in one.notes)] if one.notes else []
    for title, pairs in (("Parameters", one.parameters), ("Columns", one.columns)):
        if pairs:
            width = max(len(name) for name, _ in pairs)
            lines += ["", f"{title}:", *(f"  {name.ljust(width)}  {what}" for name, what in pairs)]
    lines += ["", "For example:", *(f"  {example}" for example in one.examples), "", one.sql]
    return "\n".join(lines)


def _pair(text: str) -> tuple[str, str]:
    name, _, meaning = text.partition(": ")
    return name, meaning
