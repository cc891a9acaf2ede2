"""The view of a stream: its parts as one table that behaves.

Timestamps become TIMESTAMP WITH TIME ZONE, which every function and comparison knows (nanoseconds
remain in the files). Ray's labels are always there, null where no part has them, so that a query
can name them in a stream that never saw them. Ray gives its node metrics `ip` and no `NodeAddress`:
the view fills the one from the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rayotel.lake.schema import METRIC_TYPES
from rayotel.model import TimeRange

Column = tuple[str, str]
RAY_LABELS = (
    "metric_NodeAddress", "metric_SessionName", "metric_JobId", "metric_WorkerId", "metric_State",
    "metric_ObjectState", "metric_Location", "metric_label_Name", "metric_label_Type",
    "metric_IsRetry", "metric_Source", "metric_Component", "metric_Reason", "metric_IsHeadNode",
    "metric_RayNodeType", "metric_ip", "metric_instance", "metric_job", "metric_cluster_id",
    "cluster_id",
)  # fmt: skip
_NANOSECOND_TYPES = re.compile(r"TIMESTAMPTZ_NS|TIMESTAMP_NS|TIMESTAMP WITH TIME ZONE_NS")
_SQL_TYPES = {
    "timestamp[ns, tz=UTC]": "TIMESTAMPTZ",
    "string": "VARCHAR",
    "double": "DOUBLE",
    "int64": "BIGINT",
    "bool": "BOOLEAN",
    "list<item: int64>": "BIGINT[]",
    "list<item: double>": "DOUBLE[]",
}
_EXEMPLARS = (
    'STRUCT(time_unix_nano TIMESTAMPTZ, "value" DOUBLE, value_int BIGINT, trace_id VARCHAR,'
    " span_id VARCHAR, filtered_attributes VARCHAR)[]"
)


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def parts_scan(urls: Sequence[str]) -> str:
    """A table function over the parts, with the union of their columns."""
    files = ", ".join(literal(url) for url in urls)
    return f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"


def empty_columns() -> list[Column]:
    """The columns of a metrics stream without any label."""
    return [(name, _SQL_TYPES.get(str(kind), _EXEMPLARS)) for name, kind in METRIC_TYPES.items()]


def metrics_view(stream: str, columns: Sequence[Column], source: str, range_: TimeRange) -> str:
    """CREATE VIEW of a metrics stream over `source`, which has `columns` (name, type)."""
    present = {name.lower(): name for name, _ in columns}
    shown = [_shown(name, kind, present) for name, kind in columns]
    for label in RAY_LABELS:
        if label.lower() not in present:
            filled = _node_address(present) if label == "metric_NodeAddress" else "NULL::VARCHAR"
            shown.append(f"{filled} AS {quoted(label)}")
    where = _where(range_)
    return f"CREATE VIEW {quoted(stream)} AS SELECT {', '.join(shown)} FROM {source}{where}"


def _shown(name: str, kind: str, present: dict[str, str]) -> str:
    if name.lower() == "metric_nodeaddress":
        return f"{_node_address(present)} AS {quoted(name)}"
    if _NANOSECOND_TYPES.search(kind):
        return f"{quoted(name)}::{_NANOSECOND_TYPES.sub('TIMESTAMPTZ', kind)} AS {quoted(name)}"
    return quoted(name)


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
            limits.append(f"time_unix_nano::TIMESTAMPTZ {sign} make_timestamptz({moment // 1000})")
    return f" WHERE {' AND '.join(limits)}" if limits else ""
