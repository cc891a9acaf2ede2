"""OTLP metrics to columns, as protobuf's own library parses them: the reference.

`reference` decodes the points, and this module everything around them. Every other way to read a
request (see `fast`) must give the same columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence, Set
from typing import Any

from rayotel.ingest.decode.limits.drops import NO_DROPS, Drops
from rayotel.ingest.decode.otlp import messages
from rayotel.ingest.decode.otlp.reference import FullDecode
from rayotel.ingest.decode.otlp.series import Account, Context, Labels
from rayotel.model import Arrival, MetricBatch, Series


class SentInPieces(ValueError):
    """A body has one metric twice: its points must keep their order."""


class Contexts:
    """Resources and scopes with the series of their metrics, remembered and forgotten together."""

    def __init__(self, drops: Drops = NO_DROPS) -> None:
        self.drops = drops
        self.account = Account()
        self._labels = Labels(self.account)
        self._parsed: dict[tuple[object, ...], Context] = {}

    def of(self, arrival: Arrival, resource_metrics: Any, scope_metrics: Any) -> Context:
        """The context of a scope."""
        key = (
            arrival.stream, arrival.header_columns,
            resource_metrics.resource.SerializeToString(), resource_metrics.schema_url,
            scope_metrics.scope.SerializeToString(), scope_metrics.schema_url,
        )  # fmt: skip
        context = self._parsed.get(key)
        if context is None:
            context = self._parsed[key] = self.new(arrival, resource_metrics, scope_metrics)
        return context

    def new(self, arrival: Arrival, resource_metrics: Any, scope_metrics: Any) -> Context:
        """A context of its own for a scope."""
        return Context(
            arrival, resource_metrics, scope_metrics, self._labels, self.account, self.drops
        )


def decode_in_full(body: bytes, arrival: Arrival, contexts: Contexts) -> MetricBatch:
    """Decode an ExportMetricsServiceRequest. Raises MalformedProtobuf; deterministic."""
    before = contexts.account.size_bytes
    request = messages.parse_metrics_request(body)
    series: list[Series] = []
    rejected: Counter[str] = Counter()
    full = FullDecode(arrival.received_unix_nano, series, rejected)
    for resource_metrics in request.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            if scope_metrics.metrics:
                context = contexts.of(arrival, resource_metrics, scope_metrics)
                decode_metrics(scope_metrics.metrics, context, full)
    return MetricBatch(
        arrival,
        series,
        full.chunks(),
        rejected,
        max(0, contexts.account.size_bytes - before),
        full.dropped,
    )


def decode_metrics(
    metrics: Sequence[Any],
    context: Context,
    full: FullDecode,
    apart_from: Set[Hashable] = frozenset(),
) -> None:
    """Decode metrics of one scope. Raises SentInPieces for one whose head is among `apart_from`."""
    for metric in metrics:
        data = metric.WhichOneof("data")
        if data is not None:
            head = context.head(metric)
            if apart_from and head.content in apart_from:
                raise SentInPieces
            full.metric(head, getattr(metric, data).data_points)
