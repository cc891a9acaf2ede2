"""A large OTLP/JSON request as several small ones: the same points, each under its own scope.

A metric with many points becomes several metrics with some of them each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rayotel.ingest.decode.limits.bounds import (
    LARGE_POINT,
    LONG_DESCRIPTION,
    LONG_REQUEST,
    LONG_SERIES,
    MAX_REQUEST_JSON_VALUES,
    MAX_REQUEST_METRICS,
    MAX_REQUEST_SCOPES,
    REQUEST_JSON_VALUES,
    REQUEST_METRICS,
    REQUEST_SCOPES,
)
from rayotel.ingest.decode.limits.json_text import NotJson, after_space, elements, members

_MAX_REPEATED_BYTES = 8 * 1024 * 1024
_MARK = b"\xef\xbb\xbf"  # of UTF-8
_DATA = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")


def _named(*names: str) -> dict[bytes, str]:
    """The members of these names, also as protobuf's definitions write them."""
    snake = {name: "".join(f"_{c.lower()}" if c.isupper() else c for c in name) for name in names}
    return {b'"%s"' % text.encode(): name for name in names for text in (name, snake[name])}


_REQUEST = _named("resourceMetrics")
_RESOURCE_METRICS = _named("resource", "schemaUrl", "scopeMetrics")
_SCOPE_METRICS = _named("scope", "schemaUrl", "metrics")
_METRIC = _named("name", "description", "unit", "metadata", *_DATA)
_POINTS = _named("dataPoints", "aggregationTemporality", "isMonotonic")
Members = dict[str, tuple[int, int]]


def pieces_of(body: bytes, piece_bytes: int, rejected: Counter[str]) -> Iterator[bytes]:
    """Requests of about `piece_bytes` at most, but for what stands around their points.

    Counts points that are beyond a bound. Raises NotJson.
    """
    return _Cutter(body, piece_bytes, rejected).pieces()


class _Cutter:
    """A body, and what it has used of the bounds of a request."""

    def __init__(self, body: bytes, piece_bytes: int, rejected: Counter[str]) -> None:
        self._body, self._piece_bytes = body, piece_bytes
        self._rejected = rejected
        self._values = self._scopes = self._metrics = 0
        # what stands around points may be repeated in each piece: a bound on all of it
        self._room_bytes = len(body) + _MAX_REPEATED_BYTES

    def pieces(self) -> Iterator[bytes]:
        """The requests."""
        body = self._body
        start = after_space(body, len(_MARK) if body.startswith(_MARK) else 0)
        for resource_metrics in _array(body, members(body, start, _REQUEST), "resourceMetrics"):
            outer = members(body, resource_metrics[0], _RESOURCE_METRICS)
            for scope_metrics in _array(body, outer, "scopeMetrics"):
                yield from self._of_scope(outer, members(body, scope_metrics[0], _SCOPE_METRICS))

    def _of_scope(self, outer: Members, inner: Members) -> Iterator[bytes]:
        body = self._body
        head = b"".join(
            [
                b'{"resourceMetrics":[{', _copied(body, outer, "resource", "schemaUrl"),
                b'"scopeMetrics":[{', _copied(body, inner, "scope", "schemaUrl"), b'"metrics":[',
            ]
        )  # fmt: skip
        self._scopes += 1
        reason = REQUEST_SCOPES if self._scopes > MAX_REQUEST_SCOPES else None
        reason = LONG_SERIES if len(head) > self._piece_bytes else reason
        parts, size = [head], len(head)
        for start, _ in _array(body, inner, "metrics"):
            metric = members(body, start, _METRIC)
            kind = _kind(body, metric)
            if kind is None:
                continue
            data = members(body, metric[kind][0], _POINTS)
            about = b'{%s"%s":{%s"dataPoints":[' % (
                _copied(body, metric, "name", "description", "unit", "metadata"),
                kind.encode(),
                _copied(body, data, "aggregationTemporality", "isMonotonic"),
            )
            is_open = False
            why = reason or self._judged(about)
            for first, last in _array(body, data, "dataPoints"):
                refused = why or self._refused(first, last, len(head) + len(about))
                if refused is not None:
                    self._rejected[refused] += 1
                    continue
                if size + last - first > self._piece_bytes and len(parts) > 1:
                    yield b"".join([*parts, b"]}}" if is_open else b"", b"]}]}]}"])
                    parts, size, is_open = [head], len(head), False
                    self._room_bytes -= len(head) + len(about)
                before = b"," if is_open else (b"," if len(parts) > 1 else b"") + about
                parts += (before, body[first:last])
                size += len(before) + last - first
                is_open = True
            if is_open:
                parts.append(b"]}}")
        if len(parts) > 1:
            self._room_bytes -= len(head)
            yield b"".join([*parts, b"]}]}]}"])

    def _judged(self, about: bytes) -> str | None:
        """Why the points of one more metric are rejected; None: they are not."""
        self._metrics += 1
        if self._metrics > MAX_REQUEST_METRICS:
            return REQUEST_METRICS
        return LONG_DESCRIPTION if len(about) > self._piece_bytes else None

    def _refused(self, first: int, last: int, around_bytes: int) -> str | None:
        """Why a point is rejected; None: it is not."""
        if last - first > self._piece_bytes:
            return LARGE_POINT
        if around_bytes > self._room_bytes:
            return LONG_REQUEST
        count = self._body.count
        self._values += count(b"{", first, last) + count(b"[", first, last)
        return REQUEST_JSON_VALUES if self._values > MAX_REQUEST_JSON_VALUES else None


def _array(body: bytes, of: Members, name: str) -> Iterator[tuple[int, int]]:
    """The places of a member's values; none where it is absent or null."""
    place = of.get(name)
    if place is not None and body[slice(*place)] != b"null":
        yield from elements(body, place[0])


def _copied(body: bytes, of: Members, *names: str) -> bytes:
    """These members as they stand, each with a comma."""
    return b"".join(
        [b'"%s":%s,' % (name.encode(), body[slice(*of[name])]) for name in names if name in of]
    )


def _kind(body: bytes, metric: Members) -> str | None:
    """The member with the points. Raises NotJson where there are several."""
    kinds = [kind for kind in _DATA if kind in metric and body[slice(*metric[kind])] != b"null"]
    if len(kinds) > 1:
        raise NotJson(f"a metric has '{kinds[0]}' and '{kinds[1]}'")
    return kinds[0] if kinds else None
