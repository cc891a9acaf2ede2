"""Rows of any signal: each has its own way from batches to tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.rows.tables import Tables
from rayotel.lake.signal import Signal
from rayotel.model import Batch


def tables(
    signal: Signal,
    batches: Sequence[Batch],
    memory: StreamMemory,
    is_stored: Callable[[str], bool],
) -> Tables:
    """All rows of `batches`, which are of one stream and signal. Deterministic.

    `memory`: what the commits of the stream have in common. `is_stored`: whether a row with this
    id is in a part already.
    """
    made: Tables = signal.piece("rayotel.lake.rows").tables(batches, memory, is_stored)
    return made
