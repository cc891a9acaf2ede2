"""Decoded events to Arrow tables, one per hour of event time.

Rows are sorted by type, time and id, as in merged parts; rows without a type are last. Each id is
kept once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from rayotel.lake import schema
from rayotel.lake.parts import HourRows
from rayotel.lake.rows.label_columns import LabelColumns
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.rows.tables import Tables, Wanted
from rayotel.lake.signal import EVENTS
from rayotel.model import NANOSECONDS_PER_HOUR, Arrival, Event, EventBatch

_OF_ARRIVAL = ("p_timestamp", "p_src_ip", "p_user_agent", schema.OVERFLOW)
_OF_EVENT = tuple(name for name in EVENTS.types if name not in _OF_ARRIVAL)
# almost every row has another: a dictionary of them would be a second copy
_DISTINCT = frozenset(EVENTS.merged.long)


@dataclass(frozen=True, slots=True)
class _Origin:
    """The common part of the rows of one request: columns and labels."""

    arrival: Arrival
    labels: dict[str, str]
    overflow: dict[str, str]


def tables(
    batches: Sequence[EventBatch],
    memory: StreamMemory,
    is_stored: Callable[[str], bool],
    wanted: Wanted,
) -> Tables:
    """All events of `batches`, which are of one stream. Deterministic.

    Left out are events whose id `is_stored`, and all but the first of those that share one.
    """
    kept: set[str] = set()
    ids: list[str] = []
    by_hour: dict[int, list[tuple[Event, _Origin]]] = {}
    left_out = 0
    for batch in batches:
        origin = _origin(batch.arrival, memory.labels)
        for event in batch.events:
            hour = event.time_unix_nano // NANOSECONDS_PER_HOUR
            is_wanted = wanted(hour)
            if event.event_id in kept or is_stored(event.event_id):
                left_out += is_wanted
                continue
            kept.add(event.event_id)
            if is_wanted:
                ids.append(event.event_id)
                by_hour.setdefault(hour, []).append((event, origin))
    hours = (HourRows.of(hour, _table(rows)) for hour, rows in sorted(by_hour.items()))
    return Tables(hours, ids, left_out)


def _origin(arrival: Arrival, labels: LabelColumns) -> _Origin:
    columns: dict[str, str] = {}
    overflow: dict[str, str] = {}
    for name, value in arrival.header_columns:
        column = EVENTS.header_column(name)
        has_place = column not in columns and labels.admit(column)
        (columns if has_place else overflow).setdefault(column, value)
    return _Origin(arrival, columns, overflow)


def _table(rows: list[tuple[Event, _Origin]]) -> pa.Table:
    rows.sort(key=_order)
    events = [event for event, _ in rows]
    origins = [origin for _, origin in rows]
    columns = {
        "p_timestamp": pa.array(
            [origin.arrival.received_unix_nano for origin in origins], schema.TIMESTAMP
        ),
        "p_src_ip": _text("p_src_ip", [origin.arrival.source_ip for origin in origins]),
        "p_user_agent": _text("p_user_agent", [origin.arrival.user_agent for origin in origins]),
        schema.OVERFLOW: _text(schema.OVERFLOW, list(_overflow(rows))),
    }
    for name in _OF_EVENT:
        values = [getattr(event, name) for event in events]
        kind = EVENTS.types[name]
        is_text = pa.types.is_string(kind)
        columns[name] = _text(name, values) if is_text else pa.array(values, kind)
    table_columns = {name: columns[name] for name in EVENTS.types}
    for label in sorted({label for origin in origins for label in origin.labels}):
        table_columns[label] = _text(label, [origin.labels.get(label) for origin in origins])
    return pa.table(table_columns)


def _order(row: tuple[Event, _Origin]) -> tuple[bool, str, int, str]:
    kind = row[0].event_type
    return kind is None, kind or "", row[0].time_unix_nano, row[0].event_id


def _text(name: str, values: list[str | None]) -> pa.Array:
    array = pa.array(values, pa.string())
    return array if name in _DISTINCT else array.dictionary_encode()


def _overflow(rows: list[tuple[Event, _Origin]]) -> Iterator[str | None]:
    """Labels without a column and members beside the payload, as one JSON object."""
    for event, origin in rows:
        beside = json.loads(event.beside) if event.beside else {}
        both = {**beside, **origin.overflow}
        yield json.dumps(both, ensure_ascii=False, sort_keys=True) if both else None
