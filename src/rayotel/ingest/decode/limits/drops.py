"""What the settings leave out: metrics and labels, by patterns of their names.

Patterns are the shell's (`*`, `?`, `[ab]`, `[!ab]`). They distinguish upper case from lower and
match a whole name. `METRICS:LABELS`, divided at the last colon, limits a pattern of labels to some
metrics. If several patterns match, the first one drops and is counted.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from rayotel.errors import UsageError
from rayotel.model import Drop

MAX_PATTERNS = 100  # of each setting: each is a label value of the server's own metrics
MAX_PATTERN_CHARACTERS = 200
MAX_COMPILED_SETS = 64  # of label patterns that hold for some metric
# without these no question can separate clusters and nodes
SOURCE_LABELS = ("instance", "cluster_id", "SessionName")
_METRICS, _LABELS = "drop_metrics", "drop_labels"
_SEPARATORS = re.compile(r"[\s,]+")


class NameDrops:
    """Some patterns as one expression."""

    def __init__(self, patterns: Sequence[str], drops: Sequence[Drop]) -> None:
        self._drops = tuple(drops)
        # a group for each, in order: the number of the group that matched is the pattern's
        groups = "|".join(f"({fnmatch.translate(one)})" for one in patterns)
        self._match = re.compile(groups).match if patterns else None

    def of(self, name: str) -> Drop | None:
        """The drop that matches this name."""
        found = self._match(name) if self._match is not None else None
        return None if found is None else self._drops[(found.lastindex or 0) - 1]


class Drops:
    """The patterns of both settings. `all`: each as it was written."""

    def __init__(self, metrics: Sequence[str] = (), labels: Sequence[str] = ()) -> None:
        by_metric = [Drop(_METRICS, one) for one in metrics]
        self._metrics = NameDrops(metrics, by_metric)
        self._labels = [(Drop(_LABELS, one), *_limited(one)) for one in labels]
        self._sets: dict[tuple[int, ...], NameDrops] = {}
        self._limits = [NameDrops([limit], [drop]) for drop, limit, _ in self._labels]
        self.all = (*by_metric, *(drop for drop, _, _ in self._labels))

    def metric(self, name: str) -> Drop | None:
        """The drop that matches this metric."""
        return self._metrics.of(name)

    def labels_of(self, metric: str) -> NameDrops | None:
        """The drops of this metric's labels, by the labels' keys; None if there can be none."""
        key = tuple([n for n, limit in enumerate(self._limits) if limit.of(metric) is not None])
        if not key:
            return None
        found = self._sets.get(key)
        if found is None:
            chosen = [self._labels[number] for number in key]
            found = NameDrops([label for *_, label in chosen], [drop for drop, *_ in chosen])
            if len(self._sets) >= MAX_COMPILED_SETS:
                self._sets.clear()
            self._sets[key] = found
        return found


NO_DROPS = Drops()


def parse_drops(metrics: str, labels: str) -> Drops:
    """The settings' patterns. Raises UsageError, which never shows one."""
    of_metrics, of_labels = _patterns(metrics, _METRICS), _patterns(labels, _LABELS)
    for number, pattern in enumerate(of_metrics, 1):
        if not pattern.strip("*"):
            raise UsageError(
                f"setting '{_METRICS}': pattern {number} matches every metric",
                hint="name the families to drop, or stop sending",
            )
    for number, pattern in enumerate(of_labels, 1):
        limit, label = _limited(pattern)
        if not limit or not label:
            raise UsageError(
                f"setting '{_LABELS}': pattern {number} is empty before or after its colon",
                hint="write LABELS or METRICS:LABELS, for example ray_component_*:pid",
            )
        for name in SOURCE_LABELS:
            if fnmatch.fnmatchcase(name, label):
                raise UsageError(
                    f"setting '{_LABELS}': pattern {number} matches '{name}',"
                    " which says where points come from",
                    hint=f"{', '.join(SOURCE_LABELS)} are always kept: write a narrower pattern",
                )
    return Drops(of_metrics, of_labels)


def _patterns(text: str, setting: str) -> list[str]:
    found = [one for one in _SEPARATORS.split(text) if one]
    if len(found) > MAX_PATTERNS:
        raise UsageError(f"setting '{setting}' has more than {MAX_PATTERNS} patterns")
    for number, pattern in enumerate(found, 1):
        if len(pattern) > MAX_PATTERN_CHARACTERS:
            raise UsageError(
                f"setting '{setting}': pattern {number} has more than"
                f" {MAX_PATTERN_CHARACTERS} characters"
            )
    return found


def _limited(pattern: str) -> tuple[str, str]:
    """The metrics and the labels of a pattern of labels."""
    limit, colon, label = pattern.rpartition(":")
    return (limit if colon else "*"), label
