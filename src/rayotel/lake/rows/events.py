"""Decoded events to Arrow tables, hour by hour of event time.

Rows are sorted by type, time and id, as in merged parts; rows without a type are last. Each id is
kept once. An hour becomes pieces of a bounded size.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayotel.lake import schema
from rayotel.lake.label_columns import ChosenLabels, chosen
from rayotel.lake.parts import HourRows
from rayotel.lake.rows.dictionaries import text_column
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.rows.tables import Tables, Wanted, cuts_of, in_pieces
from rayotel.lake.signal import EVENTS
from rayotel.model import NANOSECONDS_PER_HOUR, Arrival, Event, EventBatch

_OF_ARRIVAL = ("p_timestamp", "p_src_ip", "p_user_agent", schema.OVERFLOW)
_OF_EVENT = tuple(name for name in EVENTS.types if name not in _OF_ARRIVAL)
# almost every row has another: a dictionary of them would be a second copy
_DISTINCT = frozenset(EVENTS.merged.long)
_RAY_LABELS = frozenset(label.lower() for label in EVENTS.ray_labels)
# rough costs of a row in a piece: its codes, and those of its labels
_ROW_BYTES = 150
_CODE_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Origin:
    """The common part of the rows of one request: `labels` by column, `spare` are second ones."""

    arrival: Arrival
    labels: dict[str, str]
    spare: dict[str, str]


_Row = tuple[Event, _Origin]


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
    by_hour: dict[int, list[_Row]] = {}
    left_out = 0
    for batch in batches:
        origin = _origin(batch.arrival)
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
    # hours are taken from the dictionary, so that what is written can be let go
    hours = (_hour(hour, by_hour.pop(hour), memory) for hour in sorted(by_hour))
    return Tables(hours, ids, left_out)


def _origin(arrival: Arrival) -> _Origin:
    columns: dict[str, str] = {}
    spare: dict[str, str] = {}
    for name, value in arrival.header_columns:
        column = EVENTS.header_column(name)
        (spare if column in columns else columns).setdefault(column, value)
    return _Origin(arrival, columns, spare)


def _hour(hour: int, rows: list[_Row], memory: StreamMemory) -> HourRows:
    rows.sort(key=_order)
    per_origin = Counter(id(origin) for _, origin in rows)
    origins = list({id(origin): origin for _, origin in rows}.values())
    counts: Counter[str] = Counter()
    for origin in origins:
        counts.update(dict.fromkeys(origin.labels, per_origin[id(origin)]))
    labels = chosen(counts, _RAY_LABELS, memory.max_label_columns)
    columns = {column: _column(column, labels) for column in counts}
    overflows = {id(origin): _overflow(origin, columns) for origin in origins}
    costs = [
        event.memory_bytes + _ROW_BYTES + _CODE_BYTES * len(labels.spelled)
        + (len(overflows[id(origin)]) * 30 if event.beside else 0)
        for event, origin in rows
    ]  # fmt: skip
    cuts = cuts_of(np.array(costs, np.int64))
    names = sorted(labels.spelled.values())
    pieces = (_table(rows[begin:end], names, overflows) for begin, end in itertools.pairwise(cuts))
    beyond = sum(
        per_origin[id(origin)]
        for origin in origins
        if any(column.lower() in labels.beyond for column in origin.labels)
    )
    if len(cuts) == 2:
        return HourRows.of(hour, next(pieces), beyond)
    texts = dict.fromkeys((*EVENTS.types, *names), len(rows))
    return in_pieces(EVENTS, hour, len(rows), names, texts, pieces, beyond)


def _column(label: str, labels: ChosenLabels) -> str | None:
    """The column of a label; None: it has none. All names are in lower case."""
    return labels.spelled.get(label)


def _table(
    rows: list[_Row],
    labels: Sequence[str],
    overflows: dict[int, dict[str, str]],
) -> pa.Table:
    events = [event for event, _ in rows]
    origins = [origin for _, origin in rows]
    arrived = [origin.arrival.received_unix_nano // schema.NANOSECONDS for origin in origins]
    made = {
        "p_timestamp": pa.array(arrived, schema.TIMESTAMP),
        "p_src_ip": _text("p_src_ip", [origin.arrival.source_ip for origin in origins]),
        "p_user_agent": _text("p_user_agent", [origin.arrival.user_agent for origin in origins]),
        schema.OVERFLOW: _text(schema.OVERFLOW, _overflow_texts(rows, overflows)),
    }
    for name in _OF_EVENT:
        values = [getattr(event, name) for event in events]
        kind = EVENTS.types[name]
        if pa.types.is_string(kind):
            made[name] = _text(name, values)
        elif pa.types.is_timestamp(kind):
            made[name] = pa.array([value // schema.NANOSECONDS for value in values], kind)
        else:
            made[name] = pa.array(values, kind)
    in_order = {name: made[name] for name in EVENTS.types}
    for label in labels:
        in_order[label] = _text(label, [origin.labels.get(label) for origin in origins])
    return pa.table(in_order)


def _order(row: _Row) -> tuple[bool, str, int, str]:
    kind = row[0].event_type
    # as the columns hold them: what is told apart by less than a microsecond is ordered by its id
    time = row[0].time_unix_nano // schema.NANOSECONDS
    return kind is None, kind or "", time, row[0].event_id


def _text(name: str, values: Sequence[str | None]) -> pa.Array:
    if name in _DISTINCT:
        return pa.array(values, pa.string())
    return text_column(values, lambda codes: codes)


def _overflow(origin: _Origin, columns: dict[str, str | None]) -> dict[str, str]:
    """The labels of a request that have no column."""
    demoted = {name: text for name, text in origin.labels.items() if columns[name] is None}
    return {**origin.spare, **demoted}


def _overflow_texts(rows: list[_Row], overflows: dict[int, dict[str, str]]) -> list[str | None]:
    """Labels without a column and members beside the payload, as one JSON object."""
    alone: dict[int, str | None] = {}
    texts: list[str | None] = []
    for event, origin in rows:
        overflow = overflows[id(origin)]
        if event.beside:
            texts.append(_json({**json.loads(event.beside), **overflow}))
        else:
            if id(origin) not in alone:
                alone[id(origin)] = _json(overflow) if overflow else None
            texts.append(alone[id(origin)])
    return texts


def _json(members: Mapping[str, object]) -> str:
    return json.dumps(members, ensure_ascii=False, sort_keys=True)
