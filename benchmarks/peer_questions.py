"""Questions that rayotel answers in SQL and the others in PromQL, and whether they agree.

Where the others need several expressions for the columns of one question, all are asked and timed
together. Answers are compared group by group (a node, a task, a metric): the groups must be the
same, and the first expression's values must be near SQL's, summed or averaged over the range.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peer_servers import Peer
from rayotel.query.ray import questions as shipped
from rayotel.query.session import Session

STEP_SECONDS = 60
Values = dict[tuple[str, ...], list[float]]


@dataclass(frozen=True, slots=True)
class Question:
    """A question in both languages.

    `sql`: of its own, or empty for the shipped question of this name. `keys`, `value`: SQL's
    columns; `labels`: PromQL's for the keys. `expressions` may have `{range}`; `step` 0: of one
    moment. `is_total`: values are added, not averaged; `tolerance`: how far apart they may be.
    """

    name: str
    keys: tuple[str, ...]
    value: str
    labels: tuple[str, ...]
    expressions: tuple[str, ...]
    sql: str = ""
    step: int = 0
    is_total: bool = False
    tolerance: float = 0.01

    @property
    def text(self) -> str:
        """The SQL."""
        return self.sql or shipped.find(self.name).sql

    @property
    def parameters(self) -> dict[str, str]:
        """The SQL's parameters."""
        return {} if self.sql else shipped.find(self.name).bind({})

    def of_session(self, session: Session) -> list[dict[str, Any]]:
        """SQL's answer."""
        return session.run(self.text, self.parameters).rows()

    def of_peer(self, peer: Peer, start: int, end: int) -> list[list[dict[str, Any]]]:
        """PromQL's answers."""
        return [
            peer.ask(one.replace("{range}", f"{end - start}s"), start, end, step=self.step)
            for one in self.expressions
        ]

    def values_of_rows(self, rows: Iterable[Mapping[str, Any]]) -> Values:
        """SQL's answer by group."""
        found: Values = {}
        for row in rows:
            if row[self.value] is not None:
                key = tuple(str(row[name] or "") for name in self.keys)
                found.setdefault(key, []).append(float(row[self.value]))
        return found

    def values_of_series(self, answers: list[list[dict[str, Any]]]) -> Values:
        """PromQL's answer by group, of the first expression."""
        found: Values = {}
        for series in answers[0]:
            key = tuple(series["metric"].get(name, "") for name in self.labels)
            pairs = series.get("values") or [series["value"]]
            found.setdefault(key, []).extend(float(value) for _, value in pairs)
        return found

    def differences(self, ours: Values, theirs: Values) -> str:
        """What is not the same, in few words; nothing where they agree."""
        if ours.keys() != theirs.keys():
            return (
                f"groups: {len(ours.keys() - theirs.keys())} less, {len(theirs.keys() - ours)} more"
            )
        if not self.is_total and not _near(_count(ours), _count(theirs), self.tolerance):
            return f"{_count(theirs)} values, not {_count(ours)}"
        far = [
            k for k in ours if not _near(self._one(ours[k]), self._one(theirs[k]), self.tolerance)
        ]
        if far:
            mine, other = self._one(ours[far[0]]), self._one(theirs[far[0]])
            return f"{len(far)} of {len(ours)}: {'/'.join(far[0])} {other:g}, not {mine:g}"
        return ""

    def _one(self, values: list[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        total = math.fsum(known)
        return total if self.is_total else total / max(1, len(known))


def _count(values: Values) -> int:
    return sum(map(len, values.values()))


def _near(one: float, other: float, tolerance: float) -> bool:
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-9)


_TASKS = 'ray_tasks{State="FAILED",Name!~"JobSupervisor[.].*|_ray_internal.*"}'
_FAILED = f"max_over_time({_TASKS}[1m])"
_FAILED_BEFORE = f"max_over_time({_TASKS}[1m] offset 1m)"
_SHIPPED = (
    Question(
        "node-cpu", ("node",), "cpu_mean_pct", ("instance",),
        (
            "avg_over_time(ray_node_cpu_utilization[1m])",
            "max_over_time(ray_node_cpu_utilization[1m])",
            "max_over_time(ray_node_cpu_count[1m])",
        ),
        step=STEP_SECONDS,
    ),
    Question(
        "node-memory", ("node",), "memory_used_bytes", ("instance",),
        (
            "max_over_time(ray_node_cgroup_mem_used[1m])",
            "max_over_time(ray_node_cgroup_mem_total[1m])",
        ),
        step=STEP_SECONDS,
    ),
    Question(
        "object-store", ("node",), "object_store_used_pct", ("instance",),
        (
            "100 * max_over_time(ray_object_store_used_memory[1m])"
            " / (max_over_time(ray_object_store_used_memory[1m])"
            " + min_over_time(ray_object_store_available_memory[1m]))",
            "sum by (instance)"
            ' (max_over_time(ray_object_store_memory{Location="SPILLED"}[1m]))',
            "max_over_time(ray_object_store_fallback_memory[1m])",
        ),
        step=STEP_SECONDS, tolerance=0.03,
    ),
    Question(  # as rayotel: a series that is new or was gone counts whole, a drop counts nothing
        "task-failures", ("task",), "failed_attempts", ("Name",),
        (
            f"sum by (Name) (clamp_min({_FAILED} - ({_FAILED_BEFORE} or 0 * {_FAILED}), 0)) > 0",
        ),
        step=STEP_SECONDS, is_total=True, tolerance=0.2,
    ),
    Question(
        "fleet", ("session",), "cpu_mean_pct", ("SessionName",),
        (
            "avg by (SessionName) (avg_over_time(ray_node_cpu_utilization[{range}]))",
            "count by (SessionName) (last_over_time(ray_node_cpu_count[{range}]))",
            f"sum by (SessionName) (increase({_TASKS}[{{range}}]))",
        ),
        tolerance=0.05,
    ),
)  # fmt: skip

_SCRAPES = """
SELECT metric_instance AS node, count(*) AS scrapes
FROM raymetrics WHERE metric_name = 'ray_node_cpu_count' GROUP BY ALL ORDER BY node
"""
_LATEST = """
SELECT any_value(metric_name) AS metric, series_id,
       arg_max(data_point_value, time_unix_nano) AS latest
FROM raymetrics WHERE metric_type <> 'histogram' GROUP BY series_id
"""
_ONE_SERIES = """
SELECT time_unix_nano, metric_instance AS node, data_point_value AS used FROM raymetrics
WHERE metric_name = 'ray_node_mem_used' AND metric_instance = '{instance}' ORDER BY time_unix_nano
"""
_TOP_NODES = """
SELECT metric_instance AS node, avg(data_point_value) AS busy
FROM raymetrics WHERE metric_name = 'ray_node_cpu_utilization'
GROUP BY ALL ORDER BY busy DESC LIMIT 5
"""
_COMPONENTS = """
SELECT component, avg(of_series) AS resident FROM (
  SELECT metric_Component AS component, series_id, avg(data_point_value) AS of_series
  FROM raymetrics WHERE metric_name = 'ray_component_rss_bytes' GROUP BY ALL
) GROUP BY ALL ORDER BY component
"""
_CALLS = """
SELECT node, sum(if(value < before, value, value - before)) AS calls FROM (
  SELECT metric_instance AS node, data_point_value AS value,
         lag(data_point_value) OVER (PARTITION BY series_id ORDER BY time_unix_nano) AS before
  FROM raymetrics WHERE metric_name = 'ray_grpc_server_req_finished_total'
) GROUP BY ALL ORDER BY node
"""
_OBJECT_MEMORY = """
SELECT date_trunc('minute', time_unix_nano) AS minute, metric_instance AS node,
       coalesce(metric_ObjectState, '') AS object_state,
       avg(data_point_value) AS held
FROM raymetrics WHERE metric_name = 'ray_object_store_memory' GROUP BY ALL ORDER BY ALL
"""


def questions(instance: str, histograms: Iterable[str]) -> list[Question]:
    """All. `instance`: the node of the question for one series; `histograms`: what has no value."""
    parts = f"({'|'.join(sorted(histograms))})_(bucket|sum|count)"
    latest = f'last_over_time({{__name__=~".+",__name__!~"{parts}"}}[{{range}}])'
    return [
        *_SHIPPED,
        Question(
            "scrapes of each node", ("node",), "scrapes", ("instance",),
            ("count_over_time(ray_node_cpu_count[{range}])",), _SCRAPES,
        ),
        Question(
            "latest value of every series", ("metric",), "latest", ("__name__",),
            (latest,), _LATEST,
        ),
        Question(
            "one series, every sample", ("node",), "used", ("instance",),
            (f'ray_node_mem_used{{instance="{instance}"}}[{{range}}]',),
            _ONE_SERIES.format(instance=instance),
        ),
        Question(
            "the five busiest nodes", ("node",), "busy", ("instance",),
            ("topk(5, avg_over_time(ray_node_cpu_utilization[{range}]))",), _TOP_NODES,
        ),
        Question(
            "mean memory of each component", ("component",), "resident", ("Component",),
            ("avg by (Component) (avg_over_time(ray_component_rss_bytes[{range}]))",), _COMPONENTS,
        ),
        Question(
            "RPCs served by each node", ("node",), "calls", ("instance",),
            ("sum by (instance) (increase(ray_grpc_server_req_finished_total[{range}]))",), _CALLS,
            tolerance=0.1,
        ),
        Question(
            "object memory by state and minute", ("node", "object_state"), "held",
            ("instance", "ObjectState"),
            (
                "sum by (instance, ObjectState) (sum_over_time(ray_object_store_memory[1m]))"
                " / sum by (instance, ObjectState) (count_over_time(ray_object_store_memory[1m]))",
            ),
            _OBJECT_MEMORY, step=STEP_SECONDS, tolerance=0.03,
        ),
    ]  # fmt: skip
