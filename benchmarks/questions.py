"""Every question over a large lake: an hour and a day, warm and cold, on a directory and on S3.

    questions.py [NODES] [HOURS] [MILLISECONDS] [--lake DIR]

One recorded worker is tiled to so many nodes, and its quarter of an hour to so many hours that end
now: times, instance, node address and series differ, values are perturbed. Every second recorded
scrape is taken. All hours are compacted as a server would have done, but the last: it has a part
for every five seconds, merged as a server merges a running hour. Warm: the median of several runs
in one process. Cold: a process of its own. On S3 (`rclone serve s3`) each request waits; a cold run
there begins with an empty cache. The queries that the pipeline was published with are asked as
well. `--lake`: made there and kept, and asked as it is where one is there already. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from compaction import QUARTER_NANO, recorded_tables
from rayotel.lake import cache, catalog
from rayotel.lake.cache import Cache
from rayotel.lake.layout import PartName, Span
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.lake.upkeep.compactor import Compactor, Schedule
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange
from rayotel.query.lake import Lake
from rayotel.query.ray import questions as shipped
from support.fault_proxy import Fault, FaultProxy, Kind
from support.harness import (
    LIMITS,
    RAYOTEL,
    S3_KEY_ID,
    S3_SECRET,
    environment,
    make_bucket,
    s3_server,
)
from support.lakes import EPOCH, RECEIVER, part
from support.published import PUBLISHED

WORKER = ":28181"
RUNS = 3
FRESH_NANO = 5 * 10**9


@dataclass(frozen=True, slots=True)
class Question:
    """SQL with a name."""

    name: str
    sql: str


def questions() -> list[Question]:
    """The shipped ones, their parameters at their defaults, and some written by hand."""
    found = []
    for one in shipped.all_queries():
        sql = one.sql
        for name, value in one.bind({}).items():
            sql = re.sub(rf"\${name}\b", f"'{value}'", sql)
        found.append(Question(one.name, sql))
    by_hand = (
        ("one series", "metric_instance = 'node-7' AND metric_name = 'ray_node_mem_used'"),
        ("one metric", "metric_name = 'ray_node_disk_usage'"),
    )
    for name, where in by_hand:
        sql = f"SELECT count(*), avg(data_point_value) FROM raymetrics WHERE {where}"
        found.append(Question(name, sql))
    found += [Question(f"published: {name}", sql) for name, sql in PUBLISHED.items()]
    return found


def _plain(table: pa.Table) -> pa.Table:
    """The table with its texts written out: dictionaries of several tables may not fit together."""
    columns = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def worker_scrapes() -> list[pa.Table]:
    """Every second scrape of the recorded worker, in order of time."""
    table = pa.concat_tables(map(_plain, recorded_tables()), promote_options="default")
    table = table.filter(pc.ends_with(table.column("metric_instance"), WORKER)).combine_chunks()
    times = table.column("time_unix_nano").cast(pa.int64()).to_numpy()
    return [table.filter(pa.array(times == one)) for one in np.unique(times)[::2]]


def of_node(table: pa.Table, node: int, shift: int) -> pa.Table:
    """A scrape as another node's, moved in time."""
    count = len(table)
    times = table.column("time_unix_nano").cast(pa.int64()).to_numpy() + shift
    moment = pa.array(times).cast(pa.timestamp("ns", "UTC"))
    ids = table.column("series_id").to_numpy() ^ np.int64(node * 0x9E3779B97F4A7C1 & (2**62 - 1))
    noise = 1 + 1e-3 * np.sin(node + times / 7e9)
    values = table.column("data_point_value")
    for name, column in (
        ("time_unix_nano", moment),
        ("p_timestamp", moment),
        ("series_id", pa.array(ids)),
        ("metric_instance", pa.array([f"node-{node}"] * count)),
        ("metric_ip", pa.array([f"10.0.{node // 256}.{node % 256}"] * count)),
        ("data_point_value", pc.multiply(values, pa.array(noise))),
    ):
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def commits(nodes: int, first_hour: int, hours: int) -> Iterator[tuple[int, pa.Table]]:
    """(hour, rows) as commits write them: a quarter of an hour at once, the last hour in pieces."""
    scrapes = worker_scrapes()
    first = pc.min(scrapes[0].column("time_unix_nano").cast(pa.int64())).as_py()
    for quarter in range(4 * hours):
        hour = first_hour + quarter // 4
        shift = first_hour * NANOSECONDS_PER_HOUR + quarter * QUARTER_NANO - first
        if hour < first_hour + hours - 1:
            for scrape in range(0, len(scrapes), 9):
                some = scrapes[scrape : scrape + 9]
                yield (
                    hour,
                    pa.concat_tables(
                        of_node(one, node, shift) for one in some for node in range(nodes)
                    ),
                )
            continue
        # nodes are scraped one after the other, a quarter of them between two commits
        for one in scrapes:
            for share in range(4):
                yield (
                    hour,
                    pa.concat_tables(
                        of_node(one, node, shift + share * FRESH_NANO)
                        for node in range(share, nodes, 4)
                    ),
                )


def make_lake(path: Path, nodes: int, hours: int) -> None:
    """Write it and tend it as a server would."""
    storage = open_storage(str(path / "lake"))
    compactor = Compactor(storage, path / "work", Schedule(after_seconds=0, grace_seconds=0.001))
    first_hour = time.time_ns() // NANOSECONDS_PER_HOUR - hours + 1
    for number, (hour, table) in enumerate(commits(nodes, first_hour, hours), start=1):
        name = PartName("raymetrics", hour, RECEIVER, (Span(EPOCH, number, number),), 0, False)
        storage.put(name.key, part(table, "raymetrics"))
        if number % 18 == 0:
            compactor.run(RECEIVER)


def warm(storage: Storage, question: Question, range_: TimeRange, cache: Cache) -> float:
    """Median milliseconds of a question in this process, after one run that is not counted."""
    seconds = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        with Lake(storage, LIMITS, cache=cache).ask(question.sql, range_) as result:
            for _ in result.batches():
                pass
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) * 1000


def cold(question: Question, range_: TimeRange, env: dict[str, str]) -> float:
    """Milliseconds of `rayotel query` as a process, from its start to its end."""
    command = [*RAYOTEL, "query", "-", "--format", "csv"]
    for option, moment in (("--from", range_.start), ("--to", range_.end)):
        command += [option, datetime.fromtimestamp((moment or 0) / 1e9, UTC).isoformat()]
    started = time.perf_counter()
    subprocess.run(command, input=question.sql.encode(), env=env, check=True, capture_output=True)
    return (time.perf_counter() - started) * 1000


def measure(
    where: str, storage: Storage, ranges: dict[str, TimeRange], env: dict[str, str], caches: Path
) -> Iterator[str]:
    """A line of the table for each question and range."""
    for number, question in enumerate(questions()):
        for label, range_ in ranges.items():
            own = caches / f"{where}-{number}-{label}"
            first = cold(question, range_, {**env, "RAYOTEL_CACHE_DIR": str(own)})
            again = cold(question, range_, {**env, "RAYOTEL_CACHE_DIR": str(own)})
            milliseconds = warm(storage, question, range_, Cache(own, 1 << 32))
            shutil.rmtree(own)
            figures = f"{milliseconds:.0f} | {again:.0f} | {first:.0f}"
            yield f"| {question.name} | {label} | {where} | {figures} |"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Questions over a large lake.")
    parser.add_argument("nodes", nargs="?", type=int, default=100)
    parser.add_argument("hours", nargs="?", type=int, default=24)
    parser.add_argument("milliseconds", nargs="?", type=int, default=20)
    parser.add_argument("--lake", type=Path, help="a directory that keeps the lake")
    return parser.parse_args()


def lake_of(top: Path, given: argparse.Namespace) -> TimeRange:
    """The whole range of the lake below `top`, which is made unless it is there."""
    bucket = top / "s3" / "bucket"
    started = time.monotonic()
    if not (bucket / "lake").is_dir():
        make_lake(bucket, given.nodes, given.hours)
    storage = open_storage(str(bucket / "lake"))
    made = catalog.parts(storage, "raymetrics")
    rows = sum(footer.rows for footer in cache.footers(storage, made, None))
    hours = [part.name.hour for part in made]
    size = f"{rows:,} rows, {given.nodes} nodes, {given.hours} hours"
    print(f"{os.cpu_count()} cores; {size}, ready after {time.monotonic() - started:.0f} s")
    return TimeRange(min(hours) * NANOSECONDS_PER_HOUR, (max(hours) + 1) * NANOSECONDS_PER_HOUR)


def main() -> None:
    """Make the lake, ask everything everywhere, print."""
    given = arguments()
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="rayotel-bench-")
        top = given.lake or Path(stack.enter_context(temporary))
        url = stack.enter_context(s3_server(top / "s3", forgets_seconds=3600))
        if not (top / "s3" / "bucket").is_dir():
            make_bucket(url, "bucket")
        whole = lake_of(top, given)
        assert whole.end is not None
        ranges = {
            "1 h": TimeRange(whole.end - NANOSECONDS_PER_HOUR, whole.end),
            f"{given.hours} h": whole,
        }
        print("\n| question | range | lake | warm, ms | cold, ms | cold without cache, ms |")
        print("| --- | --- | --- | ---: | ---: | ---: |", flush=True)
        directory = str(top / "s3" / "bucket" / "lake")
        env = environment({"RAYOTEL_STORAGE": directory})
        for line in measure("directory", open_storage(directory), ranges, env, top / "caches"):
            print(line, flush=True)
        keys = {"AWS_ACCESS_KEY_ID": S3_KEY_ID, "AWS_SECRET_ACCESS_KEY": S3_SECRET}
        os.environ.update(keys)
        with FaultProxy(url) as proxy:
            proxy.play(Fault(Kind.SLOW, seconds=given.milliseconds / 1000))
            bucket = "s3://bucket/lake"
            env = {**env, **keys, "RAYOTEL_STORAGE": bucket, "RAYOTEL_S3_ENDPOINT": proxy.url}
            storage = open_storage(bucket, s3_endpoint=proxy.url)
            for line in measure("S3", storage, ranges, env, top / "caches"):
                print(line, flush=True)


if __name__ == "__main__":
    main()
