"""Measure rayotel on the recorded cluster, and print one Markdown table.

Absolute figures are of one machine and one moment; the ratios to `FromString`, the official
protobuf parser run on the same bytes in the same process, hold better. Nothing here is asserted.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import load
import scrapes
from rayotel import replay
from rayotel.ingest.decode.decoder import Decoder
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import PROTOBUF, Arrival, Batch, Record, TimeRange
from rayotel.query.ray import questions as shipped
from rayotel.query.session import Session
from support.harness import LIMITS, RECORDING, Server
from support.lakes import part, tables_by_hour

ROUNDS = 5
CHURN_REQUESTS, CHURN_SERIES = 500, 2000
LOAD_ROUNDS = 6
SCRAPE_RUNS = 3
NODES, NODE_POINTS, NODE_SCRAPES = 1000, 200, 2
NODES_POINTS_PER_SECOND = 20_000
OLDEST = "rayotel_oldest_uncommitted_timestamp_seconds"
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


def decode(found: list[Record]) -> tuple[list[Row], list[Batch]]:
    """Decoding alone, against the official parser in turn with it."""
    decoder = new_decoder()
    batches = [decoder.decode(one) for one in found]
    points = sum(batch.accepted_rows for batch in batches)
    ways: dict[str, Callable[[], object]] = {
        "official `FromString` alone": lambda: [
            ExportMetricsServiceRequest.FromString(one.body) for one in found
        ],
        "decode to columns, all shapes seen before": lambda: [decoder.decode(o) for o in found],
        "decode to columns, in order from nothing": lambda: _all_by(new_decoder(), found),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.process_time()
            way()
            taken[name].append(time.process_time() - started)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    official = next(iter(medians.values()))
    table = [
        (f"{name}, points per CPU second", rate(points, seconds), f"{official / seconds:.2f}")
        for name, seconds in medians.items()
    ]
    return table, batches


def _all_by(decoder: Decoder, found: list[Record]) -> None:
    for one in found:
        decoder.decode(one)


def churn() -> list[Row]:
    """Series that come once and never again, as from workers without end."""
    decoder = new_decoder()
    now, seconds, memory = time.time_ns(), 0.0, 0.0
    for number in range(CHURN_REQUESTS):
        request = ExportMetricsServiceRequest()
        metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
        for point in range(CHURN_SERIES):
            one = metric.gauge.data_points.add(time_unix_nano=now, as_double=point)
            worker = f"{number:020d}{point:036d}"
            for key, text in (("SessionName", "s"), ("WorkerId", worker), ("instance", "node-1")):
                one.attributes.add(key=key).value.string_value = text
        arrival = Arrival("metrics", "s", PROTOBUF, "identity", now, "", "")
        record = Record(arrival, request.SerializeToString())
        started = time.process_time()
        decoder.decode(record)
        seconds += time.process_time() - started
        if number == CHURN_REQUESTS // 2:
            memory = load.memory_mb(os.getpid())
    series = CHURN_REQUESTS * CHURN_SERIES
    grown = load.memory_mb(os.getpid()) - memory
    return [
        ("a series never seen before, µs", f"{seconds / series * 1e6:.1f}", ""),
        (f"memory grown by the last {series // 2:,} such series, MB", f"{grown:.0f}", ""),
    ]


def rate(points: int, seconds: float) -> str:
    """Thousands per second."""
    return f"{points / seconds / 1000:,.0f} k"


def write(batches: list[Batch]) -> list[Row]:
    """Columns to Parquet, and bytes per row by how much is written at once."""
    points = sum(batch.accepted_rows for batch in batches)

    def tables(some: list[Batch]) -> list[pa.Table]:
        return list(tables_by_hour(some, StreamMemory(512)).values())

    made = tables(batches)
    build = median_seconds(lambda: tables(batches))
    encode = median_seconds(lambda: [part(table) for table in made])
    sizes = {}
    for label, count in (("one scrape of the cluster", 5), ("a minute", 30), ("all", len(batches))):
        groups = [batches[i : i + count] for i in range(0, len(batches), count)]
        size = sum(len(part(t)) for group in groups for t in tables(group))
        sizes[label] = size / points
    return [
        ("columns to Arrow table, rows/s", rate(points, build), ""),
        ("Arrow table to Parquet, rows/s", rate(points, encode), ""),
        *((f"bytes per row, {k} in a part", f"{v:.2f}", "") for k, v in sizes.items()),
    ]


def official_seconds(plains: Sequence[bytes]) -> float:
    """CPU of the official parser for these bodies; nothing is read from what it parses."""
    started = time.process_time()
    for plain in plains:
        ExportMetricsServiceRequest.FromString(plain)
    return time.process_time() - started


def wait_for_commit(server: Server) -> None:
    """Until all that was acknowledged is in parts."""
    # asking costs the server something too
    while f"{OLDEST} 0.0" not in server.get("/metrics").text:
        time.sleep(0.5)


def sustained(recording: replay.Recording) -> tuple[list[Row], Storage]:
    """Socket to durable, sorted parts as fast as answers come; the server has learned before."""
    found = load.recorded(recording)
    shift = replay.shift_to_now(recording) - load.HOUR_NANO
    rounds = [
        [load.request_bytes(plain) for plain in found.at(shift + number * load.ROUND_NANO)]
        for number in range(LOAD_ROUNDS + 1)
    ]
    data_dir = Path(tempfile.mkdtemp(prefix="rayotel-bench-")) / "data"
    rates, megabytes, official = [], [], [official_seconds(found.plains)]
    with Server(data_dir, "--commit-interval-seconds", "5") as server:
        load.send(server.port, rounds[0])
        wait_for_commit(server)
        cpu = load.cpu_seconds(server.pid)
        for requests in rounds[1:]:
            rates.append(found.points / load.send(server.port, requests).seconds)
            megabytes.append(load.memory_mb(server.pid))
        wait_for_commit(server)
        cpu = load.cpu_seconds(server.pid) - cpu
        peak = load.memory_mb(server.pid, "VmHWM")
        server.stop()
    official.append(official_seconds(found.plains))
    ratio = cpu / LOAD_ROUNDS / statistics.mean(official)
    table = [
        (
            "socket to acknowledgement, warm, points/s",
            f"{statistics.median(rates) / 1e3:,.0f} k",
            "",
        ),
        (
            "socket to durable sorted parts, CPU per point, µs",
            f"{cpu / LOAD_ROUNDS / found.points * 1e6:.2f}",
            f"{ratio:.1f} x FromString",
        ),
        (
            "memory after the first and the last round, MB",
            f"{megabytes[0]:.0f}, {megabytes[-1]:.0f}",
            "",
        ),
        ("peak memory of the server, MB", f"{peak:.0f}", ""),
    ]
    return table, open_storage(str(data_dir / "lake"))


def a_thousand_nodes(recording: replay.Recording) -> list[Row]:
    """20,000 points a second, one request per node and scrape: how long an answer takes."""
    found = load.nodes(recording, NODES, NODE_POINTS)
    per_second = NODES_POINTS_PER_SECOND / (found.points / NODES)
    moment = time.time_ns() - found.first_time
    scrapes = [
        [load.request_bytes(plain) for plain in found.at(moment + number * 10**10)]
        for number in range(NODE_SCRAPES + 1)
    ]
    data_dir = Path(tempfile.mkdtemp(prefix="rayotel-bench-")) / "data"
    with Server(data_dir, "--commit-interval-seconds", "5") as server:
        load.send(server.port, scrapes[0], per_second)
        cpu = load.cpu_seconds(server.pid)
        sent = load.send(server.port, [one for scrape in scrapes[1:] for one in scrape], per_second)
        used = (load.cpu_seconds(server.pid) - cpu) / sent.seconds
        peak = load.memory_mb(server.pid, "VmHWM")
        server.kill()
    label = f"{NODES} nodes, {NODES_POINTS_PER_SECOND:,} points/s"
    return [
        (
            f"{label}: acknowledgement p50, p99, ms",
            f"{sent.percentile_ms(50):.1f}, {sent.percentile_ms(99):.1f}",
            f"refused {sent.refused}",
        ),
        (f"{label}: CPU of one core, %", f"{used * 100:.0f}", ""),
        (f"{label}: peak memory, MB", f"{peak:.0f}", ""),
    ]


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
    table, batches = decode(records(recording))
    table += churn() + write(batches)
    path, storage = sustained(recording)
    table += path + scrapes.rows([scrapes.measure(recording) for _ in range(SCRAPE_RUNS)])
    table += a_thousand_nodes(recording) + questions(storage)
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
