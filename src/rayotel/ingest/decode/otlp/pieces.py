"""An OTLP metrics request taken apart without parsing it: scopes, metrics, and runs of points.

Protobuf's library holds a whole message at once, and an empty message in two bytes costs it a
hundred. These functions read the same fields with the same meaning (fields in any order, fields
sent twice, groups, fields without a name here) and give pieces that cost little to parse. What is
no protobuf raises MalformedProtobuf.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rayotel.ingest.decode.limits.bounds import (
    DEEP_ATTRIBUTE,
    LARGE_POINT,
    LONG_DESCRIPTION,
    LONG_SERIES,
    MAX_DESCRIPTION_BYTES,
    MAX_NAME_BYTES,
    MAX_NESTING,
    MAX_POINT_BYTES,
    MAX_SERIES_TEXT_BYTES,
    Rejected,
)
from rayotel.ingest.decode.otlp.messages import MalformedProtobuf, delimited

# of points as sent that are parsed at once; an empty exemplar costs fifty times its two bytes
RUN_BYTES = 65_536
_MAX_GROUPS = 100
_FIXED_BYTES = {1: 8, 5: 4}
_VARINT, _DELIMITED, _GROUP, _GROUP_END = 0, 2, 3, 4
# a tag as sent is field * 8 + form
_HEAD, _MEMBER, _URL = 0x0A, 0x12, 0x1A
_TEXTS = frozenset({0x0A, 0x12, 0x1A, 0x62})  # name, description, unit, metadata
# a field of a metric's data, and the fields in it beside its points
_DATA: dict[int, frozenset[int]] = {
    0x2A: frozenset(),
    0x3A: frozenset({0x10, 0x18}),
    0x4A: frozenset({0x10}),
    0x52: frozenset({0x10}),
    0x5A: frozenset(),
}
MAX_HEAD_BYTES = 2 * MAX_NAME_BYTES + 2 * MAX_DESCRIPTION_BYTES + 64
ScopeKey = tuple[bytes, bytes, bytes, bytes]
Extent = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ScopePieces:
    """One ScopeMetrics in a body: the fields around its metrics with their tags.

    `reason`: why its points are rejected; the fields are not kept then.
    """

    key: ScopeKey
    reason: str | None
    body: bytes
    place: Extent

    def metrics(self) -> Iterator[Extent]:
        """The places of its metrics that are not empty."""
        for tag, _, start, after in _fields(self.body, *self.place):
            if tag == _MEMBER and start < after:
                yield start, after


@dataclass(frozen=True, slots=True)
class MetricPieces:
    """A metric: `shell` is all of it but its points, `tag` its field of data.

    The data are at `place` of `raw`. `reason`: why all points are rejected; the shell is not kept
    then.
    """

    shell: bytes
    reason: str | None
    tag: int
    raw: bytes
    place: Extent

    def points(self) -> Iterator[Extent]:
        """Where each point's field is, with its tag."""
        for tag, begin, _, after in _fields(self.raw, *self.place):
            if tag == _HEAD:
                yield begin, after

    def has_points(self) -> bool:
        """Whether it has any."""
        return next(self.points(), None) is not None

    def count(self) -> int:
        """How many points it has."""
        return sum(1 for _ in self.points())

    def runs(self) -> Iterator[tuple[bytes, int] | str]:
        """The points in runs (a metric of these alone, how many), a reason for one too large."""
        run, count = bytearray(), 0
        for begin, after in self.points():
            if after - begin > MAX_POINT_BYTES:
                yield LARGE_POINT
                continue
            if count and len(run) + after - begin > RUN_BYTES:
                yield self._alone(run), count
                run, count = bytearray(), 0
            run += self.raw[begin:after]
            count += 1
        if count:
            yield self._alone(run), count

    def _alone(self, points: bytearray) -> bytes:
        return delimited(bytes((self.tag,)), bytes(points))


def scopes_of(body: bytes) -> Iterator[ScopePieces]:
    """The scopes of a request that may have points, in order."""
    for tag, _, start, after in _fields(body, 0, len(body)):
        if tag == _HEAD and start < after:
            resource, url, reason = _around(body, start, after)
            for inner, _, first, last in _fields(body, start, after):
                if inner == _MEMBER and first < last:
                    scope, scope_url, scope_reason = _around(body, first, last)
                    key = (resource, url, scope, scope_url)
                    yield ScopePieces(key, reason or scope_reason, body, (first, last))


def _around(body: bytes, start: int, after: int) -> tuple[bytes, bytes, str | None]:
    """Of a ResourceMetrics or ScopeMetrics: its head and URL with their tags, or a reason."""
    head, url = bytearray(), bytearray()
    is_long = False
    for tag, begin, _, end in _fields(body, start, after):
        if tag in (_HEAD, _URL):
            is_long |= len(head) + len(url) + end - begin > MAX_SERIES_TEXT_BYTES
            if not is_long:
                into = head if tag == _HEAD else url
                into += body[begin:end]
    return (b"", b"", LONG_SERIES) if is_long else (bytes(head), bytes(url), None)


def metric_of(body: bytes, first: int, last: int) -> MetricPieces | None:
    """The pieces of a metric between two places; None where it has no data."""
    shell, joined = bytearray(), bytearray()
    tag_of_data, place = 0, (0, 0)
    is_long = False
    for tag, begin, start, after in _fields(body, first, last):
        if tag in _DATA:
            # of several kinds of data the last one counts; of one kind all are one
            if tag != tag_of_data:
                tag_of_data, place = tag, (start, after)
                joined.clear()
            else:
                if not joined:
                    joined += body[slice(*place)]
                joined += body[start:after]
        elif tag in _TEXTS:
            is_long |= len(shell) + after - begin > MAX_HEAD_BYTES
            if not is_long:
                shell += body[begin:after]
    if not tag_of_data:
        return None
    raw = bytes(joined) if joined else body
    place = (0, len(raw)) if joined else place
    tail, beside = {}, _DATA[tag_of_data]
    for tag, begin, _, after in _fields(raw, *place) if beside else ():
        if tag in beside:
            tail[tag] = raw[begin:after]
    if is_long:
        return MetricPieces(b"", LONG_DESCRIPTION, tag_of_data, raw, place)
    shell += delimited(bytes((tag_of_data,)), b"".join(tail.values()))
    return MetricPieces(bytes(shell), None, tag_of_data, raw, place)


def alone(run: bytes) -> Iterator[bytes]:
    """Each point of a run as a run of its own."""
    ((tag, _, start, after),) = _fields(run, 0, len(run))
    for _, begin, _, end in _fields(run, start, after):
        yield delimited(bytes((tag,)), run[begin:end])


def _varint_at(raw: bytes, position: int, end: int) -> tuple[int, int]:
    """A varint and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedProtobuf("a number ends too early")


def _fields(raw: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Tag, begin, start of the content and end of each field; groups are passed over."""
    while position < end:
        begin = position
        tag = raw[position]
        position += 1
        if tag >= 0x80:
            tag, position = _varint_at(raw, begin, end)
        form = tag & 7
        if tag < 8 or tag >> 32:
            raise MalformedProtobuf("a field has no number")
        start = position
        if form == _DELIMITED:
            if position >= end:
                raise MalformedProtobuf("a field ends too early")
            size = raw[position]
            position += 1
            if size >= 0x80:
                size, position = _varint_at(raw, start, end)
            start = position
            position += size
        elif form == _VARINT:
            _, position = _varint_at(raw, position, end)
        elif form == _GROUP:
            position = _after_group(raw, position, end, tag)
        elif form in _FIXED_BYTES:
            position += _FIXED_BYTES[form]
        else:
            raise MalformedProtobuf("a field has no form")
        if position > end:
            raise MalformedProtobuf("a field ends too early")
        yield tag, begin, start, position


def _after_group(raw: bytes, position: int, end: int, tag: int) -> int:
    """The position after a group and the groups in it."""
    opened = [tag]
    while opened:
        if position >= end or len(opened) > _MAX_GROUPS:
            raise MalformedProtobuf("a group ends too early or is nested too deeply")
        tag, position = _varint_at(raw, position, end)
        form = tag & 7
        # within a group protobuf's library takes a field without a number too
        if tag >> 32 or form > 5:
            raise MalformedProtobuf("a field has no form")
        if form == _GROUP:
            opened.append(tag)
        elif form == _GROUP_END:
            if opened.pop() + 1 != tag:
                raise MalformedProtobuf("a group has another end")
        elif form == _VARINT:
            _, position = _varint_at(raw, position, end)
        elif form == _DELIMITED:
            size, position = _varint_at(raw, position, end)
            position += size
        else:
            position += _FIXED_BYTES[form]
    return position


# which fields of which message lead to another: of an attribute down to its values
_KEY_VALUE, _ANY_VALUE, _ARRAY, _KEY_VALUES = range(4)
_INTO: tuple[dict[int, int], ...] = (
    {0x12: _ANY_VALUE},
    {0x2A: _ARRAY, 0x32: _KEY_VALUES},
    {0x0A: _ANY_VALUE},
    {0x0A: _KEY_VALUE},
)


def check_nesting(attribute: bytes) -> None:
    """Raises Rejected where a KeyValue is nested too deeply."""
    open_messages = [(_fields(attribute, 0, len(attribute)), _KEY_VALUE)]
    while open_messages:
        fields, kind = open_messages[-1]
        for tag, _, start, after in fields:
            inner = _INTO[kind].get(tag)
            if inner is not None:
                if len(open_messages) >= MAX_NESTING:
                    raise Rejected(DEEP_ATTRIBUTE)
                open_messages.append((_fields(attribute, start, after), inner))
                break
        else:
            open_messages.pop()


def check_nested_within(raw: bytes, *path: int) -> None:
    """The same for the attributes of a message, which are found by the tags that lead to them."""
    for tag, _, start, after in _fields(raw, 0, len(raw)):
        if tag == path[0]:
            if len(path) == 1:
                check_nesting(raw[start:after])
            else:
                check_nested_within(raw[start:after], *path[1:])
