"""The rules of decoding, one by one, each with the examples that it is about."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from backports import zstd
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from rayotel.ingest.decode.decoder import no_reservation
from rayotel.ingest.decode.limits.inflate import BodyTooLarge, MalformedBody, inflate
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.schema import METRIC_COLUMNS
from support.lakes import part, tables_by_hour
from support.otlp_reference import (
    ARRIVED,
    DAY,
    JSON_TYPE,
    OVERFLOW,
    YEAR_2000,
    all_rows,
    decode,
    frozen,
    gauges,
    in_microseconds,
    new_decoder,
    restored,
    rows_of,
    stored,
)
from support.otlp_strategies import TEXTS, few


def _labelled(points: Sequence[dict[str, str]]) -> bytes:
    request = gauges(*range(ARRIVED, ARRIVED + len(points)))
    found = request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points
    for point, labels in zip(found, points, strict=True):
        for key, text in labels.items():
            point.attributes.add(key=key).value.string_value = text
    return request.SerializeToString()


def only_rows(body: bytes, **how: Any) -> list[dict[str, Any]]:
    """The rows of a request whose points are all of one hour."""
    (table,) = stored(decode(body, **how)).values()
    return rows_of(table)


MISSING = "time_unix_nano is missing"
TOO_EARLY = "time_unix_nano is before 2000"
TOO_LATE = "time_unix_nano is more than a day ahead"


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        (0, MISSING),
        (1, TOO_EARLY),
        (YEAR_2000 - 1, TOO_EARLY),
        (YEAR_2000, None),
        (ARRIVED + DAY, None),
        (ARRIVED + DAY + 1, TOO_LATE),
        (2**63, TOO_LATE),
        (2**64 - 1, TOO_LATE),
    ],
)
def test_the_limits_of_time(time: int, reason: str | None) -> None:
    """A point without a time, before 2000 or more than a day ahead is rejected with its reason."""
    batch = decode(gauges(ARRIVED, time, time).SerializeToString())
    assert batch.rejected == ({reason: 2} if reason else {})
    assert batch.accepted_rows == (1 if reason else 3)


@few
@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(YEAR_2000, ARRIVED), max_size=8))
def test_every_point_is_either_stored_or_counted(times: list[int]) -> None:
    """Rows and rejected points add up to the points sent; the rows are those of good times."""
    batch = decode(gauges(*times).SerializeToString())
    rows = [row for table in stored(batch).values() for row in rows_of(table)]
    good = [time for time in times if YEAR_2000 <= time <= ARRIVED + DAY]
    # of points that one request repeats, one is a row
    expected = sorted(map(in_microseconds, set(good)))
    assert sorted(row["time_unix_nano"] for row in rows) == expected
    assert sum(batch.rejected.values()) == len(times) - len(good)


@pytest.mark.parametrize("field", ["count", "start_time_unix_nano", "bucket_counts"])
def test_a_count_that_no_engine_can_read_is_rejected(field: str) -> None:
    """Counts and start times beyond 2**63 - 1 are rejected with their reason, the rest stored."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    metric.histogram.data_points.add(time_unix_nano=ARRIVED, count=1)
    bad: Any = {field: [2**63] if field == "bucket_counts" else 2**63}
    metric.histogram.data_points.add(time_unix_nano=ARRIVED, **bad)
    batch = decode(request.SerializeToString())
    assert batch.rejected == {"a count or start time is beyond 2**63 - 1": 1}
    assert batch.accepted_rows == 1


def test_a_string_that_is_not_utf_8_does_not_lose_the_request() -> None:
    """Bytes that are not UTF-8 become U+FFFD wherever they stand; everything else is kept."""
    request = gauges(ARRIVED, kEY="vALUE", good="ü")
    scope = request.resource_metrics[0].scope_metrics[0]
    scope.scope.name = scope.metrics[0].name = scope.metrics[0].unit = "nAME"
    request.resource_metrics[0].resource.attributes.add(key="rES").value.string_value = "tEXT"
    body = request.SerializeToString()
    for placed in (b"kEY", b"vALUE", b"nAME", b"rES", b"tEXT"):
        body = body.replace(placed, b"\xff" + placed[1:])
    with pytest.raises(DecodeError):
        ExportMetricsServiceRequest.FromString(body)
    (row,) = only_rows(body)
    expected = {
        "metric_\ufffdEY": "\ufffdALUE", "metric_good": "ü", "resource_\ufffdES": "\ufffdEXT",
        "metric_name": "\ufffdAME", "metric_unit": "\ufffdAME", "scope_name": "\ufffdAME",
        "data_point_value": 1.5,
    }  # fmt: skip
    assert expected.items() <= row.items()


LABELS = st.dictionaries(st.text("abcd", min_size=1, max_size=2), TEXTS, max_size=9)


@few
@given(st.lists(LABELS, min_size=1, max_size=5))
def test_labels_beyond_the_bound_overflow_and_none_is_lost(points: list[dict[str, str]]) -> None:
    """A stream has at most its bound of label columns; the rest is in labels_overflow."""
    (table,) = stored(decode(_labelled(points)), columns=5).values()
    assert table.num_columns <= len(METRIC_COLUMNS) + 5
    sent = [sorted((f"metric_{key}", text) for key, text in one.items()) for one in points]
    assert sorted(sorted(restored(row).labels) for row in rows_of(table)) == sorted(sent)
    distinct = {key for one in points for key in one}
    assert (OVERFLOW in {name for row in rows_of(table) for name in row}) == (len(distinct) > 5)


# --- what a decoder remembers --------------------------------------------------------------------


def _resource(request: ExportMetricsServiceRequest) -> Any:
    return request.resource_metrics[0]


def _metric(request: ExportMetricsServiceRequest) -> Any:
    return request.resource_metrics[0].scope_metrics[0].metrics[0]


def _scope(request: ExportMetricsServiceRequest) -> Any:
    return request.resource_metrics[0].scope_metrics[0]


def _as_sum(request: ExportMetricsServiceRequest, temporality: int, *, rises: bool = False) -> None:
    points = list(_metric(request).gauge.data_points)
    _metric(request).sum.data_points.extend(points)
    _metric(request).sum.aggregation_temporality = temporality
    _metric(request).sum.is_monotonic = rises


TEXT = AnyValue(string_value="v")
CHANGES: dict[str, Callable[[ExportMetricsServiceRequest], object]] = {
    "name": lambda r: setattr(_metric(r), "name", "other"),
    "unit": lambda r: setattr(_metric(r), "unit", "s"),
    "description": lambda r: setattr(_metric(r), "description", "words"),
    "metadata": lambda r: _metric(r).metadata.add(key="a"),
    "sum": lambda r: _as_sum(r, 0),
    "delta": lambda r: _as_sum(r, 1),
    "cumulative": lambda r: _as_sum(r, 2),
    "monotonic": lambda r: _as_sum(r, 2, rises=True),
    "scope": lambda r: setattr(_scope(r).scope, "name", "lib"),
    "scope version": lambda r: setattr(_scope(r).scope, "version", "1"),
    "scope attribute": lambda r: _scope(r).scope.attributes.add(key="k").value.CopyFrom(TEXT),
    "scope dropped": lambda r: setattr(_scope(r).scope, "dropped_attributes_count", 1),
    "scope schema": lambda r: setattr(_scope(r), "schema_url", "https://example.org"),
    "resource": lambda r: _resource(r).resource.attributes.add(key="k").value.CopyFrom(TEXT),
    "resource dropped": lambda r: setattr(_resource(r).resource, "dropped_attributes_count", 1),
    "resource schema": lambda r: setattr(_resource(r), "schema_url", "https://example.org"),
    "entity": lambda r: _resource(r).resource.entity_refs.add(type="host"),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_series_that_differ_in_one_thing_are_not_confused(change: str) -> None:
    """A decoder that knows a series never takes another for it, whatever the difference is."""
    base, other = gauges(ARRIVED, k="v"), gauges(ARRIVED, k="v")
    CHANGES[change](other)
    decoder = new_decoder()
    for request in (base, other, base):
        body = request.SerializeToString()
        assert all_rows(decode(body, decoder)) == all_rows(decode(body))
    assert all_rows(decode(base.SerializeToString())) != all_rows(decode(other.SerializeToString()))


@pytest.mark.parametrize(
    "how", [{"header_columns": (("env", "x"),)}, {"stream": "t"}, {"header_columns": (("e", "x"),)}]
)
def test_series_of_other_senders_are_not_confused(how: dict[str, Any]) -> None:
    """The same series with other headers or in another stream is another one."""
    body, decoder = gauges(ARRIVED, k="v").SerializeToString(), new_decoder()
    assert all_rows(decode(body, decoder)) != all_rows(decode(body, decoder, **how))
    assert all_rows(decode(body, decoder, **how)) == all_rows(decode(body, **how))


# --- histograms ----------------------------------------------------------------------------------


def _buckets(counts: Sequence[int], total: int) -> tuple[list[int], bool]:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="h")
    bounds = [float(bound) for bound in range(len(counts) - 1)]
    metric.histogram.data_points.add(
        time_unix_nano=ARRIVED, count=total, bucket_counts=counts, explicit_bounds=bounds
    )
    (row,) = only_rows(request.SerializeToString())
    return row["data_point_bucket_counts"], row["data_point_buckets_repaired"]


HONEST = st.lists(st.sampled_from([0, 0, 1, 2, 3]) | st.integers(0, 2**40), max_size=8)


@few
@given(HONEST)
def test_no_honest_histogram_is_touched(counts: list[int]) -> None:
    """Counts that add up to the total, as OTLP wants, are stored as sent: none looks cumulative."""
    assert _buckets(counts, sum(counts)) == (counts, False)


@few
@given(HONEST)
def test_every_cumulative_histogram_is_repaired(counts: list[int]) -> None:
    """Cumulative counts become the counts of each bucket, marked unless both readings agree."""
    cumulative = list(itertools.accumulate(counts))
    assert _buckets(cumulative, sum(counts)) == (counts, any(counts[:-1]))


@pytest.mark.parametrize(
    ("counts", "total", "kept"),
    [
        ([], 5, "no buckets were sent"),
        ([5], 5, "one bucket: both readings agree"),
        ([0, 0, 5], 5, "all in the last bucket: both readings agree"),
        ([0, 0, 0], 0, "nothing observed: both readings agree"),
        ([1, 2, 2], 4, "the last is not the total: scraped while it changed"),
        ([3, 2, 5], 5, "counts fall: neither reading is right"),
        ([2, 2], 3, "neither reading is right"),
    ],
)
def test_what_is_not_surely_cumulative_is_kept_as_sent(
    counts: list[int], total: int, kept: str
) -> None:
    """Only counts that rise to the total and do not add up to it are taken for cumulative."""
    assert _buckets(counts, total) == (counts, False), kept


# --- names, headers, order ------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a\u00a0b", "a\u200db", "a\ue000b", "a\U0001fae9b"])
def test_a_name_without_control_characters_has_a_column(key: str) -> None:
    """Rule 4: only control characters, length and the bound keep a label out of a column."""
    (row,) = only_rows(gauges(ARRIVED, **{key: "text"}).SerializeToString())
    assert row[f"metric_{key}"] == "text"


@pytest.mark.parametrize("name", ["hour", "date"])
def test_a_header_named_like_a_directory_is_readable(tmp_path: Path, name: str) -> None:
    """An engine that reads the lake as it lies sees every header column, also `X-P-Hour`."""
    path = tmp_path / "s" / "date=2026-11-20" / "hour=17" / "x.parquet"
    path.parent.mkdir(parents=True)
    batch = decode(gauges(ARRIVED).SerializeToString(), header_columns=((name, "noon"),))
    (table,) = tables_by_hour([batch], StreamMemory(5)).values()
    path.write_bytes(part(table))
    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT * FROM '{tmp_path}/s/**/*.parquet'").fetch_arrow_table()
    assert ["noon"] in [found.column(column).to_pylist() for column in found.column_names]


def test_json_null_is_a_field_that_was_not_sent() -> None:
    """In OTLP/JSON null means the default, also for trace and span ids."""
    exemplar = {"traceId": None, "asDouble": 2.5}
    point = {"timeUnixNano": str(ARRIVED), "startTimeUnixNano": None, "exemplars": [exemplar]}
    metric = {"name": "m", "unit": None, "gauge": {"dataPoints": [point]}}
    tree = {"resourceMetrics": [{"scopeMetrics": [{"scope": None, "metrics": [metric]}]}]}
    (row,) = only_rows(json.dumps(tree).encode(), content_type=JSON_TYPE)
    assert frozen(row["data_point_exemplars"]) == frozen([{"value": 2.5}])


def test_values_of_one_label_keep_their_order_in_the_overflow() -> None:
    """Where a label that was sent twice has no column, its texts are listed in the order sent."""
    request = gauges(ARRIVED)
    point = request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0]
    for text in ("first", "second"):
        point.attributes.add(key="x" * 300).value.string_value = text
    (row,) = only_rows(request.SerializeToString())
    assert row[OVERFLOW] == {f"metric_{'x' * 300}": ["first", "second"]}


# --- encodings -----------------------------------------------------------------------------------


def _deflate_raw(body: bytes) -> bytes:
    codec = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return codec.compress(body) + codec.flush()


ENCODERS: dict[str, list[Callable[[bytes], bytes]]] = {
    "gzip": [gzip.compress, lambda body: gzip.compress(body, 0)],
    "zstd": [zstd.compress, lambda body: zstd.compress(body, -5)],
    "deflate": [zlib.compress, _deflate_raw],
}
# around the steps in which bodies are inflated, of noise or of nothing
SIZES = st.integers(0, 20) | st.integers(4050, 4110) | st.sampled_from([8192, 262_144, 600_000])
PIECES = st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=4)


def _pieces(of: list[tuple[int, bool]]) -> list[bytes]:
    luck = random.Random(len(of))
    return [luck.randbytes(size) if is_noise else bytes(size) for size, is_noise in of]


@few
@given(PIECES, st.sampled_from(sorted(ENCODERS)), st.sampled_from([0, 1]), st.data())
def test_inflating_undoes_the_encoding(
    of: list[tuple[int, bool]], encoding: str, encoder: int, data: st.DataObject
) -> None:
    """Members and frames of any length, in any number, are one body; every cut is noticed."""
    pieces = _pieces(of)[: 1 if encoding == "deflate" else None]
    body, encode = b"".join(pieces), ENCODERS[encoding][encoder]
    encoded = b"".join(encode(piece) for piece in pieces)
    reserved: list[int] = []
    assert inflate(encoded, encoding, len(body), reserved.append) == body
    assert sum(reserved) == len(body)
    if body:
        with pytest.raises(BodyTooLarge):
            inflate(encoded, encoding, len(body) - 1, reserved.append)
    last = len(encode(pieces[-1]))
    cut = data.draw(st.integers(1, last - 1 if len(pieces) > 1 else last))
    for broken in (encoded[:-cut], encoded + b"\xff\xff"):
        with pytest.raises(MalformedBody):
            inflate(broken, encoding, 1 << 22, reserved.append)


def test_deflate_is_one_stream() -> None:
    """Unlike gzip and zstd, deflate has no members: a second stream is not more of the body."""
    for encode in ENCODERS["deflate"]:
        with pytest.raises(MalformedBody):
            inflate(encode(b"one") + encode(b"two"), "deflate", 1 << 22, no_reservation)
