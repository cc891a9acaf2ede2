"""A large OTLP/JSON request as several small ones: the same points, each under its own scope.

A metric with many points becomes several metrics with some of them each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rayotel.ingest.decode.limits.bounds import LARGE_POINT, LONG_DESCRIPTION, LONG_SERIES
from rayotel.ingest.decode.limits.json_text import NotJson, after_space, elements, members

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


@dataclass(slots=True)
class _Piece:
    """A request that grows."""

    parts: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, *parts: bytes) -> None:
        self.parts += parts
        self.size_bytes += sum(map(len, parts))


def pieces_of(body: bytes, piece_bytes: int, rejected: Counter[str]) -> Iterator[bytes]:
    """Requests of about `piece_bytes` at most, but for what stands around their points.

    Counts points that are too large, or have too much around them. Raises NotJson.
    """
    start = after_space(body, 3 if body.startswith(b"\xef\xbb\xbf") else 0)
    request = members(body, start, _REQUEST)
    for resource_metrics in _array(body, request, "resourceMetrics"):
        outer = members(body, resource_metrics[0], _RESOURCE_METRICS)
        for scope_metrics in _array(body, outer, "scopeMetrics"):
            inner = members(body, scope_metrics[0], _SCOPE_METRICS)
            head = b"".join(
                [
                    b'{"resourceMetrics":[{', _copied(body, outer, "resource", "schemaUrl"),
                    b'"scopeMetrics":[{', _copied(body, inner, "scope", "schemaUrl"),
                    b'"metrics":[',
                ]
            )  # fmt: skip
            metrics = _array(body, inner, "metrics")
            if len(head) > piece_bytes:
                for metric in metrics:
                    rejected[LONG_SERIES] += _count(body, metric[0])
            else:
                yield from _of_scope(body, head, metrics, piece_bytes, rejected)


def _of_scope(
    body: bytes,
    head: bytes,
    metrics: Iterator[tuple[int, int]],
    piece_bytes: int,
    rejected: Counter[str],
) -> Iterator[bytes]:
    piece = _Piece()
    for start, _ in metrics:
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
        if len(about) > piece_bytes:
            rejected[LONG_DESCRIPTION] += _count(body, start)
            continue
        is_open = False
        for first, last in _array(body, data, "dataPoints"):
            if last - first > piece_bytes:
                rejected[LARGE_POINT] += 1
                continue
            if piece.size_bytes + last - first > piece_bytes:
                yield _whole(head, piece, is_open)
                piece, is_open = _Piece(), False
            if not is_open:
                piece.add(b"," if piece.parts else b"", about, body[first:last])
                is_open = True
            else:
                piece.add(b",", body[first:last])
        if is_open:
            piece.add(b"]}}")
    if piece.parts:
        yield _whole(head, piece, False)


def _whole(head: bytes, piece: _Piece, is_open: bool) -> bytes:
    return b"".join([head, *piece.parts, b"]}}" if is_open else b"", b"]}]}]}"])


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


def _count(body: bytes, metric_at: int) -> int:
    """How many points a metric has."""
    metric = members(body, metric_at, _METRIC)
    kind = _kind(body, metric)
    if kind is None:
        return 0
    return sum(1 for _ in _array(body, members(body, metric[kind][0], _POINTS), "dataPoints"))
