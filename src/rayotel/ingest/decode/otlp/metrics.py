"""OTLP metrics to columns, as protobuf's own library parses them: the reference.

`pieces` takes a request apart, `reference` decodes the points, and this module everything around
them. Every other way to read a request (see `fast`) must give the same columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from typing import Any

from rayotel.ingest.decode.limits.bounds import Rejected
from rayotel.ingest.decode.limits.drops import NO_DROPS, Drops
from rayotel.ingest.decode.otlp import messages
from rayotel.ingest.decode.otlp.pieces import (
    MetricPieces,
    ScopeKey,
    check_nested_within,
    metric_of,
    scopes_of,
)
from rayotel.ingest.decode.otlp.reference import FullDecode
from rayotel.ingest.decode.otlp.series import Account, Context, Labels
from rayotel.model import Arrival, MetricBatch


class SentInPieces(ValueError):
    """A body has one metric twice: its points must keep their order."""


class Contexts:
    """Resources and scopes with the series of their metrics, remembered and forgotten together."""

    def __init__(self, drops: Drops = NO_DROPS) -> None:
        self.drops = drops
        self.account = Account()
        self.labels = Labels(self.account)
        self._known: dict[tuple[object, ...], Context] = {}

    def of(self, arrival: Arrival, key: ScopeKey) -> Context:
        """The context of a scope, by the fields around its metrics.

        Raises MalformedProtobuf, Rejected.
        """
        whole = (arrival.stream, arrival.header_columns, *key)
        context = self._known.get(whole)
        if context is None:
            context = Context(arrival, key, self.labels, self.account, self.drops)
            self._known[whole] = context
            self.account.size_bytes += sum(map(len, key))
        return context


def decode_in_full(body: bytes, arrival: Arrival, contexts: Contexts) -> MetricBatch:
    """Decode an ExportMetricsServiceRequest. Raises MalformedProtobuf; deterministic."""
    before = contexts.account.size_bytes
    full = FullDecode(arrival.received_unix_nano)
    for scope in scopes_of(body):
        context: Context | None = None
        reason = scope.reason
        for start, after in scope.metrics():
            metric = metric_of(body, start, after)
            if metric is None or not metric.has_points():
                continue
            if context is None and reason is None:
                try:
                    full.budget.scope()
                    context = contexts.of(arrival, scope.key)
                except Rejected as error:
                    reason = str(error)
            if context is None or reason is not None:
                full.reject(metric.count(), str(reason))
            else:
                decode_metric(metric, context, full)
    return MetricBatch(
        arrival,
        full.series,
        full.chunks(),
        full.rejected,
        max(0, contexts.account.size_bytes - before),
        full.dropped,
    )


def decode_metric(
    metric: MetricPieces,
    context: Context,
    full: FullDecode,
    apart_from: Set[Hashable] = frozenset(),
) -> None:
    """Decode a metric of a scope. Raises SentInPieces where its head is among `apart_from`."""
    try:
        if metric.reason is not None:
            raise Rejected(metric.reason)
        full.budget.metric()
        head = context.head(_shell(metric.shell))
    except Rejected as error:
        full.reject(metric.count(), str(error))
        return
    if apart_from and head.content in apart_from:
        raise SentInPieces
    if head.dropped_by is not None:
        full.drop(head.dropped_by, metric)
        return
    full.metric(head, metric)


def _shell(raw: bytes) -> Any:
    """A Metric without points. Raises MalformedProtobuf, Rejected."""
    try:
        return messages.parse_metric(raw)
    except messages.MalformedProtobuf:
        check_nested_within(raw, 0x62)
        raise
