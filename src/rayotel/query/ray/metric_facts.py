"""What each of Ray's metrics really is: the facts of `metric_facts.toml`.

Ray's own types mislead: running totals are sent as gauges, and one metric may hold both.
"""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rayotel.errors import UsageError

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "gauge": "a state at the moment of the report",
        "counter": "a running total, which falls only when its process restarts",
        "cumulative_gauge": "sent as a gauge, but a running total: take increases",
        "owner_gauge": "a running total per owner process: a fall is an owner that left",
        "histogram": "counts of observations by size, running totals",
        "info": "always 1: only its labels matter",
        "broken": "of no use",
        "mixed": "depends on the value of a label",
    }
)
# every series has them, so nothing is learned from their presence
COMMON_LABELS = frozenset(
    {"SessionName", "Version", "otel_scope_name", "otel_scope_schema_url", "otel_scope_version"}
)
VIEW_COLUMNS = (
    "metric_name", "label", "label_value", "kind", "unit", "meaning", "caution", "known_from",
)  # fmt: skip
_CREATED = "_created"
_MAX_NEAR = 5


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. `kind`: see KINDS; of `mixed` ones, `kinds` has the kind by value of `label`.

    `endpoints`: node, autoscaler or dashboard. `labels`: names as Ray spells them, without
    COMMON_LABELS and what a scraper adds. `values`: known values of a label.
    """

    name: str
    kind: str
    unit: str
    endpoints: tuple[str, ...]
    labels: tuple[str, ...]
    meaning: str
    source: str
    caution: str
    label: str
    kinds: Mapping[str, str]
    values: Mapping[str, tuple[str, ...]]

    def kind_of(self, labels: Mapping[str, str]) -> str:
        """The kind of a series with these labels; never `mixed`."""
        if self.kind != "mixed":
            return self.kind
        return self.kinds.get(labels.get(self.label, ""), "gauge")


@functools.cache
def _by_name() -> dict[str, Metric]:
    text = Path(__file__).with_name("metric_facts.toml").read_text("utf-8")
    return {name: _parsed(name, table) for name, table in sorted(tomllib.loads(text).items())}


def _parsed(name: str, table: dict[str, Any]) -> Metric:
    values = {label: tuple(known) for label, known in table.get("values", {}).items()}
    special = dict(table.get("kinds", {}))
    label = special.pop("label", "")
    return Metric(
        name=name,
        kind=table["kind"],
        unit=table["unit"],
        endpoints=tuple(table["endpoint"]),
        labels=tuple(table["labels"]),
        meaning=table["meaning"],
        source=table["source"],
        caution=table.get("caution", ""),
        label=label,
        kinds={value: special.get(value, "gauge") for value in values.get(label, ())},
        values=values,
    )


def all_metrics() -> list[Metric]:
    """Every metric that is known, by name."""
    return list(_by_name().values())


def known(name: str) -> Metric | None:
    """One metric; also the `_created` that some endpoints put beside counters and histograms."""
    metric = _by_name().get(name)
    if metric is None and name.endswith(_CREATED):
        base = name.removesuffix(_CREATED)
        main = _by_name().get(base) or _by_name().get(f"{base}_total")
        if main is not None:
            return _created(name, main)
    return metric


def _created(name: str, main: Metric) -> Metric:
    return replace(
        main,
        name=name,
        kind="gauge",
        unit="seconds",
        meaning=f"When the series of {main.name} began, Unix time; a new value is a restart.",
        caution="Nothing but the beginning of another series: leave it out where space matters.",
        source="measured, Ray 2.60",
    )


def find(name: str) -> Metric:
    """One metric by name. Raises UsageError, whose hint has names that are near."""
    metric = known(name)
    if metric is None:
        raise UsageError(f"no metric '{name[:100]}' is known", hint=_near(name))
    return metric


def _near(name: str) -> str:
    names = list(_by_name())
    folded = name.lower()
    holding = [candidate for candidate in names if folded and folded in candidate]
    near = sorted(holding, key=len) + difflib.get_close_matches(folded, names, _MAX_NEAR, 0.6)
    if not near:
        return "'rayotel metrics --all' lists them"
    return f"near: {', '.join(list(dict.fromkeys(near))[:_MAX_NEAR])}"
