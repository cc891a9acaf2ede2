"""Templates: what a sender sends again and again, with its numbers masked out.

Ray's scrapes repeat byte for byte but for the values of fixed64 fields: times, doubles, integers
and the counts of histograms. A template is such a stretch of bytes with those values masked, and
the places where they stand, found by a walk over its own bytes (see `outline`). Bytes that are
equal to it wherever it is not masked, tags and lengths included, parse to the same structure and
the same series, so only the numbers are read.

Two levels are kept. A whole body that repeats costs one masked comparison. In a body that changed
somewhere, each metric is looked for by its length, first and last bytes; all that are found are
compared at once, and only those that differ are walked again. Checksums and keys only find a
template; whether it fits is always decided by comparing bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from rayotel.ingest import wire
from rayotel.ingest.layouts import (
    Layout,
    Plan,
    form_of,
    kind_of,
    layout_of,
    points_data,
)
from rayotel.ingest.outline import (
    Irregular,
    attributes_of,
    metric_outline,
    point_outline,
)
from rayotel.ingest.points import MAX_ATTRIBUTE_BYTES
from rayotel.ingest.series import Account, Context, Head
from rayotel.model import Series

WORD_BYTES = 8
_HEAD_BYTES = 32
_MAX_TAIL_BYTES = 256
_MAX_ALIKE = 4
_TEMPLATE_BYTES = 1500
Sender = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True, eq=False)
class MetricTemplate:
    """A metric's bytes with the numbers masked to zero, `mask` (0 where masked), and its series."""

    fixed: bytes
    mask: bytes
    kind: str
    layout: Layout
    series: tuple[Series, ...]
    head: Head


def metric_template(raw: bytes, context: Context) -> MetricTemplate:
    """The template of a metric. Raises Irregular, or wire.MalformedProtobuf for its attributes."""
    outline = metric_outline(raw)
    head = context.heads.get(outline.key)
    if head is None:
        head = context.heads[outline.key] = context.head(wire.parse_metric(raw))
    data = points_data(outline.data)
    try:
        found = _alike(raw, outline.points, data, head) or _one_by_one(
            raw, outline.points, data, head
        )
    except IndexError:
        raise Irregular from None
    layout, series = found
    mask = np.full(len(raw), 0xFF, np.uint8)
    mask[(layout.places()[:, None] + np.arange(WORD_BYTES)).ravel()] = 0
    fixed = np.frombuffer(raw, np.uint8) & mask
    return MetricTemplate(
        fixed.tobytes(), mask.tobytes(), kind_of(outline.data), layout, tuple(series), head
    )


def _alike(
    raw: bytes, points: Sequence[tuple[int, int]], data: int, head: Head
) -> tuple[Layout, list[Series]] | None:
    """Layout and series of points that all have the form of the first; None where they do not."""
    if not points:
        return None
    form = form_of(raw, point_outline(raw, *points[0], data), points[0], data)
    if form is None:
        return None
    places = np.array(points, np.int64)
    starts = places[:, 0]
    if (places[:, 1] - starts < form.size_bytes).any() or not form.fits(raw, starts):
        return None
    size, known, series = form.size_bytes, head.known, []
    for start, end in points:
        # what stands behind the form is a key only where it was walked, and is attributes alone
        one = known.get(raw[start + size : end])
        if one is None:
            outline = point_outline(raw, start, end, data)
            attributes = (start + size, end) if start + size < end else (0, 0)
            if outline.attributes != attributes:
                return None
            one = _series(raw, outline.attributes, head)
        series.append(one)
    return form.layout(raw, starts), series


def _one_by_one(
    raw: bytes, points: Sequence[tuple[int, int]], data: int, head: Head
) -> tuple[Layout, list[Series]]:
    """Layout and series of any points that were walked without surprise."""
    outlines = [point_outline(raw, start, end, data) for start, end in points]
    layout = layout_of(raw, outlines, data)
    return layout, [_series(raw, one.attributes, head) for one in outlines]


def _series(raw: bytes, attributes: tuple[int, int], head: Head) -> Series:
    key = raw[attributes[0] : attributes[1]]
    one = head.known.get(key)
    if one is None:
        found = attributes_of(raw, *attributes)
        if max(map(len, found), default=0) > MAX_ATTRIBUTE_BYTES:
            raise Irregular
        one = head.series(found, key)
    return one


class MetricTemplates:
    """Templates of the metrics of one context, by their length, first and last bytes."""

    def __init__(self, account: Account) -> None:
        self._tails: dict[tuple[int, bytes], int] = {}
        self._found: dict[tuple[int, bytes, bytes], list[MetricTemplate]] = {}
        self._account = account

    def candidates(self, raw: bytes) -> Sequence[MetricTemplate]:
        """Templates that this metric may have, the latest first."""
        size, head = len(raw), raw[:_HEAD_BYTES]
        tail = self._tails.get((size, head))
        return () if tail is None else self._found.get((size, head, raw[size - tail :]), ())

    def add(self, raw: bytes, template: MetricTemplate) -> None:
        """Remember a template made of these bytes."""
        size, head = len(raw), raw[:_HEAD_BYTES]
        last = template.mask.rfind(0) + 1
        tail = min(size - last, self._tails.get((size, head), _MAX_TAIL_BYTES))
        self._tails[size, head] = tail
        key = (size, head, raw[size - tail :])
        self._found[key] = [template, *self._found.get(key, ())][:_MAX_ALIKE]
        self._account.size_bytes += (
            2 * size + 2 * tail + template.layout.size_bytes + 8 * len(template.series)
            + _TEMPLATE_BYTES
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class BodyTemplate:
    """A whole body: its bytes but for the numbers, and how its points are read."""

    fixed: bytes
    mask: bytes
    plan: Plan | None
    series: tuple[Series, ...]

    @property
    def size_bytes(self) -> int:
        """Memory of this template, its mask and series apart."""
        plan = 0 if self.plan is None else self.plan.size_bytes
        return len(self.fixed) + plan + 8 * len(self.series) + _TEMPLATE_BYTES


class _Mask:
    """A mask that bodies of one length and sender have, and their templates by checksum."""

    __slots__ = ("array", "key", "templates")

    def __init__(self, key: tuple[Sender, int], array: npt.NDArray[np.uint8]) -> None:
        self.key = key
        self.array = array
        self.templates: dict[int, BodyTemplate] = {}


class BodyTemplates:
    """The latest used templates of whole bodies, bounded by their bytes. Safe for threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._masks: dict[tuple[Sender, int], list[_Mask]] = {}
        self._used: OrderedDict[tuple[_Mask, int], None] = OrderedDict()
        self.size_bytes = 0

    def find(self, sender: Sender, body: bytes) -> BodyTemplate | None:
        """The template that this body has."""
        masks = self._masks.get((sender, len(body)))
        if masks is None:
            return None
        content = np.frombuffer(body, np.uint8)
        for mask in tuple(masks):
            masked = np.bitwise_and(content, mask.array).tobytes()
            checksum = isal_zlib.crc32(masked)
            found = mask.templates.get(checksum)
            if found is not None and found.fixed == masked:
                with self._lock:
                    if (mask, checksum) in self._used:
                        self._used.move_to_end((mask, checksum))
                return found
        return None

    def add(self, sender: Sender, template: BodyTemplate) -> None:
        """Remember a template, and forget those that were not used for the longest time."""
        if template.size_bytes + len(template.mask) > self._max_bytes:
            return
        checksum = isal_zlib.crc32(template.fixed)
        with self._lock:
            mask = self._mask(sender, template.mask)
            if checksum in mask.templates:
                self._forget(mask, checksum, keep_mask=True)
            mask.templates[checksum] = template
            self._used[mask, checksum] = None
            self.size_bytes += template.size_bytes
            while self.size_bytes > self._max_bytes:
                self._forget(*next(iter(self._used)))

    def _mask(self, sender: Sender, wanted: bytes) -> _Mask:
        key = (sender, len(wanted))
        masks = self._masks.setdefault(key, [])
        for one in masks:
            if one.array.tobytes() == wanted:
                return one
        if len(masks) >= _MAX_ALIKE:
            oldest = masks[-1]
            for checksum in tuple(oldest.templates):
                self._forget(oldest, checksum, keep_mask=True)
            self._drop_mask(oldest)
        found = _Mask(key, np.frombuffer(wanted, np.uint8))
        self._masks[key] = [found, *masks]
        self.size_bytes += len(wanted)
        return found

    def _forget(self, mask: _Mask, checksum: int, *, keep_mask: bool = False) -> None:
        del self._used[mask, checksum]
        self.size_bytes -= mask.templates.pop(checksum).size_bytes
        if not mask.templates and not keep_mask:
            self._drop_mask(mask)

    def _drop_mask(self, mask: _Mask) -> None:
        self.size_bytes -= len(mask.array)
        kept = self._masks[mask.key]
        kept.remove(mask)
        if not kept:
            del self._masks[mask.key]
