"""Rows of any signal: each has its own way from batches to tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.rows.tables import Tables, Wanted, every_hour
from rayotel.lake.signal import Signal
from rayotel.model import Batch


def tables(
    signal: Signal,
    batches: Sequence[Batch],
    memory: StreamMemory,
    is_stored: Callable[[str], bool],
    wanted: Wanted = every_hour,
) -> Tables:
    """The rows of `batches` in the hours wanted; all batches are of one stream and signal.

    `memory`: what the commits of the stream have in common; it must not be used for anything else
    until the hours are read. `is_stored`: whether a row with this id is in a part already. The same
    arguments give the same rows.
    """
    made: Tables = signal.piece("rayotel.lake.rows").tables(batches, memory, is_stored, wanted)
    return made
