"""The recorded cluster: what is stored is what the official protobuf classes read."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.lake.storage.interface import Storage
from rayotel.replay import Recording
from support.harness import RECORDING
from support.otlp_reference import HOUR, OVERFLOW, points_of, restored, stored_rows

Files = dict[Path, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def files(served_lake: Storage) -> Files:
    """The rows of every file of the lake."""
    found = sorted(Path(served_lake.url).rglob("raymetrics/date=*/hour=*/*.parquet"))
    return {path: stored_rows(path) for path in found}


@pytest.fixture(scope="module")
def sent(recording: Recording) -> Counter[Hashable]:
    """The points of the recording by the second decode, and how often each was sent."""
    counted: Counter[Hashable] = Counter()
    for request in recording.requests:
        message = ExportMetricsServiceRequest.FromString(request.plain_body())
        counted.update(point.key() for point in points_of(message))
    return counted


def test_every_point_is_stored_once_and_exactly(files: Files, sent: Counter[Hashable]) -> None:
    """The rows in storage are the points that were sent: values, labels, nanoseconds, repairs."""
    stored = Counter(restored(row).key() for rows in files.values() for row in rows)
    assert list((sent - stored).items())[:3] == []
    assert list((stored - sent).items())[:3] == []


def test_there_are_as_many_rows_as_recorded_points(files: Files) -> None:
    """The number of rows is the number of points that the recorder counted."""
    lines = (RECORDING / "requests.ndjson").read_text("utf-8").splitlines()
    recorded = sum(json.loads(line)["points"] for line in lines)
    assert sum(len(rows) for rows in files.values()) == recorded > 100_000


def test_the_recording_has_what_these_tests_are_about(files: Files) -> None:
    """Gauges, sums, repaired and honest histograms, and labels that differ only in case."""
    rows = list(itertools.chain(*files.values()))
    assert {row["metric_type"] for row in rows} == {"gauge", "sum", "histogram"}
    repaired = Counter(row.get("data_point_buckets_repaired") for row in rows)
    assert repaired[True] > 1000
    assert repaired[False] > 100
    spilled = {name for row in rows for name in row.get(OVERFLOW, ())}
    assert {"metric_version", "metric_method"} <= spilled


def test_bucket_counts_of_repaired_histograms_add_up(files: Files) -> None:
    """After the repair every histogram keeps OTLP's rule: bucket counts add up to the count."""
    for row in itertools.chain(*files.values()):
        if row["metric_type"] == "histogram":
            assert sum(row["data_point_bucket_counts"]) == row["data_point_count"]


def test_a_series_id_names_one_series_and_every_series_has_one(files: Files) -> None:
    """series_id is a function of metric and labels, and differs for different ones."""
    by_id, by_series = defaultdict(set), defaultdict(set)
    for row in itertools.chain(*files.values()):
        series = (row["metric_name"], tuple(sorted(restored(row).labels)))
        by_id[row["series_id"]].add(series)
        by_series[series].add(row["series_id"])
    assert len(by_series) > 1000
    assert [found for found in by_id.values() if len(found) > 1] == []
    assert [found for found in by_series.values() if len(found) > 1] == []


def test_columns_of_a_file_differ_by_more_than_case(files: Files) -> None:
    """No two columns of a file are equal ignoring case."""
    for path in files:
        names = [name.casefold() for name in pq.read_schema(path).names]
        assert len(names) == len(set(names))


def test_a_file_lies_in_the_hour_of_its_points(files: Files) -> None:
    """A file's directory is the UTC hour of its points' own time."""
    for path, rows in files.items():
        hours = {row["time_unix_nano"] // HOUR for row in rows}
        assert len(hours) == 1
        start = pa.scalar(hours.pop() * 3600, pa.timestamp("s")).as_py()
        assert path.parts[-3:-1] == (f"date={start:%Y-%m-%d}", f"hour={start:%H}")


def test_rows_say_who_sent_them(files: Files) -> None:
    """Every row has the sender's address and User-Agent."""
    for row in itertools.chain(*files.values()):
        assert (row["p_src_ip"], row["p_user_agent"]) == ("127.0.0.1", "Fluent-Bit")
