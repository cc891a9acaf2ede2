"""The view of a stream: its parts as one table that behaves.

Timestamps become TIMESTAMP WITH TIME ZONE, which every function and comparison knows (nanoseconds
remain in the files). Ray's labels are always there, null where no part has them, so that a query
can name them in a stream that never saw them. Ray gives its node metrics `ip` and no `NodeAddress`:
the view fills the one from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa

from rayotel.lake.signal import Signal
from rayotel.model import TimeRange

_NODE_ADDRESS = "metric_NodeAddress"
_SQL_TYPES: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_timestamp, "TIMESTAMPTZ"),
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_integer, "BIGINT"),
    (pa.types.is_floating, "DOUBLE"),
    (pa.types.is_binary, "BLOB"),
)


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's type for a column of a part. Nanoseconds are read as microseconds."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = (f"{quoted(field.name)} {sql_type(field.type)}" for field in kind)
        return f"STRUCT({', '.join(fields)})"
    return next((name for is_it, name in _SQL_TYPES if is_it(kind)), "VARCHAR")


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def union(schemas: Iterable[pa.Schema]) -> dict[str, str]:
    """Column names, told apart without case, and SQL types, of parts that are given in order."""
    by_folded_name: dict[str, tuple[str, str]] = {}
    for schema in {id(schema): schema for schema in schemas}.values():
        for field in schema:
            if field.name.lower() not in by_folded_name:
                by_folded_name[field.name.lower()] = (field.name, sql_type(field.type))
    return dict(by_folded_name.values())


def parts_scan(urls: Sequence[str], columns: Mapping[str, str]) -> str:
    """A table function over parts with the columns given; null where a part lacks one.

    The columns are known beforehand, so no part is opened before the question runs.
    """
    files = ", ".join(literal(url) for url in urls)
    wanted = ", ".join(
        f"{literal(name)}: {{name: {literal(name)}, type: {literal(kind)}, default_value: NULL}}"
        for name, kind in columns.items()
    )
    return f"read_parquet([{files}], schema = MAP {{{wanted}}}, hive_partitioning = false)"


def no_rows(columns: Mapping[str, str]) -> str:
    """A table without rows and with the columns given."""
    none = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in columns.items())
    return f"(SELECT {none} WHERE false)"


def empty_columns(signal: Signal) -> dict[str, str]:
    """The columns of a stream without any label."""
    return {column.name: sql_type(column.type) for column in signal.columns}


def stream_view(
    stream: str, signal: Signal, columns: Iterable[str], source: str, range_: TimeRange | None
) -> str:
    """CREATE VIEW of a stream over `source`, cut to a range where one is given."""
    present = {name.lower(): name for name in columns}
    shown = [
        f"{_node_address(present)} AS {quoted(name)}"
        if folded == _NODE_ADDRESS.lower()
        else quoted(name)
        for folded, name in present.items()
    ]
    for label in signal.ray_labels:
        if label.lower() not in present:
            filled = _node_address(present) if label == _NODE_ADDRESS else "NULL::VARCHAR"
            shown.append(f"{filled} AS {quoted(label)}")
    where = _where(range_) if range_ is not None else ""
    return f"CREATE VIEW {quoted(stream)} AS SELECT {', '.join(shown)} FROM {source}{where}"


def _node_address(present: dict[str, str]) -> str:
    candidates = []
    if "metric_nodeaddress" in present:
        # Prometheus, and so Ray, takes an empty label for an absent one
        candidates.append(f"nullif({quoted(present['metric_nodeaddress'])}, '')")
    if "metric_ip" in present:
        candidates.append(quoted(present["metric_ip"]))
    return f"coalesce({', '.join(candidates)})" if candidates else "NULL::VARCHAR"


def _where(range_: TimeRange) -> str:
    limits = []
    for sign, moment in ((">=", range_.start), ("<", range_.end)):
        if moment is not None:
            limits.append(f"time_unix_nano {sign} make_timestamptz({moment // 1000})")
    return f" WHERE {' AND '.join(limits)}" if limits else ""


def metric_facts_view() -> str:
    """CREATE VIEW `ray_metrics`, all of it text, from what is known of Ray's metrics.

    A mixed metric has a row for each value of the label that decides; every other has one row, in
    which `label` and `label_value` are null. So a series matches one row at most.
    """
    from rayotel.query.ray import metric_facts  # few questions need it

    rows = []
    for metric in metric_facts.all_metrics():
        for value, kind in metric.kinds.items() or [(None, metric.kind)]:
            label = metric.label if value is not None else None
            facts = (metric.unit, metric.meaning, metric.caution, metric.source)
            row = (metric.name, label, value, kind, *facts)
            rows.append(f"({', '.join(_text_or_null(cell) for cell in row)})")
    columns, values = ", ".join(metric_facts.VIEW_COLUMNS), ", ".join(rows)
    return f"CREATE VIEW ray_metrics AS SELECT * FROM (VALUES {values}) AS t({columns})"


def _text_or_null(cell: str | None) -> str:
    return literal(cell) if cell else "NULL::VARCHAR"
