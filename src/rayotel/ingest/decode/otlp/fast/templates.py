"""Templates: bytes that a sender repeats, with their numbers masked.

Two scrapes of one target differ only in their numbers: times, doubles, integers and the counts of
histograms, all of them fixed64 fields. A template is a stretch of bytes with these numbers masked,
and the places of the numbers, found by a walk over its own bytes (see `walk`). Other bytes that
equal the template outside the mask, tags and lengths included, parse to the same structure and the
same series. So only their numbers are read.

There are two levels. A repeated body costs one masked comparison. In a body that changed somewhere,
each metric is looked up by its length, first and last bytes; all candidates are compared at once,
and only the metrics that differ are walked again. Checksums and keys only find a template. A
comparison of bytes always decides whether it fits.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib

from rayotel.ingest.decode.limits.bounds import Rejected
from rayotel.ingest.decode.otlp import messages
from rayotel.ingest.decode.otlp.fast.gather import (
    NO_LAYOUT,
    Form,
    Int64s,
    Layout,
    Plan,
    form_of,
    kind_of,
    layout_of,
    points_data,
    words_of,
)
from rayotel.ingest.decode.otlp.fast.walk import (
    Irregular,
    MetricOutline,
    attributes_of,
    metric_outline,
    point_outline,
)
from rayotel.ingest.decode.otlp.pieces import metric_of
from rayotel.ingest.decode.otlp.series import Account, Context, Head
from rayotel.model import Drop, Series

WORD_BYTES = 8
_HEAD_BYTES = 32
_MAX_TAIL_BYTES = 256
_MAX_ALIKE = 4
_TEMPLATE_BYTES = 1500
_SIGHT_BYTES = 80
Sender = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True, eq=False)
class MetricTemplate:
    """A metric's bytes with the numbers at `places` blank, how they are read, and its series.

    `dropped`: labels or points left out of it, by pattern; a dropped metric is not read.
    """

    fixed: bytes
    places: Int64s
    kind: str
    layout: Layout
    series: tuple[Series, ...]
    head: Head
    dropped: Mapping[Drop, int]

    @property
    def size_bytes(self) -> int:
        """Memory of this template."""
        arrays = self.places.nbytes + self.layout.size_bytes
        return len(self.fixed) + arrays + 8 * len(self.series) + _TEMPLATE_BYTES


_Found = tuple[Layout, Int64s, list[Series], Mapping[Drop, int]]
_NOTHING: Mapping[Drop, int] = {}


def metric_template(raw: bytes, context: Context) -> MetricTemplate:
    """The template of a metric. Raises Irregular, MalformedProtobuf."""
    outline = metric_outline(raw)
    head = context.heads.get(outline.key)
    if head is None:
        head = context.heads[outline.key] = _head(raw, context)
    if head.dropped_by is not None:
        return _dropped_metric(raw, outline, head, head.dropped_by)
    data = points_data(outline.data)
    try:
        content = _alike(raw, outline.points, data, head) or _one_by_one(
            raw, outline.points, data, head
        )
    except (IndexError, Rejected):
        raise Irregular from None
    layout, places, series, dropped = content
    fixed = bytes(blanked(raw, places))
    kind = kind_of(outline.data)
    return MetricTemplate(fixed, places, kind, layout, tuple(series), head, dropped)


def _head(raw: bytes, context: Context) -> Head:
    """The head of a metric that is new to a context. Raises Irregular, MalformedProtobuf."""
    metric = metric_of(raw, 0, len(raw))
    if metric is None or metric.reason is not None:
        raise Irregular
    try:
        return context.head(messages.parse_metric(metric.shell))
    except Rejected:
        raise Irregular from None


def _dropped_metric(raw: bytes, outline: MetricOutline, head: Head, drop: Drop) -> MetricTemplate:
    """The template of a metric that is dropped: where its numbers are, to be passed over."""
    data, points = points_data(outline.data), outline.points
    try:
        common = _form(raw, points, data, head)
        if common is not None:
            form, starts = common
            _, places = form.layout(raw, starts)
        else:
            outlines = [point_outline(raw, start, end, data) for start, end in points]
            places = layout_of(raw, outlines, data).places().astype(np.int64)
    except IndexError:
        raise Irregular from None
    fixed, count = bytes(blanked(raw, places)), {drop: len(points)}
    return MetricTemplate(fixed, places, kind_of(outline.data), NO_LAYOUT, (), head, count)


def _form(
    raw: bytes, points: Sequence[tuple[int, int]], data: int, head: Head
) -> tuple[Form, Int64s] | None:
    """The form that all these points have, and where they start; None where they have none."""
    if not points:
        return None
    starts, ends = np.array(points, np.int64).T
    form = head.shape
    if not isinstance(form, Form) or not form.fits(raw, starts, ends):
        form = form_of(raw, point_outline(raw, *points[0], data), points[0], data)
        if form is None or not form.fits(raw, starts, ends):
            return None
        head.shape = form
    return form, starts


def _alike(raw: bytes, points: Sequence[tuple[int, int]], data: int, head: Head) -> _Found | None:
    """What all points have in common if they are of one form; None otherwise."""
    common = _form(raw, points, data, head)
    if common is None:
        return None
    form, starts = common
    size, known, series = form.size_bytes, head.known, []
    for start, end in points:
        # what stands behind the form is a key only where it was walked, and is attributes alone
        point_series = known.get(raw[start + size : end])
        if point_series is None:
            try:
                point_series = _series(raw, (start + size, end), data, head)
            except Irregular:
                return None
        series.append(point_series)
    layout, places = form.layout(raw, starts)
    dropped = _dropped(head, (raw[start + size : end] for start, end in points))
    return layout, places, series, dropped


def _one_by_one(raw: bytes, points: Sequence[tuple[int, int]], data: int, head: Head) -> _Found:
    """The same for points of several forms that the walk understood."""
    outlines = [point_outline(raw, start, end, data) for start, end in points]
    layout = layout_of(raw, outlines, data)
    series = [_series(raw, outline.attributes, data, head) for outline in outlines]
    dropped = _dropped(head, (raw[slice(*outline.attributes)] for outline in outlines))
    return layout, layout.places().astype(np.int64), series, dropped


def _dropped(head: Head, keys: Iterable[bytes]) -> Mapping[Drop, int]:
    """The labels that points with these attributes lose, counted."""
    if not head.dropped:
        return _NOTHING
    return Counter(drop for key in keys for drop in head.dropped.get(key, ()))


def _series(raw: bytes, attributes: tuple[int, int], data: int, head: Head) -> Series:
    key = raw[attributes[0] : attributes[1]]
    series = head.known.get(key)
    if series is None:
        attributes_sent = attributes_of(raw, *attributes, data)
        kept, dropped = head.kept(attributes_sent)
        series = head.series(kept, key, dropped)
    return series


class MetricTemplates:
    """Templates of the metrics of one context, by their length, first and last bytes."""

    def __init__(self, account: Account) -> None:
        self._tails: dict[tuple[int, bytes], int] = {}
        self._found: dict[tuple[int, bytes, bytes], list[MetricTemplate]] = {}
        # hashes: they decide what is worth remembering, and nothing else
        self._sights: set[int] = set()
        self._account = account

    def candidates(self, body: bytes, start: int, end: int) -> Sequence[MetricTemplate]:
        """Templates that the metric between these places may have, the latest first."""
        size, head = end - start, body[start : min(start + _HEAD_BYTES, end)]
        tail = self._tails.get((size, head))
        return () if tail is None else self._found.get((size, head, body[end - tail : end]), ())

    def add(self, raw: bytes, template: MetricTemplate) -> None:
        """Remember a template made of these bytes, if the like of it was here before.

        A sender that always sends the same is recognised by whole bodies, and never asks again.
        """
        size, head = len(raw), raw[:_HEAD_BYTES]
        sight = hash((size, head, raw[-_HEAD_BYTES:]))
        if sight not in self._sights:
            self._sights.add(sight)
            self._account.size_bytes += _SIGHT_BYTES
            return
        last = int(template.places.max(initial=-WORD_BYTES)) + WORD_BYTES
        tail = min(size - last, self._tails.get((size, head), _MAX_TAIL_BYTES))
        self._tails[size, head] = tail
        key = (size, head, raw[size - tail :])
        self._found[key] = [template, *self._found.get(key, ())][:_MAX_ALIKE]
        self._account.size_bytes += template.size_bytes + 2 * tail + 2 * _HEAD_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class BodyTemplate:
    """A whole body: its bytes with the numbers at `places` blank, and how its points are read."""

    fixed: bytes
    places: Int64s
    plan: Plan | None
    series: tuple[Series, ...]
    dropped: Mapping[Drop, int]

    @property
    def size_bytes(self) -> int:
        """Memory of this template, its places and series apart."""
        plan = 0 if self.plan is None else self.plan.size_bytes
        return len(self.fixed) + plan + 8 * len(self.series) + _TEMPLATE_BYTES


def blanked(body: bytes, places: Int64s) -> bytearray:
    """The body, or a metric's bytes, with zeros for the words at these places."""
    blank = bytearray(body)
    if len(places):
        words_of(blank)[places] = 0
    return blank


class _Shape:
    """Places of numbers that bodies of one length and sender have, and their templates."""

    __slots__ = ("key", "places", "templates")

    def __init__(self, key: tuple[Sender, int], places: Int64s) -> None:
        self.key = key
        self.places = places
        # by checksum, which finds a template and is not what decides
        self.templates: dict[int, BodyTemplate] = {}


class BodyTemplates:
    """The latest used templates of whole bodies, bounded by their bytes. Safe for threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._shapes: dict[tuple[Sender, int], list[_Shape]] = {}
        self._used: OrderedDict[tuple[_Shape, int], None] = OrderedDict()
        self.size_bytes = 0

    def find(self, sender: Sender, body: bytes) -> BodyTemplate | None:
        """The template that this body has."""
        for shape in tuple(self._shapes.get((sender, len(body)), ())):
            blank = blanked(body, shape.places)
            checksum = isal_zlib.crc32(blank)
            template = shape.templates.get(checksum)
            if template is not None and template.fixed == blank:
                with self._lock:
                    if (shape, checksum) in self._used:
                        self._used.move_to_end((shape, checksum))
                return template
        return None

    def add(self, sender: Sender, template: BodyTemplate) -> None:
        """Remember a template, and forget those that were not used for the longest time."""
        if template.size_bytes + template.places.nbytes > self._max_bytes:
            return
        checksum = isal_zlib.crc32(template.fixed)
        with self._lock:
            shape = self._shape(sender, template)
            if checksum in shape.templates:
                self._forget(shape, checksum, keep_shape=True)
            shape.templates[checksum] = template
            self._used[shape, checksum] = None
            self.size_bytes += template.size_bytes
            while self.size_bytes > self._max_bytes:
                self._forget(*next(iter(self._used)))

    def _shape(self, sender: Sender, template: BodyTemplate) -> _Shape:
        key = (sender, len(template.fixed))
        shapes = self._shapes.setdefault(key, [])
        for shape in shapes:
            if np.array_equal(shape.places, template.places):
                return shape
        if len(shapes) >= _MAX_ALIKE:
            oldest = shapes[-1]
            for checksum in tuple(oldest.templates):
                self._forget(oldest, checksum, keep_shape=True)
            self._drop(oldest)
        added = _Shape(key, template.places)
        self._shapes[key] = [added, *self._shapes.get(key, ())]
        self.size_bytes += template.places.nbytes
        return added

    def _forget(self, shape: _Shape, checksum: int, *, keep_shape: bool = False) -> None:
        del self._used[shape, checksum]
        self.size_bytes -= shape.templates.pop(checksum).size_bytes
        if not shape.templates and not keep_shape:
            self._drop(shape)

    def _drop(self, shape: _Shape) -> None:
        self.size_bytes -= shape.places.nbytes
        kept = self._shapes[shape.key]
        kept.remove(shape)
        if not kept:
            del self._shapes[shape.key]
