"""Merging parts of any signal: each has its own order of rows and its own kind of duplicate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from rayotel.lake.parts import signal_in
from rayotel.lake.signal import BY_NAME, Signal

_ROOM = "rayotel.lake.merge"


def merge(
    inputs: Sequence[Path],
    output: Path,
    stream: str,
    spill: Path,
    against: Sequence[Path] = (),
) -> int:
    """Merge Parquet parts of one stream into one; returns its rows.

    `spill` is an empty directory to work in. Rows that repeat a row of the parts `against` are left
    out like those that repeat each other; the output may have no rows then. Raises ValueError for
    parts of several signals.
    """
    names = {_signal(path).name for path in (*inputs, *against)}
    if len(names) > 1:
        raise ValueError(f"parts of {' and '.join(sorted(names))} in one stream")
    rows: int = BY_NAME[names.pop()].piece(_ROOM).merge(inputs, output, stream, spill, against)
    return rows


def _signal(path: Path) -> Signal:
    metadata = pq.read_metadata(path)
    return signal_in(metadata.metadata, metadata.schema.names)


def rows_of(inputs: Sequence[Path]) -> int:
    """How many rows these parts have."""
    return sum(pq.read_metadata(path).num_rows for path in inputs)
