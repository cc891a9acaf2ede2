"""What every session knows of metrics and of Ray: views and macros in SQL, one a file in `sql/`.

    -- about: what it gives
    -- note: what to keep in mind
    -- parameter: stream: name of a metrics stream, quoted        (macros)
    -- column: minute: start of the minute, UTC                   (views and table macros)
    -- example: SELECT ...
    -- needs: ray_samples, rayevents, past
    CREATE VIEW ...

`needs` names the views, macros and streams that the SQL reads, and `past` where it reads what came
before the time range. Only what a question mentions is made, with what that needs; `CREATE TABLE`
where several others need the same small answer. The SQL names the default streams: where the
settings choose others, a session shows those by the default names. `"<stream> past"` is a stream
with `LOOKBACK_SECONDS` before the range, so that a rise across its beginning is seen;
`range_begins()` says where it begins.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rayotel.errors import UsageError
from rayotel.lake.signal import EVENTS, METRICS, Signal
from rayotel.model import NANOSECONDS_PER_SECOND, TimeRange, is_stream_name
from rayotel.query.ray import header

METRICS_STREAM, EVENTS_STREAM = METRICS.default_stream, EVENTS.default_stream
LOOKBACK_SECONDS = 120
PAST = " past"
_NEEDS_PAST = "past"
_KINDS = ("about", "note", "parameter", "column", "example", "needs")


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams that views and shipped questions read."""

    metrics: str = METRICS_STREAM
    events: str = EVENTS_STREAM

    def __post_init__(self) -> None:
        for signal, name in ((METRICS, self.metrics), (EVENTS, self.events)):
            if not is_stream_name(name):
                raise UsageError(f"setting '{signal.name}_stream' is not a stream name")
        if self.metrics == self.events:
            raise UsageError("settings 'metrics_stream' and 'events_stream' are the same stream")

    @property
    def by_default(self) -> dict[str, str]:
        """Each of them by the name that definitions and questions have for it."""
        return {METRICS_STREAM: self.metrics, EVENTS_STREAM: self.events}

    def shown_as(self, stream: str) -> list[str]:
        """The names of a stream in a session: its own, unless it stands for another, and aliases.

        A default name always is the stream that is chosen, also where a stream of that name exists.
        """
        chosen = self.by_default
        aliases = [name for name, other in chosen.items() if other == stream and name != stream]
        stands_for = chosen.get(stream.lower(), stream)
        return [stream, *aliases] if stands_for == stream else aliases

    def signal(self, stream: str) -> Signal:
        """What one of these streams holds."""
        return EVENTS if stream == self.events else METRICS


@dataclass(frozen=True, slots=True)
class Definition:
    """One view or macro.

    `columns` and `parameters`: (name, meaning) in order. `needs`: names of other definitions and
    of streams, and `past`.
    """

    name: str
    is_macro: bool
    about: str
    notes: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]
    needs: tuple[str, ...]
    sql: str

    @property
    def passes_all(self) -> bool:
        """Whether it gives every column of a stream."""
        return any(name == "..." for name, _ in self.columns)

    @property
    def reads_past(self) -> bool:
        """Whether it looks at what came before the time range."""
        return _NEEDS_PAST in self.needs


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
        ("known_from", "how that is known"),
    ),
    examples=("SELECT metric_name, meaning FROM ray_metrics WHERE kind = 'cumulative_gauge'",),
    needs=(),
    sql="CREATE VIEW ray_metrics AS ...",
)


@functools.cache
def all_definitions() -> dict[str, Definition]:
    """Every definition by its name."""
    files = (Path(__file__).parent / "sql").rglob("*.sql")
    parsed = [parse(path.stem, path.read_text("utf-8")) for path in files]
    return {
        definition.name: definition
        for definition in sorted([*parsed, METRIC_FACTS], key=lambda definition: definition.name)
    }


@functools.cache
def table_macros() -> frozenset[str]:
    """Names of the macros that give rows."""
    return frozenset(one.name for one in all_definitions().values() if one.is_macro)


def find(name: str) -> Definition:
    """One by name. Raises UsageError."""
    definition = all_definitions().get(name.lower())
    if definition is None:
        names = ", ".join(all_definitions())
        raise UsageError(f"no view or macro '{name[:60]}'", hint=f"there are: {names}")
    return definition


def needed(sql: str | None) -> list[Definition]:
    """What SQL mentions and what that needs, in an order that works; everything for None."""
    known = all_definitions()
    in_order: dict[str, Definition] = {}

    def take(names: Iterable[str]) -> None:
        for name in names:
            if name in known and name not in in_order:
                take(known[name].needs)
                in_order[name] = known[name]

    take(known if sql is None else sorted(header.words(sql)))
    return list(in_order.values())


def mentioned_streams(wanted: list[Definition], streams: Streams, sql: str | None) -> set[str]:
    """The streams that definitions are about, or that SQL names beside them."""
    names = streams.by_default
    in_definitions = {
        names[need] for definition in wanted for need in definition.needs if need in names
    }
    beside = {names[default] for default in names if wanted and default in (sql or "")}
    return in_definitions | beside


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


def parse(name: str, text: str) -> Definition:
    """A definition from its file. Raises UsageError for a header line that is none."""
    top = header.parse(name, text, _KINDS)
    return Definition(
        name,
        top.sql.startswith("CREATE MACRO"),
        top.text("about"),
        top.all("note"),
        top.pairs("parameter"),
        top.pairs("column"),
        top.all("example"),
        tuple(need for line in top.all("needs") for need in line.split(", ")),
        top.sql.rstrip(),
    )


def explained(definition: Definition) -> str:
    """A definition in words: what it gives, how it is called, its columns, examples, its SQL."""
    called = f"{definition.name}({', '.join(name for name, _ in definition.parameters)})"
    lines = [called if definition.is_macro else definition.name, f"  {definition.about}"]
    lines += ["", *(f"  {note}" for note in definition.notes)] if definition.notes else []
    for title, pairs in (("Parameters", definition.parameters), ("Columns", definition.columns)):
        if pairs:
            width = max(len(name) for name, _ in pairs)
            lines += ["", f"{title}:", *(f"  {name.ljust(width)}  {what}" for name, what in pairs)]
    lines += ["", "For example:", *(f"  {example}" for example in definition.examples)]
    lines += ["", definition.sql]
    return "\n".join(lines)
