"""A start's proof of the libraries: small bodies become parts in memory, which are read back.

Nothing here touches a storage. An installation may hold versions that `pip` would not have chosen,
and a wrong one can fail late: requests are acknowledged and never become parts, or a value is not
the one that was sent. So each encoding, each signal and both recipes are tried, and what is
read is compared with values that stand in this file.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rayotel.errors import BrokenInstallation
from rayotel.ingest.decode.decoder import Decoder, no_reservation
from rayotel.ingest.decode.limits.inflate import MalformedBody, inflate
from rayotel.ingest.decode.otlp import json as otlp_json
from rayotel.lake import parts
from rayotel.lake.rows import by_signal
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.signal import EVENTS, METRICS, Signal
from rayotel.model import JSON, PROTOBUF, Arrival, Record

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STREAM = "probe"
MAX_BYTES = 1 << 20
MAX_LABEL_COLUMNS = 8
TAILS_BYTES = (1, 2, 3, 7, 8, 9)  # isal 1.8 swallows one to three
TIMES_SEEN = 3  # first by protobuf, then by templates of a whole body
_AT = 1_767_225_600_000_000  # 2026-01-01, in microseconds
_OTLP = """{"resourceMetrics": [{
  "resource": {"attributes": [{"key": "host", "value": {"stringValue": "h\u00e9"}}]},
  "scopeMetrics": [{"metrics": [
    {"name": "a", "gauge": {"dataPoints": [
      {"timeUnixNano": "1767225600000001000", "asDouble": 0.1,
       "attributes": [{"key": "k", "value": {"stringValue": "v"}}]},
      {"timeUnixNano": "1767225600000002000", "asDouble": -1e300}]}},
    {"name": "b", "sum": {"isMonotonic": true, "aggregationTemporality": 2, "dataPoints": [
      {"timeUnixNano": "1767225600000003000", "asInt": "9007199254740993"}]}},
    {"name": "c", "histogram": {"aggregationTemporality": 2, "dataPoints": [
      {"timeUnixNano": "1767225600000004000", "count": "3", "sum": 4.5,
       "bucketCounts": ["1", "2"], "explicitBounds": [1.5]}]}}]}]}]}"""
_EVENTS = b"""[
  {"eventId": "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFh", "eventType": "A", "message": "one",
   "sourceType": "GCS", "severity": "INFO", "timestamp": "2026-01-01T00:00:00.000001Z"},
  {"eventId": "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJi", "eventType": "B", "message": "two",
   "sourceType": "GCS", "severity": "INFO", "timestamp": "2026-01-01T00:00:00.000002Z"}]"""


_PACKERS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", lambda body: zlib.compress(body, wbits=-zlib.MAX_WBITS)),
    ("zstd", lambda body: bytes(zstd.compress(body))),
)


class _Probe(NamedTuple):
    """`columns`: what the rows of `body` must read, sorted by time; instants in microseconds."""

    signal: Signal
    content_type: str
    body: bytes
    columns: Mapping[str, Sequence[object]]


def _probes() -> tuple[_Probe, ...]:
    return (
        _Probe(
            METRICS,
            PROTOBUF,
            otlp_json.metrics_request_bytes(_OTLP.encode())[0],
            {
                "time_unix_nano": [_AT + 1, _AT + 2, _AT + 3, _AT + 4],
                "p_timestamp": [_AT] * 4,
                "metric_name": ["a", "a", "b", "c"],
                "metric_type": ["gauge", "gauge", "sum", "histogram"],
                "data_point_value": [0.1, -1e300, 9007199254740992.0, None],
                "data_point_value_int": [None, None, 9007199254740993, None],
                "is_monotonic": [None, None, True, None],
                "data_point_count": [None, None, None, 3],
                "data_point_sum": [None, None, None, 4.5],
                "data_point_bucket_counts": [None, None, None, [1, 2]],
                "data_point_explicit_bounds": [None, None, None, [1.5]],
                "metric_k": ["v", None, None, None],
                "resource_host": ["h\u00e9"] * 4,
            },
        ),
        _Probe(
            EVENTS,
            JSON,
            _EVENTS,
            {
                "time_unix_nano": [_AT + 1, _AT + 2],
                "p_timestamp": [_AT] * 2,
                "event_id": ["61" * 27, "62" * 27],
                "event_type": ["A", "B"],
                "message": ["one", "two"],
            },
        ),
    )


def prove() -> None:
    """Make and read the parts. Raises BrokenInstallation, which names the libraries at fault."""
    with _made_by("protobuf", "googleapis-common-protos", "opentelemetry-proto"):
        probes = _probes()
    with _made_by("isal", "backports.zstd"):
        for encoding, pack in _PACKERS:
            _prove_encoding(probes[0].body, encoding, pack)
    with _made_by("pyarrow", "numpy", "protobuf", "orjson"):
        decoder = Decoder(max_inflated_body_bytes=MAX_BYTES, max_series_cached_bytes=MAX_BYTES)
        for probe in probes:
            for _ in range(TIMES_SEEN):
                fresh = _read(_part(decoder, probe))
                _compare(fresh, probe.columns)
            _compare(_read(_merged(fresh, probe.signal)), probe.columns)


def _prove_encoding(content: bytes, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """Raises ValueError where a body is changed, or one whose end is elsewhere is taken."""
    body = pack(content)
    if inflate(body, encoding, MAX_BYTES, no_reservation) != content:
        raise ValueError(f"a {encoding} body is not what was sent")
    for wrong in (body[:-1], *(body + b"\xff" * size for size in TAILS_BYTES)):
        try:
            inflate(wrong, encoding, MAX_BYTES, no_reservation)
        except MalformedBody:
            continue
        raise ValueError(f"a {encoding} body is taken that does not end where its bytes end")


def _part(decoder: Decoder, probe: _Probe) -> memoryview:
    """A part as a commit writes it."""
    signal, memory = probe.signal, StreamMemory(MAX_LABEL_COLUMNS)
    arrival = Arrival(signal.name, STREAM, probe.content_type, "identity", _AT * 1000, "", "")
    batch = decoder.decode(Record(arrival, probe.body))
    made = by_signal.tables(signal, [batch], memory, lambda _: False)
    (hour,) = made.hours
    return parts.to_parquet(hour, STREAM, signal, "")


def _merged(table: pa.Table, signal: Signal) -> memoryview:
    """A part as a merge writes it."""
    sink = pa.BufferOutputStream()
    marks = parts.Marks()
    with parts.part_writer(sink, table.schema, STREAM, signal, signal.merged, marks) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _read(part: memoryview) -> pa.Table:
    with pq.ParquetFile(pa.BufferReader(part), page_checksum_verification=True) as file:
        return file.read()


def _compare(table: pa.Table, columns: Mapping[str, Sequence[object]]) -> None:
    """Raises ValueError where a column is not what was sent."""
    times = _values(table["time_unix_nano"])
    rows = sorted(range(len(times)), key=times.__getitem__)
    for name, wanted in columns.items():
        values = _values(table[name])
        if [values[row] for row in rows] != list(wanted):
            raise ValueError(f"column '{name}' reads {values!r}")


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


@contextlib.contextmanager
def _made_by(*libraries: str) -> Iterator[None]:
    """A step that these libraries do, the likeliest culprit first."""
    try:
        yield
    except Exception as error:
        raise BrokenInstallation(
            f"cannot turn points into Parquet and back: {type(error).__name__}: {error}",
            hint=f"another version of a library may help: {', '.join(map(_version, libraries))};"
            " install rayotel with its dependencies again",
        ) from error


def _version(library: str) -> str:
    """What is installed, and what rayotel asks for."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for requirement in importlib.metadata.requires("rayotel") or ():
            wanted = requirement.partition(";")[0].strip()
            if wanted.startswith(library.replace(".", "-")):
                return f"{library} {importlib.metadata.version(library)} (needs {wanted})"
    return library
