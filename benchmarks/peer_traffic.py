"""The recorded cluster tiled to more clusters and hours, as each of the compared servers takes it.

A tile is the recorded quarter of an hour for one cluster. Its address, session and workers are
replaced by others of the same length, its times are moved, and its values vary from tile to tile
(see `Variation`). From the same numbers come OTLP bodies (gzip, as Fluent Bit sends them), bodies
of Prometheus' remote write, lines of Prometheus' text format and JSON lines of VictoriaMetrics'
import: one body for each recorded request.

A gauge or a sum is one sample everywhere. A histogram is one OTLP point, and for the others a
sample for each bucket, the sum and the count.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.model import NANOSECONDS_PER_HOUR
from rayotel.replay import Recording

QUARTERS = 4
QUARTER_NANO = NANOSECONDS_PER_HOUR // QUARTERS
RECORDED_ADDRESS, RECORDED_SESSION = "192.0.2.2", "_27857"
MAX_CLUSTERS = 900
MOST_DIGITS = 4
FLOAT_NOISE = 1e-12  # 2.0300000000000002 has two decimals
LEVEL_SPREAD, JITTER, PACE_SPREAD = 0.1, 0.005, 0.25
LARGE_GAUGE = 10_000
GZIP_WINDOW_BITS = 31
WORKER, DRIVER = "WorkerId", "ffffffff"  # a driver's id ends like this
WORKER_STEP = 0x9E3779B1
_WORKER_VALUE = re.compile(rb"(\x0a\x38)([0-9a-f]{56})")  # a text of 56 bytes
HAIR = 1e-6  # so that what is whole but for float noise stays so

Labels = tuple[tuple[str, str], ...]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def address(cluster: int) -> str:
    """The address of a cluster's nodes; as long as the recorded one."""
    return f"10.{cluster // 90}.{10 + cluster % 90}.2"


class Names:
    """What a tile has of its own: address, session, and workers, of which no quarter keeps one."""

    def __init__(self, labels: Iterable[Labels], cluster: int, quarter: int) -> None:
        self._fixed = (
            (RECORDED_ADDRESS, address(cluster)),
            (RECORDED_SESSION, f"_{int(RECORDED_SESSION[1:]) + cluster}"),
        )
        known = {value for pairs in labels for name, value in pairs if name == WORKER}
        self._workers = {
            one: f"{int(one, 16) ^ quarter * WORKER_STEP:0{len(one)}x}"
            for one in known
            if not one.endswith(DRIVER)
        }
        self._bytes = {old.encode(): new.encode() for old, new in self._workers.items()}

    def of_labels(self, labels: Labels) -> Labels:
        """The labels of this tile."""
        return tuple((name, self._of_value(value)) for name, value in labels)

    def of_body(self, body: bytes) -> bytes:
        """The OTLP body of this tile; all names are as long as the recorded ones."""
        for old, new in self._fixed:
            body = body.replace(old.encode(), new.encode())
        return _WORKER_VALUE.sub(lambda m: m[1] + self._bytes.get(m[2], m[2]), body)

    def _of_value(self, value: str) -> str:
        for old, new in self._fixed:
            value = value.replace(old, new)
        return self._workers.get(value, value)


def data_points(request: ExportMetricsServiceRequest) -> Iterator[tuple[str, str, Any]]:
    """(metric, kind, point) of a request, in order."""
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data") or ""
                for point in getattr(metric, kind).data_points:
                    yield metric.name, kind, point


def samples_of(name: str, kind: str, point: Any) -> Iterator[tuple[Labels, float]]:
    """A point's samples as Prometheus has them: a histogram's buckets, then its sum and count."""
    labels = {a.key: a.value.string_value for a in point.attributes if a.value.string_value}
    if kind in ("gauge", "sum"):
        yield _sorted(labels, name), point.as_double
        return
    if kind != "histogram" or point.bucket_counts[-1] != point.count:
        raise AssertionError(f"{name}: not a point that Fluent Bit sends")
    bounds = [*(f"{bound:g}" for bound in point.explicit_bounds), "+Inf"]
    for bound, count in zip(bounds, point.bucket_counts, strict=True):
        yield _sorted({**labels, "le": bound}, f"{name}_bucket"), float(count)
    yield _sorted(labels, f"{name}_sum"), point.sum
    yield _sorted(labels, f"{name}_count"), float(point.count)


def _sorted(labels: dict[str, str], name: str) -> Labels:
    return tuple(sorted({**labels, "__name__": name}.items()))


@dataclass(slots=True)
class Samples:
    """The recording as columns: of each sample its series, point and value, in recorded order.

    `ends`: behind which sample each request ends. `groups`: which series belong to one histogram.
    """

    bodies: list[bytes] = field(default_factory=list)
    labels: list[Labels] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    rising: list[bool] = field(default_factory=list)
    series: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    points: list[int] = field(default_factory=list)
    histograms: set[str] = field(default_factory=set)

    @property
    def first_nano(self) -> int:
        """The earliest time."""
        return min(self.times)


def read(recording: Recording) -> Samples:
    """The recording's requests taken apart."""
    found = Samples()
    known: dict[Labels, int] = {}
    for request in recording.requests:
        body = request.plain_body()
        count = 0
        for count, (name, kind, point) in enumerate(  # noqa: B007
            data_points(ExportMetricsServiceRequest.FromString(body)), 1
        ):
            if kind == "histogram":
                found.histograms.add(name)
            group = len(found.labels)
            for labels, value in samples_of(name, kind, point):
                number = known.setdefault(labels, len(known))
                if number == len(found.labels):
                    found.labels.append(labels)
                    found.groups.append(group)
                    found.rising.append(kind != "gauge")
                found.series.append(number)
                found.times.append(point.time_unix_nano)
                found.values.append(value)
        found.bodies.append(body)
        found.points.append(count)
        found.ends.append(len(found.values))
    return found


class Variation:
    """The values of one cluster's tiles, quarter after quarter.

    What only rises (counters, histograms) goes on from where the tile before ended, each series at
    a pace of its own in each tile. Gauges with fractions or large
    numbers get a level of their own in each tile and a jitter of 0.5 % wherever the recorded value
    changed. All keep the decimals that they were recorded with. Constant gauges, small whole
    numbers and series that were reset while recording repeat as they were.
    """

    def __init__(self, samples: Samples, cluster: int) -> None:
        series = np.array(samples.series)
        self._cluster = cluster
        self._order = np.argsort(series, kind="stable")
        self._of = series[self._order]
        self._values = np.array(samples.values)[self._order]
        self._groups = np.array(samples.groups)
        starts = np.flatnonzero(np.diff(self._of, prepend=-1))
        self._first = self._values[starts]
        self._rise = self._values[np.append(starts[1:], len(series)) - 1] - self._first
        change = np.diff(self._values, prepend=np.nan)
        change[starts] = np.nan
        self._anew = np.maximum.accumulate(np.where(change == 0, 0, np.arange(len(series))))
        drops = np.logical_or.reduceat(change < 0, starts)
        self._is_rising = np.array(samples.rising) & ~drops & (self._rise > 0)
        low = np.minimum.reduceat(self._values, starts)
        high = np.maximum.reduceat(self._values, starts)
        self._scale = _scales(self._values, starts)
        varies = (low != high) & ((high > LARGE_GAUGE) | (self._scale != 1))
        named = [dict(labels)["__name__"] for labels in samples.labels]
        is_date = [name.endswith(("_created", "_start_time_seconds")) for name in named]
        self._is_level = varies & ~np.array(samples.rising) & ~np.array(is_date)
        self._base = self._first.copy()
        self._quarter = 0

    def next(self) -> Floats:
        """The values of the next tile, in recorded order."""
        random = np.random.default_rng([self._cluster, self._quarter])
        pace = random.uniform(1 - PACE_SPREAD, 1 + PACE_SPREAD, len(self._first))[self._groups]
        level = random.uniform(1 - LEVEL_SPREAD, 1 - JITTER, len(self._first))
        jitter = random.uniform(1 - JITTER, 1 + JITTER, len(self._values))[self._anew]
        of, scale = self._of, self._scale[self._of]
        risen = _cut(self._base[of] + (self._values - self._first[of]) * pace[of], scale)
        moved = _cut(self._values * level[of] * jitter, scale)
        made = np.where(self._is_level[of], moved, self._values)
        made = np.where(self._is_rising[of], risen, made)
        risen_base = _cut(self._base + self._rise * pace, self._scale)
        self._base = np.where(self._is_rising, risen_base, self._base)
        self._quarter += 1
        result = np.empty_like(made)
        result[self._order] = made
        return result


def _scales(values: Floats, starts: Integers) -> Floats:
    """10 to the power of each series' decimals; 0 where they are too many to be kept."""
    scales = np.zeros(len(starts))
    for digits in range(MOST_DIGITS, -1, -1):
        off = np.abs(np.round(values, digits) - values)
        fits = np.logical_and.reduceat(off <= np.abs(values) * FLOAT_NOISE, starts)
        scales[fits] = 10.0**digits
    return scales


def _cut(values: Floats, scale: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 0, np.floor(values * scale + HAIR) / scale, values)


class Spool:
    """Bodies in a file, in the order of sending, with how many points and samples they hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lengths: list[int] = []
        self._file = path.open("wb")
        self.points = self.samples = 0

    def add(self, body: bytes, points: int, samples: int) -> None:
        """Append a body."""
        self._file.write(body)
        self._lengths.append(len(body))
        self.points += points
        self.samples += samples

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[bytes]:
        self._file.flush()
        with self._path.open("rb") as file:
            for length in self._lengths:
                yield file.read(length)

    def remove(self) -> None:
        """Give the disk back."""
        self._file.close()
        self._path.unlink()


class Encoder:
    """Bodies of one tile. What belongs to a series is encoded once."""

    def __init__(self, samples: Samples, cluster: int, quarter: int) -> None:
        names = Names(samples.labels, cluster, quarter)
        self._samples = samples
        self._bodies = map(names.of_body, samples.bodies)
        self._labels = [names.of_labels(labels) for labels in samples.labels]
        self._times = np.array(samples.times)

    def _spans(self) -> Iterator[tuple[int, int]]:
        return itertools.pairwise([0, *self._samples.ends])

    def otlp(self, values: Floats, shift_nano: int) -> Iterator[bytes]:
        """OTLP protobuf without Content-Encoding."""
        numbers = iter(values.tolist())
        for body in self._bodies:
            request = ExportMetricsServiceRequest.FromString(body)
            for _, kind, point in data_points(request):
                point.time_unix_nano += shift_nano
                if point.start_time_unix_nano:
                    point.start_time_unix_nano += shift_nano
                if kind == "histogram":
                    counts = [int(next(numbers)) for _ in point.bucket_counts]
                    point.bucket_counts[:] = counts
                    point.sum = next(numbers)
                    point.count = int(next(numbers))
                else:
                    point.as_double = next(numbers)
            yield request.SerializeToString()

    def write(self, values: Floats, shift_nano: int) -> Iterator[bytes]:
        """Prometheus' remote write: `WriteRequest` in snappy's block format."""
        tails = _write_tails(values, self._milliseconds(shift_nano))
        size = len(tails) // len(values)
        series, prefixes = self._samples.series, [_write_prefix(one) for one in self._labels]
        for start, end in self._spans():
            body = b"".join(
                prefixes[series[i]] + tails[i * size : (i + 1) * size] for i in range(start, end)
            )
            yield pa.compress(body, codec="snappy", asbytes=True)

    def text(self, values: Floats, shift_nano: int) -> Iterator[bytes]:
        """Prometheus' text format, with times."""
        yield from self._lines(values, shift_nano, _text_prefix, "{series} {value} {time}")

    def json(self, values: Floats, shift_nano: int) -> Iterator[bytes]:
        """VictoriaMetrics' JSON lines."""
        template = '{{"metric":{series},"values":[{value}],"timestamps":[{time}]}}'
        yield from self._lines(values, shift_nano, _json_prefix, template)

    def _lines(
        self, values: Floats, shift_nano: int, name: Callable[[Labels], str], template: str
    ) -> Iterator[bytes]:
        series, named = self._samples.series, [name(one) for one in self._labels]
        times = self._milliseconds(shift_nano).tolist()
        numbers = values.tolist()
        for start, end in self._spans():
            yield "".join(
                template.format(series=named[series[i]], value=_number(numbers[i]), time=times[i])
                + "\n"
                for i in range(start, end)
            ).encode()

    def _milliseconds(self, shift_nano: int) -> Integers:
        return (self._times + shift_nano) // 1_000_000


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _json_prefix(labels: Labels) -> str:
    return json.dumps(dict(labels))


def _text_prefix(labels: Labels) -> str:
    found = dict(labels)
    name = found.pop("__name__")
    return f"{name}{{{','.join(f'{k}={json.dumps(v)}' for k, v in found.items())}}}"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _chunk(field_number: int, content: bytes) -> bytes:
    return _varint(field_number << 3 | 2) + _varint(len(content)) + content


# a sample after its series' labels: the head of field 2, the value's tag, the time's tag
_SAMPLE = np.dtype([("head", "V3"), ("value", "<f8"), ("tag", "u1"), ("time", "u1", 6)])
_SAMPLE_HEAD = b"\x12\x10\x09"


def _write_prefix(labels: Labels) -> bytes:
    """A `TimeSeries` up to its one sample."""
    content = b"".join(
        _chunk(1, _chunk(1, name.encode()) + _chunk(2, value.encode())) for name, value in labels
    )
    return b"\x0a" + _varint(len(content) + _SAMPLE.itemsize) + content


def _write_tails(values: Floats, milliseconds: Integers) -> bytes:
    """The samples; a time of today in milliseconds is a varint of six bytes."""
    made = np.zeros(len(values), _SAMPLE)
    made["head"] = np.void(_SAMPLE_HEAD)
    made["value"] = values
    made["tag"] = 0x10
    for place in range(6):
        more = 0x80 if place < 5 else 0
        made["time"][:, place] = (milliseconds >> (7 * place)) & 0x7F | more
    return made.tobytes()


def gzipped(body: bytes) -> bytes:
    """As Fluent Bit compresses."""
    codec = zlib.compressobj(6, zlib.DEFLATED, GZIP_WINDOW_BITS)
    return codec.compress(body) + codec.flush()


class Traffic:
    """So many clusters over so many hours, up to `end_nano`, in pieces for sending.

    `lines_from`: of so many clusters there are also bodies as text and JSON lines, in the first
    hour; they are large.
    """

    def __init__(self, samples: Samples, clusters: int, hours: int, end_nano: int) -> None:
        self._samples = samples
        self._hours = hours
        self.start_nano = end_nano - hours * NANOSECONDS_PER_HOUR
        self.end_nano = end_nano
        self.lines_from = min(2, clusters)
        self._variations = [Variation(samples, number) for number in range(clusters)]

    def pieces(self, directory: Path) -> Iterator[dict[str, Spool]]:
        """The first quarter, the rest of its hour, then hour by hour. Each is removed after use."""
        ends = [1, *range(QUARTERS, self._hours * QUARTERS + 1, QUARTERS)]
        for start, end in itertools.pairwise([0, *ends]):
            spools = {name: Spool(directory / name) for name in ("otlp", "write", "text", "json")}
            for quarter in range(start, end):
                self._add(spools, quarter)
            try:
                yield spools
            finally:
                for spool in spools.values():
                    spool.remove()

    def _add(self, spools: dict[str, Spool], quarter: int) -> None:
        """One quarter of all clusters, request by request in turns."""
        shift = self.start_nano + quarter * QUARTER_NANO - self._samples.first_nano
        bodies: dict[str, list[Iterator[bytes]]] = {name: [] for name in spools}
        for number, variation in enumerate(self._variations):
            encoder = Encoder(self._samples, number, quarter)
            values = variation.next()
            bodies["otlp"].append(map(gzipped, encoder.otlp(values, shift)))
            bodies["write"].append(encoder.write(values, shift))
            if number < self.lines_from and quarter < QUARTERS:
                bodies["text"].append(encoder.text(values, shift))
                bodies["json"].append(encoder.json(values, shift))
        counts = list(zip(self._samples.points, self._spans(), strict=True))
        for name, of_clusters in bodies.items():
            for turn, (points, samples) in zip(
                zip(*of_clusters, strict=True), counts, strict=False
            ):
                for body in turn:
                    spools[name].add(body, points, samples)

    def _spans(self) -> Iterator[int]:
        for start, end in itertools.pairwise([0, *self._samples.ends]):
            yield end - start
