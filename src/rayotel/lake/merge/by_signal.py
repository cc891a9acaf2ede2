"""Merging parts of any signal: each has its own order of rows and its own kind of duplicate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from rayotel.lake import schema
from rayotel.lake.merge import events as event_merge
from rayotel.lake.merge import metrics as metric_merge

Merge = Callable[[Sequence[Path], Path, str, Path], int]
MERGES: dict[str, Merge] = {
    schema.METRICS: metric_merge.merge,
    schema.EVENTS: event_merge.merge,
}


def merge(inputs: Sequence[Path], output: Path, stream: str, spill: Path) -> int:
    """Merge Parquet parts of one stream into one; returns its rows.

    `spill` is an empty directory to work in. Raises ValueError for parts of several signals.
    """
    signals = {schema.signal_of(pq.read_schema(path).names) for path in inputs}
    if len(signals) > 1:
        raise ValueError(f"parts of {' and '.join(sorted(signals))} in one stream")
    return MERGES[signals.pop()](inputs, output, stream, spill)


def rows_of(inputs: Sequence[Path]) -> int:
    """How many rows these parts have."""
    return sum(pq.read_metadata(path).num_rows for path in inputs)
