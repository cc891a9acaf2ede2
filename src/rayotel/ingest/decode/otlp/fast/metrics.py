"""OTLP metrics to columns: repeated bytes are recognised, and only their numbers are read.

It tries a body as a whole (see `templates`), then metric by metric. It walks an unknown metric (see
`walk`). The reference decodes anything unusual, and decides what is rejected and what is repaired.
All ways give the same columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from rayotel.ingest.decode.limits.bounds import (
    EARLIEST_UNIX_NANO,
    LATEST_AFTER_ARRIVAL_NANO,
    MAX_REQUEST_COLUMNS,
    MAX_REQUEST_SERIES,
    MAX_REQUEST_TEXT_BYTES,
    Rejected,
)
from rayotel.ingest.decode.limits.budget import are_few_hours, is_within
from rayotel.ingest.decode.limits.drops import NO_DROPS, Drops
from rayotel.ingest.decode.otlp import messages
from rayotel.ingest.decode.otlp.fast.gather import Int64s, Layout, Plan, Unjudged, joined, words_of
from rayotel.ingest.decode.otlp.fast.templates import (
    BodyTemplate,
    BodyTemplates,
    MetricTemplate,
    MetricTemplates,
    Sender,
    blanked,
    metric_template,
)
from rayotel.ingest.decode.otlp.fast.walk import Irregular, ScopeOutline, scopes_of
from rayotel.ingest.decode.otlp.metrics import (
    Contexts,
    SentInPieces,
    decode_in_full,
    decode_metric,
)
from rayotel.ingest.decode.otlp.pieces import metric_of
from rayotel.ingest.decode.otlp.reference import FullDecode
from rayotel.ingest.decode.otlp.series import Account, Context
from rayotel.model import Arrival, Drop, MetricBatch, Points, Series

# of a body that is put together from templates: texts take ten times their bytes on the way
_MAX_LEARNED_BYTES = 4 * 1024 * 1024
# and each number fifty bytes
_MAX_NUMBERS = 400_000
_MOST_TEXT_OF_A_BYTE = 8


class Memory:
    """Series and templates of earlier requests, bounded by their bytes.

    Templates of whole bodies have two fifths of the room, and new ones replace the oldest. When the
    rest is full, all of it is forgotten; series in use return within one scrape. Safe for threads:
    a thread that still uses forgotten series gives the right columns all the same.
    """

    def __init__(self, max_bytes: int, drops: Drops = NO_DROPS) -> None:
        self._max_bytes = max_bytes
        self._body_bytes = max_bytes * 2 // 5
        self._drops = drops
        self._known = Known(self._body_bytes, drops)

    def known(self) -> Known:
        """The current series and templates, for one request."""
        if self._known.account.size_bytes >= self._max_bytes - self._body_bytes:
            self._known = Known(self._body_bytes, self._drops)
        return self._known

    @property
    def size_bytes(self) -> int:
        """About how much is remembered."""
        return self._known.account.size_bytes + self._known.bodies.size_bytes


class Known:
    """Contexts and templates that refer to each other and are forgotten together."""

    def __init__(self, max_body_template_bytes: int, drops: Drops = NO_DROPS) -> None:
        self.contexts = Contexts(drops)
        self.bodies = BodyTemplates(max_body_template_bytes)
        self._scopes: dict[tuple[object, ...], tuple[Context, MetricTemplates]] = {}

    @property
    def account(self) -> Account:
        """The bytes that contexts and templates of metrics take."""
        return self.contexts.account

    def scope(self, arrival: Arrival, scope: ScopeOutline) -> tuple[Context, MetricTemplates]:
        """The context of a scope that was walked, and the templates of its metrics."""
        key = (arrival.stream, arrival.header_columns, *scope.key)
        known_scope = self._scopes.get(key)
        if known_scope is None:
            context = self.contexts.of(arrival, scope.key)
            known_scope = self._scopes[key] = (context, MetricTemplates(self.account))
        return known_scope


def decode(body: bytes, arrival: Arrival, memory: Memory) -> MetricBatch:
    """Decode an ExportMetricsServiceRequest. Raises messages.MalformedProtobuf; deterministic."""
    known = memory.known()
    try:
        return _recognised(body, arrival, known) or _learned(body, arrival, known)
    except (Irregular, Rejected, SentInPieces, Unjudged, messages.MalformedProtobuf):
        return decode_in_full(body, arrival, known.contexts)


def recognised(body: bytes, arrival: Arrival, memory: Memory) -> MetricBatch | None:
    """The same where the whole body has a template and nothing is to be rejected; else None."""
    try:
        return _recognised(body, arrival, memory.known())
    except Unjudged:
        return None


def _recognised(body: bytes, arrival: Arrival, known: Known) -> MetricBatch | None:
    """A body that has a template."""
    template = known.bodies.find(_sender(arrival), body)
    if template is None:
        return None
    return _read(template.plan, template.series, template.dropped, body, arrival)


def _sender(arrival: Arrival) -> Sender:
    return arrival.stream, arrival.header_columns


def _read(
    plan: Plan | None,
    series: tuple[Series, ...],
    dropped: Mapping[Drop, int],
    body: bytes,
    arrival: Arrival,
) -> MetricBatch:
    if plan is None:
        return MetricBatch(arrival, (), (), dropped=dropped)
    latest = arrival.received_unix_nano + LATEST_AFTER_ARRIVAL_NANO
    chunks = plan.read(words_of(body), EARLIEST_UNIX_NANO, latest)
    if not are_few_hours([points.time for points in chunks]):
        raise Unjudged
    return MetricBatch(arrival, series, chunks, dropped=dropped)


@dataclass(slots=True)
class _Metrics:
    """The metrics of a body: where they are, their scopes, and what was found for each."""

    places: list[tuple[int, int]] = field(default_factory=list)
    scopes: list[tuple[Context, MetricTemplates]] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    templates: list[MetricTemplate | None] = field(default_factory=list)


def _learned(body: bytes, arrival: Arrival, known: Known) -> MetricBatch:
    """A body put together from templates of metrics, which are made where there are none."""
    if len(body) > _MAX_LEARNED_BYTES:
        raise Irregular
    before = known.account.size_bytes
    metrics = _Metrics()
    for outline in scopes_of(body):
        scope = known.scope(arrival, outline)
        candidates_of, templates = scope[1].candidates, metrics.templates
        metrics.contexts.append(scope[0])
        for start, end in outline.metrics:
            candidates = candidates_of(body, start, end)
            templates.append(candidates[0] if candidates else None)
        metrics.places += outline.metrics
        metrics.scopes += [scope] * len(outline.metrics)
    fixed, irregular = _whole(body, metrics)
    plan, all_of = _plan(metrics)
    if not _surely_within(body, metrics, all_of, known) and not is_within(all_of, ()):
        raise Irregular
    dropped = _dropped(metrics) if known.contexts.drops.all else Counter[Drop]()
    batch = _read(plan, all_of, dropped, body, arrival)
    if not irregular:
        # at first sight: a quiet sender must not come here again, where its metrics are remembered
        body_template = BodyTemplate(bytes(fixed), _numbers(metrics), plan, all_of, dropped)
        known.bodies.add(_sender(arrival), body_template)
    chunks, series = batch.chunks, batch.series
    rejected: Counter[str] = Counter()
    if irregular:
        full = FullDecode(arrival.received_unix_nano)
        templated = {
            template.head.content for template in metrics.templates if template is not None
        }
        for position in irregular:
            metric = metric_of(body, *metrics.places[position])
            if metric is not None and metric.has_points():
                decode_metric(metric, metrics.scopes[position][0], full, templated)
        chunks, series = _together(batch, full)
        rejected = full.rejected
        dropped = dropped + full.dropped
    made = max(0, known.account.size_bytes - before)
    return MetricBatch(arrival, series, chunks, rejected, made, dropped)


def _surely_within(
    body: bytes, metrics: _Metrics, series: tuple[Series, ...], known: Known
) -> bool:
    """Whether a request's series cannot exceed its bounds, which is so for all but a few."""
    if len(series) > MAX_REQUEST_SERIES:
        raise Irregular
    shared = max((context.shared_text_bytes for context in metrics.contexts), default=0)
    columns = known.contexts.labels.column_count
    columns += sum([len(context.outer) for context in metrics.contexts])
    # a label's column, text and cost are at most eight times its bytes
    text = shared * len(series) + _MOST_TEXT_OF_A_BYTE * len(body)
    return columns <= MAX_REQUEST_COLUMNS and text <= MAX_REQUEST_TEXT_BYTES


def _together(batch: MetricBatch, full: FullDecode) -> tuple[list[Points], list[Series]]:
    """Points and series of both. Raises Irregular where one decode might have rejected more."""
    offset = np.int32(len(batch.series))
    chunks = [*batch.chunks]
    chunks += [replace(points, series=points.series + offset) for points in full.chunks()]
    series = [*batch.series, *full.series]
    if full.budget.was_exceeded or not is_within(series, chunks):
        raise Irregular
    return chunks, series


def _dropped(metrics: _Metrics) -> Counter[Drop]:
    """Drops from the metrics that have a template, counted."""
    dropped: Counter[Drop] = Counter()
    for template in metrics.templates:
        if template is not None:
            for drop, count in template.dropped.items():
                dropped[drop] += count
    return dropped


def _whole(body: bytes, metrics: _Metrics) -> tuple[bytearray, list[int]]:
    """The body with its numbers blank, and which of its metrics must be decoded in full."""
    places, templates = metrics.places, metrics.templates
    known = _numbers(metrics)
    numbers = len(known)
    fixed = blanked(body, known)
    unknown = [
        position
        for position, template in enumerate(templates)
        if template is None or not fixed.startswith(template.fixed, places[position][0])
    ]
    for position in unknown:
        start, end = places[position]
        raw = body[start:end]
        template = templates[position] = _template_of(raw, metrics, position)
        numbers += 0 if template is None else len(template.places)
        if numbers > _MAX_NUMBERS:
            raise Irregular
        fixed[start:end] = raw if template is None else template.fixed
    irregular = [position for position in unknown if templates[position] is None]
    return fixed, irregular


def _numbers(metrics: _Metrics) -> Int64s:
    """The places of the numbers, if the metrics equal their templates."""
    placed = [
        (start, template.places)
        for (start, _), template in zip(metrics.places, metrics.templates, strict=True)
        if template is not None
    ]
    if not placed:
        return np.zeros(0, np.int64)
    places = np.concatenate([numbers for _, numbers in placed])
    starts = np.array([start for start, _ in placed])
    places += starts.repeat([len(numbers) for _, numbers in placed])
    return places


def _template_of(raw: bytes, metrics: _Metrics, position: int) -> MetricTemplate | None:
    """Another template that this metric has, or a new one; None where it cannot have any."""
    context, templates = metrics.scopes[position]
    refused = metrics.templates[position]
    if refused is not None:
        for candidate in templates.candidates(raw, 0, len(raw)):
            if candidate is not refused and blanked(raw, candidate.places) == candidate.fixed:
                return candidate
    try:
        made = metric_template(raw, context)
    except Irregular:
        return None
    templates.add(raw, made)
    return made


def _plan(metrics: _Metrics) -> tuple[Plan | None, tuple[Series, ...]]:
    """How the points of all metrics are read, and their series."""
    layouts: dict[str, list[Layout]] = {"number": [], "histogram": []}
    starts: dict[str, list[int]] = {"number": [], "histogram": []}
    series: dict[str, list[Series]] = {"number": [], "histogram": []}
    for (start, _), template in zip(metrics.places, metrics.templates, strict=True):
        if template is not None and template.series:
            layouts[template.kind].append(template.layout)
            starts[template.kind].append(start)
            series[template.kind] += template.series
    plan = None
    if any(layouts.values()):
        plan = Plan(*(joined(of, starts[kind]) if of else None for kind, of in layouts.items()))
    return plan, (*series["number"], *series["histogram"])
