"""Metrics requests of either format to columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rayotel.ingest.decode.limits.drops import Drops
from rayotel.ingest.decode.otlp import json
from rayotel.ingest.decode.otlp.fast import metrics
from rayotel.ingest.decode.otlp.fast.metrics import Memory
from rayotel.model import JSON, Arrival, MetricBatch


class BodyDecoder:
    """Decodes bodies without their Content-Encoding; remembers series. Safe for several threads."""

    def __init__(self, *, max_series_cached_bytes: int, drops: Drops) -> None:
        self._memory = Memory(max_series_cached_bytes, drops)

    def decode(self, body: bytes, arrival: Arrival) -> MetricBatch:
        """Columns of a body. Raises MalformedProtobuf, MalformedJson."""
        if arrival.content_type == JSON:
            body, rejected = json.metrics_request_bytes(body)
            batch = metrics.decode(body, arrival, self._memory)
            return replace(batch, rejected=rejected + Counter(batch.rejected))
        return metrics.decode(body, arrival, self._memory)

    def recognised(self, body: bytes, arrival: Arrival) -> MetricBatch | None:
        """The same for a body whose like was decoded before; None for any other."""
        if arrival.content_type == JSON:
            return None
        return metrics.recognised(body, arrival, self._memory)
