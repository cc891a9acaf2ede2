"""The metrics of a stream: which there are, what they are known to be, and what the lake has.

The macros `metric_overview`, `metric_labels` and `metric_label_values` ask; this module puts their
answers beside what is known of each metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from rayotel.errors import QueryError
from rayotel.lake import catalog
from rayotel.lake.schema import label_column
from rayotel.lake.storage.interface import Storage
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange
from rayotel.query import views
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

    metric_name: str
    metric_type: str | None
    kind: str | None
    unit: str | None
    series: int
    points: int
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

    def rows(self, question: str, **parameters: object) -> Rows:
        """The rows of a question that has `{}` for the stream; none where there is no stream."""
        if not self.is_there:
            return []
        sql = question.format(views.literal(self.stream))
        with self._lake.ask(sql, self.range, parameters) as result:
            return result.rows()


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
    counted = lake.rows("FROM metric_overview({})")
    labels = _labels(lake, counted)
    by_name = {
        row["metric_name"]: _seen(row, labels.get(row["metric_name"], "")) for row in counted
    }
    if with_unseen or not lake.is_there:
        for metric in metric_facts.all_metrics():
            by_name.setdefault(metric.name, _unseen(metric))
    return [by_name[name] for name in sorted(by_name)]


def _seen(row: Mapping[str, Any], labels: str) -> SeenMetric:
    known = metric_facts.known(row["metric_name"])
    return SeenMetric(
        metric_name=row["metric_name"],
        metric_type=row["metric_type"],
        kind=known.kind if known else None,
        unit=(known.unit if known else row["metric_unit"]) or None,
        series=row["series"],
        points=row["points"],
        labels=labels,
        is_known=known is not None,
    )


def _unseen(metric: Metric) -> SeenMetric:
    return SeenMetric(
        metric.name, None, metric.kind, metric.unit, 0, 0, ", ".join(metric.labels), True
    )


def _labels(lake: StreamMetrics, counted: Rows) -> dict[str, str]:
    """Names of labels by metric, from the last stretch of the range in which each was seen."""
    if not counted:
        return {}
    newest: datetime = max(row["last_seen"] for row in counted)
    since = newest - timedelta(seconds=LABEL_SECONDS)
    early = [row["metric_name"] for row in counted if row["last_seen"] < since]
    by_metric: dict[str, list[str]] = {}
    labelled = "FROM metric_labels({}, $since, $early)"
    for row in lake.rows(labelled, since=since, early=early):
        if _spelled(row["label"]) not in COMMON_LABELS:
            by_metric.setdefault(row["metric_name"], []).append(row["label"])
    return {name: ", ".join(map(_spelled, sorted(labels))) for name, labels in by_metric.items()}


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
    overview = "FROM metric_overview({}) WHERE metric_name = $metric"
    total = next(iter(lake.rows(overview, metric=name)), None)
    known = metric_facts.known(name) if total else metric_facts.find(name)
    facts = [Fact("known", "metric_name", name)]
    if known is None:
        facts.append(Fact("known", "meaning", "not a metric of Ray's that is known here"))
    else:
        facts += _known(known)
    if total is None:
        return [*facts, Fact("lake", "series", "0")]
    facts += [
        Fact("lake", key, short(total[key]))
        for key in ("metric_type", "metric_unit", "series", "points", "first_seen", "last_seen")
        if total[key]
    ]
    by_label: dict[str, Rows] = {}
    for row in lake.rows("FROM metric_label_values({}, $metric)", metric=name):
        by_label.setdefault(row["label"], []).append(row)
    return facts + [Fact("label", label, _values(by_label[label])) for label in sorted(by_label)]


def _values(rows: Rows) -> str:
    """`3 values: FAILED (12), FINISHED (10), RUNNING (2)`; in brackets points."""
    most = sorted(rows, key=lambda row: (-row["points"], row["content"]))[:MAX_VALUES_SHOWN]
    shown = ", ".join(f"{row['content']} ({row['points']})" for row in most)
    more = f", and {len(rows) - len(most)} more" if len(rows) > len(most) else ""
    return f"{len(rows)} {'value' if len(rows) == 1 else 'values'}: {shown}{more}"


def _known(metric: Metric) -> list[Fact]:
    pairs = [("kind", f"{metric.kind}: {KINDS[metric.kind]}")]
    if metric.kinds:
        special = [f"{value}: {kind}" for value, kind in metric.kinds.items() if kind != "gauge"]
        pairs.append((f"kind by {metric.label}", ", ".join([*special, "all others: gauge"])))
    pairs += [
        ("unit", metric.unit),
        ("endpoints", ", ".join(metric.endpoints)),
        ("meaning", metric.meaning),
        ("caution", metric.caution),
        ("labels", ", ".join(metric.labels)),
    ]
    pairs += [
        (f"values of {label}", ", ".join(value or "(empty)" for value in known))
        for label, known in metric.values.items()
    ]
    pairs.append(("known_from", metric.source))
    return [Fact("known", name, value) for name, value in pairs if value]


_ARROW: Mapping[str, Callable[[], pa.DataType]] = {"int": pa.int64, "bool": pa.bool_}


def table(rows: Sequence[SeenMetric] | Sequence[Fact], kind: type) -> pa.Table:
    """The rows as a table with the columns of their class `kind`."""
    schema = pa.schema(
        [(field.name, _ARROW.get(str(field.type), pa.string)()) for field in fields(kind)]
    )
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
