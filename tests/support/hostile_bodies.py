"""Bodies that try to cost more than they weigh: attacks by name, and any number by seed.

Each is a request within the limits of what may be sent: a path, headers and a body. Attacks are the
classes that cost gigabytes or minutes once; `of_seed` mutates the structure of requests that are
right: repeats and nests messages, makes texts huge or empty, changes types, sends fields twice,
unknown ones and groups, and compresses all of it in one member or in many.
"""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from backports import zstd

from support import event_bodies

MIB = 1024 * 1024
METRICS_PATH, EVENTS_PATH = "/v1/metrics", "/v1/events"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
HOUR = 3600 * 10**9


class Sent(NamedTuple):
    """A request: headers by name, and the body as sent."""

    path: str
    headers: dict[str, str]
    body: bytes


def request(path: str, kind: str, body: bytes, encoding: str = "gzip") -> Sent:
    """A request of a plain body."""
    headers = {"Content-Type": kind}
    if encoding != "identity":
        headers["Content-Encoding"] = encoding
    return Sent(path, headers, ENCODE[encoding](body))


ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "identity": lambda body: body,
    "gzip": lambda body: gzip.compress(body, 1),
    "zstd": zstd.compress,
    "deflate": zlib.compress,
}

# --- protobuf, written by hand -------------------------------------------------------------------


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*groups, number))


def message(number: int, *contents: bytes) -> bytes:
    """A field of bytes."""
    content = b"".join(contents)
    return varint(number << 3 | 2) + varint(len(content)) + content


def fixed(number: int, value: int) -> bytes:
    """A field of eight bytes."""
    return varint(number << 3 | 1) + struct.pack("<Q", value & 2**64 - 1)


def attribute(number: int, key: bytes, *value: bytes) -> bytes:
    """A KeyValue with a string, or with any other value."""
    content = value[0] if len(value) == 1 else b"".join(value)
    return message(number, message(1, key), message(2, message(1, content)))


def gauge_point(time: int, *more: bytes) -> bytes:
    """A NumberDataPoint of a gauge."""
    return message(1, fixed(3, time), fixed(4, 0), *more)


def gauge(name: bytes, *points: bytes) -> bytes:
    """A Metric of a scope."""
    return message(2, message(1, name), message(5, *points))


def metrics(*of: bytes, resource: bytes = b"", scope: bytes = b"", url: bytes = b"") -> bytes:
    """A whole request with one scope."""
    inner = message(2, message(1, scope), *of, url)
    return message(1, message(1, resource), inner)


def _many(least: bytes, size_bytes: int) -> bytes:
    return least * max(1, size_bytes // len(least))


# --- attacks -------------------------------------------------------------------------------------

Maker = Callable[[int, int], bytes]


def _in_point(member: bytes) -> Maker:
    return lambda now, size: metrics(gauge(b"m", gauge_point(now, _many(member, size))))


def _in_points(kind: int, member: bytes) -> Maker:
    """Members of a thousand points."""

    def body(now: int, size: int) -> bytes:
        point = message(1, fixed(3, now), _many(member, size // 1000))
        return metrics(message(2, message(1, b"m"), message(kind, point * 1000)))

    return body


def _series(now: int, count: int, more: Callable[[int], bytes]) -> Iterable[bytes]:
    return (gauge_point(now, attribute(7, b"k", b"%d" % n), more(n)) for n in range(count))


def _resource_text(now: int, size: int) -> bytes:
    del size
    points = b"".join(_series(now, 20_000, lambda _: b""))
    return metrics(gauge(b"m", points), resource=attribute(1, b"big", b"x" * MIB))


def _resource_texts(now: int, size: int) -> bytes:
    points = b"".join(_series(now, size // 40, lambda _: b""))
    texts = b"".join(attribute(1, b"big%d" % n, b"x" * 60_000) for n in range(4))
    return metrics(gauge(b"m", points), resource=texts)


def _schema_url(now: int, size: int) -> bytes:
    del size
    all_of = b"".join(gauge(b"m%d" % n, gauge_point(now)) for n in range(2600))
    return metrics(all_of, url=message(3, b"u" * MIB))


def _texts_everywhere(now: int, size: int) -> bytes:
    big = b"x" * (size // 10)
    metric = message(
        2, message(1, big), message(2, big), message(3, big), attribute(12, big, big),
        message(5, gauge_point(now, attribute(7, big, big))),
    )  # fmt: skip
    return metrics(metric, resource=attribute(1, big, b"x"), scope=message(1, big))


def _hours(now: int, size: int) -> bytes:
    count = min(size // 20, 400_000)
    return metrics(
        gauge(b"m", *(gauge_point(now - n * HOUR % (20 * 8766 * HOUR)) for n in range(count)))
    )


def nested(levels: int, of_map: bool) -> bytes:
    value = message(1, b"deep")
    for _ in range(levels):
        inner = message(1, message(1, b"k"), message(2, value)) if of_map else message(1, value)
        value = message(6 if of_map else 5, inner)
    return message(1, b"k") + message(2, value)


def _deep(of_map: bool) -> Maker:
    def body(now: int, size: int) -> bytes:
        deep = message(7, nested(300, of_map))
        points = [gauge_point(now), gauge_point(now, deep)]
        return metrics(gauge(b"m", *points, _many(points[1], size - 2000)))

    return body


def _columns(now: int, size: int) -> bytes:
    points = (gauge_point(now, attribute(7, b"key%d" % n, b"v")) for n in range(size // 50))
    return metrics(gauge(b"m", *points))


def _attributes(now: int, size: int) -> bytes:
    own = b"".join(attribute(7, b"k%d" % n, b"v") for n in range(size // 20))
    return metrics(gauge(b"m", gauge_point(now, own), gauge_point(now)))


def _new_series(now: int, size: int) -> bytes:
    return metrics(gauge(b"m", *_series(now, size // 40, lambda _: b"")))


def _scopes(now: int, size: int) -> bytes:
    return b"".join(
        metrics(gauge(b"m", gauge_point(now)), resource=attribute(1, b"r", b"%d" % n))
        for n in range(size // 50)
    )


def _heads(now: int, size: int) -> bytes:
    return metrics(*(gauge(b"%d" % n, gauge_point(now)) for n in range(size // 35)))


def _points(now: int, size: int) -> bytes:
    return metrics(gauge(b"m", _many(message(1, fixed(3, now)), size)))


def _packed(kind: int, *path: int) -> Maker:
    def body(now: int, size: int) -> bytes:
        content = b"\x01" * (size // 100 // 8 * 8)
        for number in reversed(path):
            content = message(number, content)
        point = message(1, fixed(3, now), content)
        return metrics(message(2, message(1, b"m"), message(kind, point * 100)))

    return body


def _groups(now: int, size: int) -> bytes:
    del now
    return metrics(_many(b"\x7b\x7c", size))


def _invalid_text(now: int, size: int) -> bytes:
    each = b"\xff" * 60_000
    points = (
        gauge_point(now, attribute(7, b"k%d" % n, each + b"\xf0\x9f\x9a\x80"))
        for n in range(size // 60_100)
    )
    return metrics(gauge(b"m", *points))


PROTOBUF_ATTACKS: dict[str, Maker] = {
    "empty resources": lambda now, size: _many(message(1), size),
    "empty scopes": lambda now, size: message(1, _many(message(2), size)),
    "empty metrics": lambda now, size: metrics(_many(message(2), size)),
    "metrics without points": lambda now, size: metrics(_many(message(2, message(5)), size)),
    "empty points": lambda now, size: metrics(gauge(b"m", _many(message(1), size))),
    "least points": _points,
    "empty exemplars": _in_point(message(5)),
    "empty exemplars of points": _in_points(5, message(5)),
    "empty exemplars of histograms": _in_points(9, message(8)),
    "empty quantiles": _in_points(11, message(6)),
    "empty quantiles of one point": lambda now, size: metrics(
        message(2, message(11, message(1, fixed(3, now), _many(message(6), size))))
    ),
    "empty attributes": _in_point(message(7)),
    "empty attributes of points": _in_points(5, message(7)),
    "empty attributes of a resource": lambda now, size: metrics(
        gauge(b"m", gauge_point(now)), resource=_many(message(1), size)
    ),
    "empty metadata": lambda now, size: metrics(
        message(2, _many(message(12), size), message(5, gauge_point(now)))
    ),
    "empty entities": lambda now, size: metrics(
        gauge(b"m", gauge_point(now)), resource=_many(message(3), size)
    ),
    "empty values of an array": _in_point(
        message(7, message(1, b"k"), message(2, message(5, message(1) * 30_000)))
    ),
    "packed buckets": _packed(9, 6),
    "packed bounds": _packed(9, 7),
    "packed exponential buckets": _packed(10, 8, 2),
    "unpacked buckets": _in_points(9, fixed(6, 1)),
    "a text of a resource for each series": _resource_text,
    "texts of a resource for each series": _resource_texts,
    "a schema URL for each metric": _schema_url,
    "huge texts everywhere": _texts_everywhere,
    "texts that are not UTF-8": _invalid_text,
    "each point of its own hour": _hours,
    "deep arrays": _deep(False),
    "deep maps": _deep(True),
    "each point of its own column": _columns,
    "a point of many attributes": _attributes,
    "new series": _new_series,
    "new scopes": _scopes,
    "new metrics": _heads,
    "groups": _groups,
    "unknown fields": lambda now, size: metrics(_many(varint(99 << 3) + b"\x01", size)),
    "a field sent often": lambda now, size: metrics(message(2, _many(message(1, b"m"), size))),
    "gauges sent often": lambda now, size: metrics(
        message(2, message(1, b"m"), _many(message(5, gauge_point(now)), size))
    ),
}


def _json_metric(points: bytes, resource: bytes = b"") -> bytes:
    return (
        b'{"resourceMetrics":[{%b"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[%b]}}]}]}]}'
        % (resource, points)
    )


def _json_point(now: int, more: bytes = b"") -> bytes:
    return b'{"timeUnixNano":"%d","asInt":1%b}' % (now, more)


def _listed(least: bytes, size: int) -> bytes:
    return _many(least + b",", size) + least


JSON_ATTACKS: dict[str, Maker] = {
    "JSON of unknown lists": lambda now, size: b'{"x":[' + _listed(b"[]", size) + b"]}",
    "JSON of empty resources": lambda now, size: b'{"resourceMetrics":[%b]}' % _listed(b"{}", size),
    "JSON of empty points": lambda now, size: _json_metric(_listed(b"{}", size)),
    "JSON of points": lambda now, size: _json_metric(_listed(_json_point(now), size)),
    "JSON of a point with empty exemplars": lambda now, size: _json_metric(
        _json_point(now, b',"exemplars":[%b]' % _listed(b"{}", size))
    ),
    "JSON of empty attributes": lambda now, size: _json_metric(
        _listed(_json_point(now, b',"attributes":[%b]' % _listed(b"{}", 200_000)), size)
    ),
    "JSON of a large resource": lambda now, size: _json_metric(
        _json_point(now), b'"resource":{"attributes":[%b]},' % _listed(b"{}", size)
    ),
    "JSON of a huge text": lambda now, size: _json_metric(
        _json_point(now), b'"schemaUrl":"%b\xf0\x9f\x9a\x80",' % (b"x" * size)
    ),
    "deep JSON": lambda now, size: b'{"x":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}",
    "JSON of many levels": lambda now, size: b'{"x":[' + _listed(b"[" * 8 + b"]" * 8, size) + b"]}",
}


def _of_hours(now: int, size: int) -> bytes:
    count = min(size // 400, 200_000)
    return event_bodies.body(
        *(
            event_bodies.event(n, timestamp=f"{2001 + n // 8000 % 24}-{n // 700 % 12 + 1:02}-"
                               f"{n // 24 % 28 + 1:02}T{n % 24:02}:00:00Z")
            for n in range(count)
        )
    )  # fmt: skip


EVENT_ATTACKS: dict[str, Maker] = {
    "events that are empty": lambda now, size: b"[" + _listed(b"{}", size) + b"]",
    "events that are numbers": lambda now, size: b"[" + _listed(b"1", size) + b"]",
    "an event of empty members": lambda now, size: b'[{"a":[' + _listed(b"{}", size) + b"]}]",
    "events of many members": lambda now, size: b"["
    + _listed(b'{"a":[' + _listed(b"{}", 200_000) + b"]}", size)
    + b"]",
    "events each of its own hour": _of_hours,
    "an event of a huge text": lambda now, size: event_bodies.body(
        event_bodies.event(1, message="x" * size + "\U0001f680")
    ),
    "a huge text that is no event": lambda now, size: b"\xf0\x9f\x9a\x80" + b"x" * size,
    "bytes that are no event": lambda now, size: b"\xff" * size,
    "deep events": lambda now, size: b"[" * (size // 2) + b"]" * (size // 2),
    "floats that grow": lambda now, size: b"[" + _listed(
        b'{"eventId":"AAAA","eventType":"T","timestamp":"2026-01-02T03:04:05Z","t":{"a":['
        + _listed(b"1e15", 2000) + b"]}}", size) + b"]",
}  # fmt: skip


def _of_member(encoding: str, member: bytes) -> Callable[[int, int], Sent]:
    def sent(now: int, size: int) -> Sent:
        del now
        headers = {"Content-Type": PROTOBUF, "Content-Encoding": encoding}
        return Sent(METRICS_PATH, headers, _many(member, size))

    return sent


def _made(path: str, kind: str, maker: Maker) -> Callable[[int, int], Sent]:
    return lambda now, size: request(path, kind, maker(now, size))


# each: from the time now (nanoseconds) and about how many bytes it inflates to, to a request
ATTACKS: dict[str, Callable[[int, int], Sent]] = {
    **{name: _made(METRICS_PATH, PROTOBUF, maker) for name, maker in PROTOBUF_ATTACKS.items()},
    **{name: _made(METRICS_PATH, JSON, maker) for name, maker in JSON_ATTACKS.items()},
    **{name: _made(EVENTS_PATH, JSON, maker) for name, maker in EVENT_ATTACKS.items()},
    "empty zstd frames": _of_member("zstd", zstd.compress(b"")),
    "skipped zstd frames": _of_member("zstd", b"\x50\x2a\x4d\x18\0\0\0\0"),
    "empty gzip members": _of_member("gzip", gzip.compress(b"")),
    "gzip members of a byte": _of_member("gzip", gzip.compress(b"\n")),
}

# --- by seed -------------------------------------------------------------------------------------

# a message is a list of fields: number, form, and a number, bytes or a message
Field = tuple[int, int, Any]
_TEXTS = [b"", b"a", b"le", b"Name", b"\xff\xfe", "ü🚀".encode(), b"a\0b"]


def _text(luck: random.Random, most: int) -> bytes:
    if luck.random() < 0.03:
        return luck.choice([b"x", b"\xff", "🚀".encode(), b'"']) * luck.choice(
            [300, 5000, 70_000, most]
        )
    return luck.choice(_TEXTS) if luck.random() < 0.4 else b"%d" % luck.randrange(1000)


def _value(luck: random.Random, depth: int = 0) -> list[Field]:
    roll = luck.random()
    if roll < 0.6 or depth > 3:
        return [(1, 2, _text(luck, 10_000))]
    if roll < 0.7:
        return [(3, 0, luck.getrandbits(luck.choice([3, 63, 64])))]
    if roll < 0.8:
        return [(4, 1, luck.getrandbits(64))]
    if roll < 0.9:
        return [(5, 2, [(1, 2, _value(luck, depth + 1)) for _ in range(luck.randrange(3))])]
    return [(6, 2, [(1, 2, _pair(luck, depth + 1)) for _ in range(luck.randrange(3))])]


def _pair(luck: random.Random, depth: int = 0) -> list[Field]:
    return [(1, 2, _text(luck, 5000)), (2, 2, _value(luck, depth))]


def _time(luck: random.Random, now: int) -> int:
    roll = luck.random()
    if roll < 0.7:
        return now - luck.randrange(10**10)
    return luck.choice([0, 1, now + 2 * 24 * HOUR, 2**64 - 1, now - luck.randrange(9000) * HOUR])


def _point(luck: random.Random, now: int, kind: int) -> list[Field]:
    own = {5: 7, 7: 7, 9: 9, 10: 1, 11: 7}[kind]
    point: list[Field] = [(3, 1, _time(luck, now))]
    if luck.random() < 0.3:
        point.append((2, 1, luck.choice([0, now, 2**63, 2**64 - 1])))
    if kind in (5, 7):
        point += [luck.choice([(4, 1, luck.getrandbits(64)), (6, 1, luck.getrandbits(64))])]
    else:
        point += [(4, 1, luck.randrange(100)), (5, 1, luck.getrandbits(62))]
    if kind == 9:
        count = luck.randrange(5)
        counts = b"".join(struct.pack("<Q", luck.randrange(9)) for _ in range(count))
        if luck.random() < 0.8:
            point.append((6, 2, counts))
        else:
            point += [(6, 1, luck.randrange(9)) for _ in range(count)]
        point.append((7, 2, b"".join(struct.pack("<d", n) for n in range(max(0, count - 1)))))
    if kind == 10:
        point += [(6, 0, 1), (8, 2, [(1, 0, 1), (2, 2, luck.randbytes(3))])]
    if kind == 11:
        point += [(6, 2, [(1, 1, 0), (2, 1, 1)]) for _ in range(luck.randrange(3))]
    if luck.random() < 0.2 and kind != 11:
        number = {5: 5, 7: 5, 9: 8, 10: 11}[kind]
        point.append((number, 2, [(2, 1, now), (3, 1, 0), (7, 2, _pair(luck))]))
    point += [(own, 2, _pair(luck)) for _ in range(luck.randrange(4))]
    if luck.random() < 0.8:
        point.sort(key=lambda field: field[0])
    return point


def _metrics_tree(luck: random.Random, now: int) -> list[Field]:
    def metric() -> list[Field]:
        kind = luck.choice([5, 5, 7, 9, 10, 11])
        data: list[Field] = [(1, 2, _point(luck, now, kind)) for _ in range(luck.randrange(1, 5))]
        if kind in (7, 9, 10):
            data.append((2, 0, 2))
        texts = [(number, 2, _text(luck, 20_000)) for number in (1, 2, 3)]
        return [*texts, (kind, 2, data)]

    scope = [
        (1, 2, [(1, 2, _text(luck, 5000))]),
        *((2, 2, metric()) for _ in range(luck.randrange(1, 4))),
    ]
    outer = [(1, 2, _pair(luck)) for _ in range(luck.randrange(3))]
    return [(1, 2, [(1, 2, outer), (2, 2, scope), (3, 2, _text(luck, 5000))])]


def _messages(fields: list[Field]) -> Iterable[list[Field]]:
    yield fields
    for _, _, value in fields:
        if isinstance(value, list):
            yield from _messages(value)


def _mutate(fields: list[Field], luck: random.Random, most: int) -> None:
    found = luck.choice(list(_messages(fields)))
    if not found:
        return
    place = luck.randrange(len(found))
    number, form, value = found[place]
    match luck.randrange(10):
        case 0 | 1:
            times = luck.choice([2, 3, 30, 300, 3000])
            size = len(_written([found[place]])) + 1
            found[place:place] = [found[place]] * min(times, most // size)
        case 2:
            found[place] = (number, form, value[:0] if isinstance(value, bytes | list) else 0)
        case 3:
            inner: Any = value
            for _ in range(luck.choice([1, 3, 20, 60, 120])):
                inner = [(luck.choice([1, number]), 2, inner)] if form == 2 else inner
            found[place] = (number, form, inner)
        case 4:
            wrong = luck.choice([(0, luck.getrandbits(64)), (1, 7), (5, 7), (2, luck.randbytes(4))])
            found[place] = (number, *wrong)
        case 5:
            luck.shuffle(found)
        case 6:
            found.insert(place, (luck.choice([99, 15, 2**29 - 1, 4]), 2, luck.randbytes(3)))
        case 7:
            found.insert(place, (luck.choice([20, number]), 3, [(1, 0, 5)]))
        case 8:
            found[place] = (luck.randrange(1, 16), form, value)
        case _:
            if isinstance(value, int):
                found[place] = (number, form, luck.choice([0, 1, 2**63 - 1, 2**63, 2**64 - 1]))
            else:
                found[place] = (number, 2, _text(luck, most))


def _written(fields: list[Field]) -> bytes:
    out = bytearray()
    for number, form, value in fields:
        content: Any = _written(value) if isinstance(value, list) else value
        tag = varint(number << 3 | form)
        match form:
            case 0:
                out += tag + varint(content & 2**64 - 1)
            case 1:
                out += tag + struct.pack("<Q", content & 2**64 - 1)
            case 5:
                out += tag + struct.pack("<I", content & 2**32 - 1)
            case 3:
                out += tag + content + varint(number << 3 | 4)
            case _:
                out += tag + varint(len(content)) + content
    return bytes(out)


def _odd(luck: random.Random, most: int) -> Any:
    """Any JSON."""
    return luck.choice(
        [
            None, True, -1, 2**70, 1.5, float("nan"), "", "x" * luck.choice([1, 5000, most]),
            "\ud800", "2026-01-02T03:04:05Z", "AAAA", [], {}, [[]] * luck.choice([1, 300]),
            [{}] * luck.choice([1, 3000]), {"": {"a": []}},
        ]
    )  # fmt: skip


def _mutate_json(tree: Any, luck: random.Random, most: int) -> None:
    places = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        members = list(node.items() if isinstance(node, dict) else enumerate(node))
        places += [(node, key) for key, _ in members]
        waiting += [value for _, value in members if isinstance(value, dict | list)]
    if not places:
        return
    node, key = luck.choice(places)
    roll = luck.random()
    if roll < 0.4:
        node[key] = _odd(luck, most)
    elif roll < 0.7 and isinstance(node, list):
        size = len(json.dumps(node[key])) + 2
        node[key:key] = [node[key]] * min(luck.choice([2, 30, 3000]), most // size)
    elif roll < 0.85:
        for _ in range(luck.choice([1, 30, 100])):
            node[key] = [node[key]] if luck.random() < 0.5 else {"a": node[key]}
    elif isinstance(node, dict):
        node[luck.choice(["x", key.lower(), "eventId", "resourceMetrics"])] = node.pop(key)


def _json_tree(luck: random.Random, now: int) -> Any:
    points = [
        {
            "timeUnixNano": str(_time(luck, now)), "asInt": luck.randrange(9),
            "attributes": [{"key": "k", "value": {"stringValue": str(luck.randrange(50))}}],
        }
        for _ in range(luck.randrange(4))
    ]  # fmt: skip
    metric = {"name": "m", luck.choice(["gauge", "sum"]): {"dataPoints": points}}
    scope = {"scope": {"name": "s"}, "metrics": [metric]}
    return {"resourceMetrics": [{"resource": {"attributes": []}, "scopeMetrics": [scope]}]}


def _mutated(
    tree: Any,
    mutate: Callable[[Any, random.Random, int], None],
    size: Callable[[], int],
    times: int,
    luck: random.Random,
    most: int,
) -> None:
    """Mutate a tree until it is large: what was repeated is repeated again with all in it."""
    for _ in range(times):
        if size() > most:
            return
        mutate(tree, luck, most)


def _members(body: bytes, encoding: str, luck: random.Random) -> bytes:
    """A body in one member, or in some."""
    if encoding not in ("gzip", "zstd") or luck.random() < 0.8:
        return ENCODE[encoding](body)
    cuts = sorted(luck.randrange(len(body) + 1) for _ in range(luck.choice([1, 3, 50])))
    ends = [*cuts, len(body)]
    return b"".join(
        ENCODE[encoding](body[begin:end]) for begin, end in zip([0, *cuts], ends, strict=True)
    )


def plain_of_seed(seed: int, now: int, most_bytes: int = 20_000) -> tuple[str, str, bytes]:
    """Path, content type and plain body of a request, of about `most_bytes` at most."""
    luck = random.Random(seed)
    most_bytes = luck.choice([most_bytes // 20] * 9 + [most_bytes])
    mutations = luck.choice([0, 1, 1, 2, 4, 8])
    match luck.randrange(8):
        case 0:
            tree = _json_tree(luck, now)
            _mutated(tree, _mutate_json, lambda: len(json.dumps(tree)), mutations, luck, most_bytes)
            body, path, kind = json.dumps(tree).encode(), METRICS_PATH, JSON
        case 1:
            events: Any = [event_bodies.event(luck.randrange(9)) for _ in range(luck.randrange(4))]
            _mutated(
                events, _mutate_json, lambda: len(json.dumps(events)), mutations, luck, most_bytes
            )
            body, path, kind = json.dumps(events).encode(), EVENTS_PATH, JSON
        case _:
            fields = _metrics_tree(luck, now)
            _mutated(fields, _mutate, lambda: len(_written(fields)), mutations, luck, most_bytes)
            body, path, kind = _written(fields), METRICS_PATH, PROTOBUF
    if luck.random() < 0.05 and body:
        place = luck.randrange(len(body))
        body = body[:place] + luck.choice([b"", luck.randbytes(1)]) + body[place + 1 :]
    if luck.random() < 0.02:
        body = body[: luck.randrange(len(body) + 1)]
    return path, kind, body


def of_seed(seed: int, now: int, most_bytes: int = 20_000) -> Sent:
    """A request of `plain_of_seed`, compressed somehow; the same for each seed and time."""
    path, kind, body = plain_of_seed(seed, now, most_bytes)
    luck = random.Random(~seed)
    encoding = luck.choice(["identity", "gzip", "zstd", "deflate"])
    headers = {"Content-Type": kind}
    if encoding != "identity":
        headers["Content-Encoding"] = encoding
    sent = _members(body, encoding, luck)
    if luck.random() < 0.02:
        sent = sent[: luck.randrange(len(sent) + 1)]
    return Sent(path, headers, sent)
