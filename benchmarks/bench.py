"""Measure rayotel on the recorded cluster, and print one Markdown table.

Absolute figures are of one machine and one moment; the ratios to `FromString`, the official
protobuf parser run on the same bytes in the same process, hold better. Nothing here is asserted.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from harness import LIMITS, RECORDING, Server
from rayotel import replay
from rayotel.ingest.decoding import PROTOBUF, Decoder
from rayotel.ingest.wal import Record
from rayotel.lake import parts, rows
from rayotel.lake.rows import LabelColumns
from rayotel.lake.storage import Storage, open_storage
from rayotel.model import Arrival, MetricBatch, TimeRange
from rayotel.query import shipped
from rayotel.query.session import Session

ROUNDS = 5
Row = tuple[str, str, str]


def median_seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median wall time of several runs after a warm-up."""
    work()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def records(recording: replay.Recording) -> list[Record]:
    """The recorded requests without their gzip, as records."""
    made = []
    for number, request in enumerate(recording.requests):
        arrival = Arrival(
            "metrics", "raymetrics", PROTOBUF, "identity",
            time.time_ns() + number, "127.0.0.1", "Fluent-Bit",
        )  # fmt: skip
        made.append(Record(arrival, request.plain_body()))
    return made


def new_decoder() -> Decoder:
    """A decoder that knows no series yet."""
    return Decoder(max_inflated_body_bytes=1 << 30, max_series_cached_bytes=1 << 28)


def decode(found: list[Record]) -> tuple[list[Row], list[MetricBatch], float]:
    """Decoding alone, against the official parser."""
    decoder = new_decoder()
    batches = [decoder.decode(one) for one in found]
    points = sum(batch.accepted_points for batch in batches)
    ours = median_seconds(lambda: [decoder.decode(one) for one in found])
    official = median_seconds(
        lambda: [ExportMetricsServiceRequest.FromString(one.body) for one in found]
    )
    cold = median_seconds(
        lambda: Decoder(max_inflated_body_bytes=1 << 30, max_series_cached_bytes=1 << 20).decode(
            found[0]
        )
    )
    table = [
        ("official `FromString` alone, points/s", rate(points, official), "1.00"),
        ("decode to columns, warm, points/s", rate(points, ours), f"{official / ours:.2f}"),
        (
            "decode of a first scrape, points/s",
            rate(batches[0].accepted_points, cold),
            f"{official / points / (cold / batches[0].accepted_points):.2f}",
        ),
    ]
    return table, batches, official / points


def rate(points: int, seconds: float) -> str:
    """Thousands per second."""
    return f"{points / seconds / 1000:,.0f} k"


def write(batches: list[MetricBatch]) -> list[Row]:
    """Columns to Parquet, and bytes per row by how much is written at once."""
    points = sum(batch.accepted_points for batch in batches)

    def tables(some: list[MetricBatch]) -> list[pa.Table]:
        return list(rows.tables_by_hour(some, LabelColumns(512)).values())

    made = tables(batches)
    build = median_seconds(lambda: tables(batches))
    encode = median_seconds(lambda: [parts.to_parquet(table, "s") for table in made])
    sizes = {}
    for label, count in (("one scrape of the cluster", 5), ("a minute", 30), ("all", len(batches))):
        groups = [batches[i : i + count] for i in range(0, len(batches), count)]
        size = sum(len(parts.to_parquet(t, "s")) for group in groups for t in tables(group))
        sizes[label] = size / points
    return [
        ("columns to Arrow table, rows/s", rate(points, build), ""),
        ("Arrow table to Parquet, rows/s", rate(points, encode), ""),
        *((f"bytes per row, {k} in a part", f"{v:.2f}", "") for k, v in sizes.items()),
    ]


def whole_path(recording: replay.Recording, official: float) -> tuple[list[Row], Storage]:
    """Socket to durable Parquet: a real server, one client on one connection."""
    data_dir = Path(tempfile.mkdtemp(prefix="rayotel-bench-")) / "data"
    with Server(data_dir, "--commit-interval-seconds", "5") as server:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        replay.post(recording, server.url, speed=None)
        acknowledged = time.perf_counter() - started
        server.stop()
        whole = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    points = 111_713
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    table = [
        ("socket to acknowledgement, points/s", rate(points, acknowledged), ""),
        ("socket to durable Parquet, points/s", rate(points, whole), ""),
        (
            "CPU per point, start and stop of the server included, µs",
            f"{cpu / points * 1e6:.1f}",
            f"{cpu / points / official:.1f} x FromString",
        ),
        ("peak memory of the server, MB", f"{after.ru_maxrss / 1024:.0f}", ""),
    ]
    return table, open_storage(str(data_dir / "lake"))


def questions(storage: Storage) -> list[Row]:
    """Every shipped question over the recorded quarter of an hour."""
    found = []
    for query in shipped.all_queries():

        def run(query: shipped.ShippedQuery = query) -> None:
            with Session(storage, TimeRange(), LIMITS, mentioned_in=query.sql) as session:
                session.run(query.sql, query.bind({})).rows()

        found.append((f"query {query.name}, ms", f"{median_seconds(run) * 1000:.0f}", ""))
    return found


def main() -> None:
    """Measure and print."""
    recording = replay.load(RECORDING)
    table, batches, official = decode(records(recording))
    table += write(batches)
    path, storage = whole_path(recording, official)
    table += path + questions(storage)
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, pyarrow {pa.__version__},"
        f" DuckDB {duckdb.__version__}; recorded cluster: {len(recording.requests)} requests\n"
    )
    print("| what | figure | ratio to `FromString` |")
    print("| --- | ---: | ---: |")
    for what, figure, ratio in table:
        print(f"| {what} | {figure} | {ratio} |")


if __name__ == "__main__":
    main()
