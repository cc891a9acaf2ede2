"""From a record (how a request came, and its body as sent) to columns, whatever the format.

The receiver calls this before it acknowledges, the committer for what only the log remembers: one
way, so both get the same rows.
"""

from __future__ import annotations

from collections.abc import Callable

from rayotel.ingest import otlp_json, otlp_metrics
from rayotel.ingest.bodies import inflate
from rayotel.ingest.otlp_metrics import Memory
from rayotel.ingest.wal import Record
from rayotel.model import MetricBatch

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
CONTENT_TYPES = (PROTOBUF, JSON)


def no_reservation(size_bytes: int) -> None:
    """For callers that hold one body at a time and need no account of it."""


class Decoder:
    """Decodes records; remembers series between them. Safe for several threads."""

    def __init__(self, *, max_inflated_body_bytes: int, max_series_cached_bytes: int) -> None:
        self._max_inflated_body_bytes = max_inflated_body_bytes
        self._memory = Memory(max_series_cached_bytes)

    def decode(
        self, record: Record, reserve: Callable[[int], None] = no_reservation
    ) -> MetricBatch:
        """Columns of a record. Raises a ValueError of `bodies`, `otlp_json` or `wire`."""
        arrival = record.arrival
        body = inflate(
            record.body, arrival.content_encoding, self._max_inflated_body_bytes, reserve
        )
        if arrival.content_type == JSON:
            body = otlp_json.metrics_request_bytes(body)
        return otlp_metrics.decode(body, arrival, self._memory)
