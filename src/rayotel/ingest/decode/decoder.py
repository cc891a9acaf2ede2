"""From a record (how a request came, and its body as sent) to columns, whatever the format.

The receiver calls this before it acknowledges, the committer for what only the WAL remembers: one
way, so both get the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rayotel.ingest.decode import ray_events
from rayotel.ingest.decode.limits.drops import NO_DROPS, Drops
from rayotel.ingest.decode.limits.inflate import BodyTooLarge, MalformedBody, inflate
from rayotel.ingest.decode.otlp import json as otlp_json
from rayotel.ingest.decode.otlp.fast import metrics as otlp_metrics
from rayotel.ingest.decode.otlp.fast.metrics import Memory
from rayotel.lake.schema import EVENTS
from rayotel.model import Batch, MetricBatch, Record

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
CONTENT_TYPES = (PROTOBUF, JSON)


# what an event loop may spend on inflating and comparing
MAX_RECOGNISED_BYTES = 64 * 1024
MAX_RECOGNISED_INFLATED_BYTES = 1024 * 1024


class Recognised(NamedTuple):
    """The columns of a request, and how many bytes it inflated to."""

    batch: MetricBatch
    inflated_bytes: int


def no_reservation(size_bytes: int) -> None:
    """For callers that hold one body at a time and need no account of it."""


class Decoder:
    """Decodes records; remembers series between them. Safe for several threads."""

    def __init__(
        self,
        *,
        max_inflated_body_bytes: int,
        max_series_cached_bytes: int,
        drops: Drops = NO_DROPS,
    ) -> None:
        self._max_inflated_body_bytes = max_inflated_body_bytes
        self._memory = Memory(max_series_cached_bytes, drops)

    def decode_any(self, record: Record, reserve: Callable[[int], None] = no_reservation) -> Batch:
        """Columns of a record of any signal. Raises a ValueError of `bodies` or of its signal."""
        if record.arrival.signal == EVENTS:
            return ray_events.decode(self._inflated(record, reserve), record.arrival)
        return self.decode(record, reserve)

    def decode(
        self, record: Record, reserve: Callable[[int], None] = no_reservation
    ) -> MetricBatch:
        """Columns of a metrics record. Raises a ValueError of `bodies`, `otlp_json` or `wire`."""
        body = self._inflated(record, reserve)
        if record.arrival.content_type == JSON:
            body = otlp_json.metrics_request_bytes(body)
        return otlp_metrics.decode(body, record.arrival, self._memory)

    def _inflated(self, record: Record, reserve: Callable[[int], None]) -> bytes:
        encoding = record.arrival.content_encoding
        return inflate(record.body, encoding, self._max_inflated_body_bytes, reserve)

    def recognised(self, record: Record) -> Recognised | None:
        """Columns of a small record whose like was decoded before; None for any other.

        It costs well below a millisecond, so an event loop may wait for it.
        """
        arrival = record.arrival
        if arrival.content_type == JSON or arrival.signal == EVENTS:
            return None
        if len(record.body) > MAX_RECOGNISED_BYTES:
            return None
        sizes: list[int] = []
        try:
            body = inflate(
                record.body, arrival.content_encoding, MAX_RECOGNISED_INFLATED_BYTES, sizes.append
            )
        except (BodyTooLarge, MalformedBody):
            return None
        batch = otlp_metrics.recognised(body, arrival, self._memory)
        return None if batch is None else Recognised(batch, sum(sizes))
