"""The metrics of a stream: which there are, what they are known to be, and what the lake has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from rayotel.errors import QueryError
from rayotel.lake import catalog
from rayotel.lake.schema import METRIC_TYPES, label_column
from rayotel.lake.storage.interface import Storage
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange
from rayotel.query import streams, views
from rayotel.query.lake import Lake
from rayotel.query.output.formats import short
from rayotel.query.ray import metric_facts
from rayotel.query.ray.metric_facts import COMMON_LABELS, KINDS, Metric

DEFAULT_HOURS = 24
MAX_VALUES_SHOWN = 8
# labels seldom change, and to read all of them costs ten times what counting does
LABEL_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class SeenMetric:
    """A metric in a lake, or one that is only known. `labels` without those that all have."""

    metric: str
    type_as_sent: str | None
    kind: str | None
    unit: str | None
    series: int
    rows: int
    labels: str
    is_known: bool


@dataclass(frozen=True, slots=True)
class Fact:
    """One line about one metric. `about`: known, lake or label; a label's `name` is its column."""

    about: str
    name: str
    value: str


Rows = list[dict[str, Any]]


class StreamMetrics:
    """A stream of a lake in a time range, as the two questions of this module see it."""

    def __init__(self, lake: Lake, stream: str, range_: TimeRange) -> None:
        """Raises QueryError where the lake has no such stream; not for the stream of its views."""
        self.stream = stream
        self.range = range_
        self._lake = lake
        self.is_there = stream in lake.streams()
        if not self.is_there and stream != lake.reads.metrics:
            raise QueryError(f"no stream '{stream[:100]}'", hint="'rayotel streams' lists them")

    @property
    def table(self) -> str:
        """The stream as SQL names it."""
        return views.quoted(self.stream)

    def rows(self, sql: str, parameters: Mapping[str, object] | None = None) -> Rows:
        """The rows of one question; none where there is no stream."""
        if not self.is_there:
            return []
        with self._lake.ask(sql, self.range, parameters) as result:
            return result.rows()

    def label_columns(self) -> list[str]:
        """Columns of labels, headers and resource attributes, by name."""
        if not self.is_there:
            return []
        found = streams.columns(self._lake, self.stream, self.range)
        return sorted(name for name, _, _ in found if name not in METRIC_TYPES)


def bounded(storage: Storage, stream: str, range_: TimeRange) -> TimeRange:
    """The range; where none was given, the last hours that the stream has."""
    if range_ != TimeRange():
        return range_
    newest = max((part.name.hour for part in catalog.parts(storage, stream)), default=0) + 1
    start = max(0, newest - DEFAULT_HOURS)
    return TimeRange(start * NANOSECONDS_PER_HOUR, newest * NANOSECONDS_PER_HOUR)


def seen(lake: StreamMetrics, *, with_unseen: bool = False) -> list[SeenMetric]:
    """Every metric of the stream in the range, by name; with those known and not seen if asked.

    Where the lake has no such stream at all, everything that is known.
    """
    counted = lake.rows(
        "SELECT metric_name, string_agg(DISTINCT metric_type, ', ' ORDER BY metric_type) AS type,"
        " max(metric_unit) AS unit, count(*)::BIGINT AS series, sum(n)::BIGINT AS n,"
        " max(last) AS last"
        " FROM (SELECT metric_name, series_id, count(*) AS n, max(time_unix_nano) AS last,"
        " any_value(metric_type) AS metric_type, any_value(metric_unit) AS metric_unit"
        f" FROM {lake.table} GROUP BY ALL) GROUP BY ALL"
    )
    labels = _labels(lake, counted)
    found = {row["metric_name"]: _seen(row, labels.get(row["metric_name"], "")) for row in counted}
    if with_unseen or not lake.is_there:
        for one in metric_facts.all_metrics():
            found.setdefault(one.name, _unseen(one))
    return [found[name] for name in sorted(found)]


def _seen(row: Mapping[str, Any], labels: str) -> SeenMetric:
    known = metric_facts.known(row["metric_name"])
    return SeenMetric(
        metric=row["metric_name"],
        type_as_sent=row["type"],
        kind=known.kind if known else None,
        unit=(known.unit if known else row["unit"]) or None,
        series=row["series"],
        rows=row["n"],
        labels=labels,
        is_known=known is not None,
    )


def _unseen(one: Metric) -> SeenMetric:
    return SeenMetric(one.name, None, one.kind, one.unit, 0, 0, ", ".join(one.labels), True)


def _labels(lake: StreamMetrics, counted: Rows) -> dict[str, str]:
    """Names of labels by metric, from the last stretch of the range in which each was seen."""
    columns = [name for name in lake.label_columns() if _spelled(name) not in COMMON_LABELS]
    if not counted or not columns:
        return {}
    newest: datetime = max(row["last"] for row in counted)
    begin = int(newest.timestamp()) - LABEL_SECONDS
    early = [row["metric_name"] for row in counted if row["last"].timestamp() < begin]
    has = ", ".join(f"count({_value(name)}) > 0 AS {views.quoted(name)}" for name in columns)
    sql = (
        f"SELECT metric_name, {has} FROM {lake.table}"
        f" WHERE time_unix_nano >= make_timestamptz({begin * 1_000_000}) GROUP BY metric_name"
    )
    if early:
        names = ", ".join(views.literal(name) for name in early)
        sql += (
            f" UNION ALL SELECT metric_name, {has} FROM {lake.table}"
            f" WHERE metric_name IN ({names}) GROUP BY metric_name"
        )
    return {
        row["metric_name"]: ", ".join(_spelled(name) for name in columns if row[name])
        for row in lake.rows(sql)
    }


def _value(column: str) -> str:
    """A label's value in SQL; null where it is empty, which Prometheus takes for absent."""
    value = f"nullif({views.quoted(column)}, '')"
    if column == "metric_NodeAddress":  # the view fills it from the address that metrics do have
        value = f"CASE WHEN metric_ip IS NULL THEN {value} END"
    return value


def _spelled(column: str) -> str:
    """A point's label as its sender spells it; other columns by their own name."""
    if not column.startswith("metric_"):
        return column
    key = column.removeprefix("metric_")
    escaped = key.removeprefix("label_")
    return escaped if label_column("metric_", escaped) == column else key


def described(lake: StreamMetrics, name: str) -> list[Fact]:
    """Everything that is known of a metric, and what the lake has of it.

    Raises UsageError, with names that are near, where both have nothing.
    """
    columns = lake.label_columns()
    rows = lake.rows(_series_sql(lake.table, columns), {"name": name})
    total = next((row for row in rows if row["label"] is None and row["series"]), None)
    known = metric_facts.known(name) if total else metric_facts.find(name)
    facts = [Fact("known", "metric", name)]
    if known is None:
        facts.append(Fact("known", "meaning", "not a metric of Ray's that is known here"))
    else:
        facts += _known(known)
    if total is None:
        return [*facts, Fact("lake", "series", "0")]
    facts += [
        Fact("lake", key, short(total[key]))
        for key in ("type_as_sent", "unit_as_sent", "series", "rows", "first_seen", "last_seen")
        if total[key]
    ]
    by_label: dict[str, Rows] = {}
    for row in rows:
        if row["label"] is not None:
            by_label.setdefault(row["label"], []).append(row)
    return facts + [Fact("label", label, _values(by_label[label])) for label in sorted(by_label)]


def _series_sql(table: str, columns: Sequence[str]) -> str:
    """Totals in the row without a label, and the most frequent values of each label.

    Labels are the same in all points of a series, so values are counted over series.
    """
    labels = "".join(f", any_value({_value(one)}) AS {views.quoted(one)}" for one in columns)
    listed = ", ".join(views.quoted(one) for one in columns)
    return f"""
WITH one AS MATERIALIZED (
  SELECT series_id, count(*) AS n, min(time_unix_nano) AS first, max(time_unix_nano) AS last,
    any_value(metric_type) AS type, any_value(metric_unit) AS unit{labels}
  FROM {table} WHERE metric_name = $name GROUP BY series_id
), pairs AS (
  SELECT label, value, count(*) AS series, sum(n) AS n, count(*) OVER (PARTITION BY label) AS kept
  FROM (UNPIVOT one ON {listed} INTO NAME label VALUE value) GROUP BY label, value
)
SELECT NULL AS label, NULL AS value, 0::BIGINT AS distinct_values, count(*)::BIGINT AS series,
  sum(n)::BIGINT AS rows, min(first) AS first_seen, max(last) AS last_seen,
  string_agg(DISTINCT type, ', ' ORDER BY type) AS type_as_sent, max(unit) AS unit_as_sent
FROM one
UNION ALL
SELECT label, value, kept::BIGINT, series::BIGINT, n::BIGINT, NULL, NULL, NULL, NULL FROM pairs
QUALIFY row_number() OVER (PARTITION BY label ORDER BY n DESC, value) <= {MAX_VALUES_SHOWN}
ORDER BY label, rows DESC, value"""


def _values(rows: Rows) -> str:
    """`3 values: FAILED (12), FINISHED (10), RUNNING (2)`; in brackets rows."""
    count = rows[0]["distinct_values"]
    shown = ", ".join(f"{row['value']} ({row['rows']})" for row in rows)
    more = f", and {count - len(rows)} more" if count > len(rows) else ""
    return f"{count} {'value' if count == 1 else 'values'}: {shown}{more}"


def _known(one: Metric) -> list[Fact]:
    pairs = [("kind", f"{one.kind}: {KINDS[one.kind]}")]
    if one.kinds:
        special = [f"{value}: {kind}" for value, kind in one.kinds.items() if kind != "gauge"]
        pairs.append((f"kind by {one.label}", ", ".join([*special, "all others: gauge"])))
    pairs += [
        ("unit", one.unit),
        ("endpoints", ", ".join(one.endpoints)),
        ("meaning", one.meaning),
        ("caution", one.caution),
        ("labels", ", ".join(one.labels)),
    ]
    pairs += [
        (f"values of {label}", ", ".join(value or "(empty)" for value in known))
        for label, known in one.values.items()
    ]
    pairs.append(("source", one.source))
    return [Fact("known", name, value) for name, value in pairs if value]


_ARROW: Mapping[str, Callable[[], pa.DataType]] = {"int": pa.int64, "bool": pa.bool_}


def table(found: Sequence[SeenMetric] | Sequence[Fact], kind: type) -> pa.Table:
    """The rows as a table with the columns of their class `kind`."""
    schema = pa.schema([(one.name, _ARROW.get(str(one.type), pa.string)()) for one in fields(kind)])
    return pa.Table.from_pylist([asdict(one) for one in found], schema=schema)
