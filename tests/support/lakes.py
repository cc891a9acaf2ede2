"""Small lakes made without a server: parts as the committer writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from rayotel.ingest.decode.decoder import Decoder
from rayotel.lake import parts
from rayotel.lake.layout import PartName, Span
from rayotel.lake.parts import HourRows
from rayotel.lake.rows import by_signal
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.signal import EVENTS, METRICS, Signal
from rayotel.lake.storage.interface import Storage
from rayotel.model import JSON, NANOSECONDS_PER_HOUR, PROTOBUF, Arrival, Batch, Record
from support.harness import gauge_request

RECEIVER = "0123456789ab"
OTHER = "ba9876543210"
HOUR = 490_000
START = HOUR * NANOSECONDS_PER_HOUR
T0 = 1_795_186_800 * 10**9  # 2026-11-20 15:00 UTC
AFTER = T0 + 10 * NANOSECONDS_PER_HOUR
RECEIVED = 1_796_000_000 * 10**9
EPOCH = "e0e0e0e0e0"
DECODER = Decoder(max_inflated_body_bytes=1 << 26, max_series_cached_bytes=1 << 22)


def part_name(
    first: int,
    last: int | None = None,
    level: int = 0,
    *,
    stream: str = "s",
    hour: int = HOUR,
    receiver: str = RECEIVER,
    epoch: str = EPOCH,
    is_settled: bool = False,
) -> PartName:
    """The name of a part of one span."""
    spans = (Span(epoch, first, first if last is None else last),)
    return PartName(stream, hour, receiver, spans, level, is_settled)


def tables_by_hour(
    batches: Sequence[Batch], memory: StreamMemory, signal: Signal = METRICS
) -> dict[int, pa.Table]:
    """The rows of batches of one stream, by hour, as a commit makes them."""
    made = by_signal.tables(signal, batches, memory, lambda _: False)
    return {hour.hour: pa.concat_tables(list(hour.pieces)) for hour in made.hours}


def part(table: pa.Table, stream: str = "s", signal: Signal = METRICS) -> memoryview:
    """The bytes of a part with the rows of a table."""
    return parts.to_parquet(HourRows.of(0, table), stream, signal, "")


def put(
    storage: Storage,
    signal: Signal,
    batches: Sequence[Batch],
    span: PartName,
    known: set[str] | None = None,
) -> list[str]:
    """Store batches as parts of the hours that they touch; `span` names all else. The keys.

    Rows whose ids are known are left out, and what is stored is known from then on.
    """
    known = set() if known is None else known
    made = by_signal.tables(signal, batches, StreamMemory(512), known.__contains__)
    known.update(made.ids)
    keys = []
    for hour in made.hours:
        name = replace(span, hour=hour.hour)
        storage.put_new(name.key, parts.to_parquet(hour, span.stream, signal, ""))
        keys.append(name.key)
    return keys


def commit(
    storage: Storage,
    number: int,
    *bodies: bytes,
    receiver: str = RECEIVER,
    stream: str = "s",
    received: int = RECEIVED,
    epoch: str = EPOCH,
) -> list[str]:
    """Commit bodies as one segment; the keys of its parts."""
    arrival = Arrival("metrics", stream, PROTOBUF, "identity", received + number, "", "")
    batches = [DECODER.decode(Record(arrival, body)) for body in bodies]
    name = part_name(number, stream=stream, receiver=receiver, epoch=epoch)
    return put(storage, METRICS, batches, name)


def commit_events(
    storage: Storage,
    number: int,
    *bodies: bytes,
    stream: str = "e",
    received: int = RECEIVED,
    columns: tuple[tuple[str, str], ...] = (),
) -> list[str]:
    """Commit bodies of events as one segment that knows no other; the keys of its parts."""
    arrival = Arrival("events", stream, JSON, "identity", received + number, "", "", columns)
    batches = [DECODER.decode(Record(arrival, body)) for body in bodies]
    return put(storage, EVENTS, batches, part_name(number, stream=stream))


def names(storage: Storage) -> list[str]:
    """The names of all objects, without their directories, and without the lake's own."""
    own = ("_rayotel/layout", "_rayotel/probe")
    return sorted(i.key.rpartition("/")[2] for i in storage.objects("") if i.key not in own)


def write(
    storage: Storage, *requests: bytes, stream: str = "raymetrics", first: int = 1,
    last: int | None = None, level: int = 0,
) -> list[str]:  # fmt: skip
    """Store requests as parts, as a server would; their keys."""
    arrival = Arrival("metrics", stream, PROTOBUF, "identity", AFTER, "127.0.0.1", "test")
    batches = [DECODER.decode(Record(arrival, body)) for body in requests]
    name = part_name(first, last, level, stream=stream, receiver="0" * 12)
    return put(storage, METRICS, batches, name)


def gauge(*values: float, at: int = T0, name: str = "m", **labels: str) -> bytes:
    """A request of a gauge; a point per value, a nanosecond apart."""
    return gauge_request(*values, name=name, time_unix_nano=at, **labels)
