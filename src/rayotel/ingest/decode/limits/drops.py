"""What the settings drop: metrics and labels, by patterns of their names, compiled.

Patterns are the shell's (`*`, `?`, `[ab]`, `[!ab]`). They distinguish upper case from lower and
match a whole name. `METRICS:LABELS`, divided at the last colon, limits a pattern of labels to some
metrics. If several patterns match, the first one drops and is counted.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from rayotel.model import Drop

MAX_COMPILED_SETS = 64  # of label patterns that hold for some metric
_METRICS, _LABELS = "drop_metrics", "drop_labels"


class NameDrops:
    """Some patterns as one expression."""

    def __init__(self, patterns: Sequence[str], drops: Sequence[Drop]) -> None:
        self._drops = tuple(drops)
        # a group for each, in order: the number of the group that matched is the pattern's
        groups = "|".join(f"({fnmatch.translate(pattern)})" for pattern in patterns)
        self._match = re.compile(groups).match if patterns else None

    def of(self, name: str) -> Drop | None:
        """The drop that matches this name."""
        match = self._match(name) if self._match is not None else None
        return None if match is None else self._drops[(match.lastindex or 0) - 1]


class Drops:
    """The patterns of both settings, as `config` let them pass. `all`: each as it was written."""

    def __init__(self, metrics: Sequence[str] = (), labels: Sequence[str] = ()) -> None:
        by_metric = [Drop(_METRICS, pattern) for pattern in metrics]
        self._metrics = NameDrops(metrics, by_metric)
        by_label = [Drop(_LABELS, pattern) for pattern in labels]
        self._labels = [(drop, *drop.metrics_and_labels) for drop in by_label]
        self._sets: dict[tuple[int, ...], NameDrops] = {}
        self._limits = [NameDrops([limit], [drop]) for drop, limit, _ in self._labels]
        self.all = (*by_metric, *by_label)

    def metric(self, name: str) -> Drop | None:
        """The drop that matches this metric."""
        return self._metrics.of(name)

    def labels_of(self, metric: str) -> NameDrops | None:
        """The drops of this metric's labels, by the labels' keys; None if there can be none."""
        key = tuple([n for n, limit in enumerate(self._limits) if limit.of(metric) is not None])
        if not key:
            return None
        name_drops = self._sets.get(key)
        if name_drops is None:
            chosen = [self._labels[number] for number in key]
            name_drops = NameDrops([label for *_, label in chosen], [drop for drop, *_ in chosen])
            if len(self._sets) >= MAX_COMPILED_SETS:
                self._sets.clear()
            self._sets[key] = name_drops
        return name_drops


NO_DROPS = Drops()
