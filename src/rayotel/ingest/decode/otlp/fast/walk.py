"""Places in the bytes of an OTLP metrics request, found without parsing its values.

These functions understand only the form that every OTLP library writes: fields in ascending order,
each at most once unless repeated, points before the other fields of a metric's data, and no field
without a name here. They raise `Irregular` for anything else, which is then decoded in full. So
they find what protobuf itself would read, and bytes that differ only in the contents of fixed64
fields have the same outline.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayotel.ingest.decode.limits.bounds import (
    MAX_POINT_BYTES,
    MAX_REQUEST_METRICS,
    MAX_REQUEST_SCOPES,
    MAX_SERIES_TEXT_BYTES,
)
from rayotel.ingest.decode.otlp.pieces import MAX_HEAD_BYTES

_LEAST_POINT_BYTES = 9  # a time: its tag and eight bytes
_MOST_POINT_BYTES = MAX_POINT_BYTES - 8  # without its tag and length
_MOST_METRIC_BYTES = 1024 * 1024
# of a metric: a walk must not cost more memory than the full decode
_MAX_POINTS = 32_768


class Irregular(ValueError):
    """Bytes that must be decoded in full."""


@dataclass(frozen=True, slots=True)
class ScopeOutline:
    """One ScopeMetrics: `key` is all that stands around its metrics, `metrics` their places."""

    key: tuple[bytes, bytes, bytes, bytes]
    metrics: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class MetricOutline:
    """A metric: `key` is all of it but its points (`data` their field), `points` their places."""

    key: bytes
    data: int
    points: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class PointOutline:
    """Places of a point's fixed64 values by tag, of its packed lists and of its attributes."""

    fixed: dict[int, int]
    packed: dict[int, tuple[int, int]]
    attributes: tuple[int, int]
    flags: int


def length_at(raw: bytes, position: int) -> tuple[int, int]:
    """A varint of at most four bytes, and the position after it."""
    value = raw[position]
    if value < 0x80:
        return value, position + 1
    value &= 0x7F
    for shift in (7, 14, 21):
        position += 1
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
    raise Irregular


def _field(raw: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Tag, start and end of a length-delimited field at `position`."""
    tag = raw[position]
    if tag & 0x87 != 2:
        raise Irregular
    size, start = length_at(raw, position + 1)
    if start + size > end:
        raise Irregular
    return tag, start, start + size


def scopes_of(body: bytes) -> list[ScopeOutline]:
    """The scopes of a request in order. Raises Irregular."""
    outlines: list[ScopeOutline] = []
    position = count = 0
    try:
        while position < len(body):
            tag, start, position = _field(body, position, len(body))
            if tag != 0x0A:
                raise Irregular
            resource, scopes, url = _around(body, start, position)
            if not scopes:
                raise Irregular
            for first, last in scopes:
                scope, metrics, scope_url = _around(body, first, last)
                count += len(metrics)
                if count > MAX_REQUEST_METRICS or len(outlines) >= MAX_REQUEST_SCOPES:
                    raise Irregular
                outlines.append(ScopeOutline((resource, url, scope, scope_url), metrics))
    except IndexError:
        raise Irregular from None
    return outlines


def _around(raw: bytes, position: int, end: int) -> tuple[bytes, list[tuple[int, int]], bytes]:
    """Of a ResourceMetrics or ScopeMetrics: its head and URL with their tags, its members."""
    head = url = b""
    members: list[tuple[int, int]] = []
    last = 0
    while position < end:
        # a body has hundreds of members: their lengths, of two bytes mostly, are read in place
        size, more = raw[position + 1], raw[position + 2]
        if raw[position] == 0x12 and size >= 0x80 > more:
            tag, start = 0x12, position + 3
            after = start + (size & 0x7F | more << 7)
            if after > end:
                raise Irregular
        else:
            tag, start, after = _field(raw, position, end)
        if tag == 0x12 and last <= 0x12 and len(members) < MAX_REQUEST_METRICS:
            members.append((start, after))
        elif tag == 0x0A and last == 0:
            head = raw[position:after]
        elif tag == 0x1A and last < 0x1A:
            url = raw[position:after]
        else:
            raise Irregular
        last, position = tag, after
    if len(head) + len(url) > MAX_SERIES_TEXT_BYTES:
        raise Irregular
    return head, members, url


GAUGE, SUM, HISTOGRAM = 0x2A, 0x3A, 0x4A
_TEXTS = b"\x0a\x12\x1a"  # name, description, unit
_TAIL_TAGS = {GAUGE: b"", SUM: b"\x10\x18", HISTOGRAM: b"\x10"}


def metric_outline(raw: bytes) -> MetricOutline:
    """A gauge, sum or histogram. Raises Irregular for everything else."""
    try:
        position, last, end = 0, 0, len(raw)
        if end > _MOST_METRIC_BYTES:
            raise Irregular
        while True:
            tag, start, after = _field(raw, position, end)
            if tag <= last:
                raise Irregular
            if tag in _TAIL_TAGS:
                break
            if tag not in _TEXTS:
                raise Irregular
            last, position = tag, after
        if after != end or position > MAX_HEAD_BYTES:
            raise Irregular  # metadata, or long texts
        head = raw[: position + 1]
        points: list[tuple[int, int]] = []
        position = start
        while position < end and raw[position] == 0x0A:
            size = raw[position + 1]
            if size < 0x80:
                position += 2
            else:
                size, position = length_at(raw, position + 1)
            if not _LEAST_POINT_BYTES <= size <= _MOST_POINT_BYTES or len(points) >= _MAX_POINTS:
                raise Irregular
            points.append((position, position + size))
            position += size
        if position > end:
            raise Irregular
        return MetricOutline(head + _tail(raw, position, _TAIL_TAGS[tag]), tag, points)
    except IndexError:
        raise Irregular from None


def _tail(raw: bytes, position: int, tags: bytes) -> bytes:
    """The fields behind the points: small enums and booleans."""
    tail = raw[position:]
    if len(tail) % 2 or any(byte >= 0x80 for byte in tail):
        raise Irregular
    last = 0
    for tag in tail[::2]:
        if tag not in tags or tag <= last:
            raise Irregular
        last = tag
    return tail


_FIXED = {GAUGE: b"\x11\x19\x21\x31", HISTOGRAM: b"\x11\x19\x21\x29\x59\x61"}
_PACKED = {GAUGE: b"", HISTOGRAM: b"\x32\x3a"}
_ATTRIBUTES = {GAUGE: 0x3A, HISTOGRAM: 0x4A}
_FLAGS = {GAUGE: 0x40, HISTOGRAM: 0x50}


def point_outline(raw: bytes, position: int, end: int, data: int) -> PointOutline:
    """A NumberDataPoint (of GAUGE) or HistogramDataPoint. Raises Irregular or IndexError."""
    fixed: dict[int, int] = {}
    packed: dict[int, tuple[int, int]] = {}
    first = last_attribute = flags = last = 0
    attribute = _ATTRIBUTES[data]
    while position < end:
        tag = raw[position]
        if tag < last or (tag == last and tag != attribute):
            raise Irregular
        if tag == attribute:
            _, _, after = _field(raw, position, end)
            first, last_attribute = first or position, after
        elif tag in _FIXED[data]:
            fixed[tag] = position + 1
            after = position + 9
        elif tag in _PACKED[data]:
            _, start, after = _field(raw, position, end)
            if (after - start) % 8:
                raise Irregular
            packed[tag] = (start, after)
        elif tag == _FLAGS[data]:
            flags, after = length_at(raw, position + 1)
        else:
            raise Irregular
        last, position = tag, after
    if position != end:
        raise Irregular
    return PointOutline(fixed, packed, (first, last_attribute), flags)


def attributes_of(raw: bytes, position: int, end: int, data: int) -> tuple[bytes, ...]:
    """The serialized attributes of a point of GAUGE or HISTOGRAM; there is nothing else.

    Raises Irregular or IndexError where there is.
    """
    attribute = _ATTRIBUTES[data]
    attributes = []
    while position < end:
        if raw[position] != attribute:
            raise Irregular
        size = raw[position + 1]
        if size < 0x80:
            position += 2
        else:
            size, position = length_at(raw, position + 1)
        attributes.append(raw[position : position + size])
        position += size
    if position > end:
        raise Irregular
    return tuple(attributes)
