"""Compact a large lake under a memory limit, while questions are asked.

    compaction.py [MILLION_ROWS] [LIMIT_MB]

The recorded quarter of an hour is tiled: to more clusters by changing the label `instance` and with
it the series, and to more quarters and hours by moving its times. Each recorded minute becomes a
part, as a commit would write it. The compacting process is killed when its resident memory, mapped
files included, goes beyond the limit. Prints a Markdown table.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from rayotel import replay
from rayotel.lake.layout import PartName, Span
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.storage.opening import open_storage
from rayotel.model import NANOSECONDS_PER_HOUR, PROTOBUF, Arrival, Record, TimeRange
from rayotel.query.session import Session
from support.harness import LIMITS, RAYOTEL, RECORDING, environment
from support.lakes import DECODER, EPOCH, RECEIVER, part, tables_by_hour

FIRST_HOUR = 490_000
QUARTER_NANO = NANOSECONDS_PER_HOUR // 4
CLUSTERS = 25
REQUESTS_PER_PART = 30


def recorded_tables() -> list[pa.Table]:
    """The recorded cluster as tables of a minute each."""
    requests = replay.load(RECORDING).requests
    arrival = Arrival("metrics", "s", PROTOBUF, "identity", time.time_ns(), "127.0.0.1", "")
    batches = [DECODER.decode(Record(arrival, one.plain_body())) for one in requests]
    memory = StreamMemory(512)
    return [
        table
        for start in range(0, len(batches), REQUESTS_PER_PART)
        for table in tables_by_hour(batches[start : start + REQUESTS_PER_PART], memory).values()
    ]


def moved(table: pa.Table, cluster: int, start: int, first: int) -> pa.Table:
    """The table as another cluster's, its times counted from `start` instead of `first`."""
    times = table.column("time_unix_nano").cast(pa.int64()).to_numpy() - first + start
    ids = table.column("series_id").to_numpy() ^ np.int64(cluster * 0x9E3779B97F4A7C1 & (2**62 - 1))
    instance = pc.binary_join_element_wise(
        table.column("metric_instance").cast(pa.string()), f"c{cluster}", "-"
    )
    for name, column in (
        ("time_unix_nano", pa.array(times).cast(pa.timestamp("ns", "UTC"))),
        ("series_id", pa.array(ids)),
        ("metric_instance", instance),
    ):
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def make_lake(path: Path, wanted_rows: int) -> tuple[int, int, int]:
    """Write the lake; (rows, parts, hours)."""
    storage = open_storage(str(path))
    tables = recorded_tables()
    first = min(pc.min(one.column("time_unix_nano").cast(pa.int64())).as_py() for one in tables)
    total = number = quarter = 0
    while total < wanted_rows:
        start = FIRST_HOUR * NANOSECONDS_PER_HOUR + quarter * QUARTER_NANO
        for cluster in range(CLUSTERS):
            for table in tables:
                number += 1
                shifted = moved(table, cluster, start, first)
                spans = (Span(EPOCH, number, number),)
                name = PartName("s", FIRST_HOUR + quarter // 4, RECEIVER, spans, 0, False)
                storage.put(name.key, part(shifted))
                total += table.num_rows
        quarter += 1
    return total, number, (quarter + 3) // 4


def ask_all_the_while(path: Path, stop: threading.Event, counts: list[int]) -> None:
    """Count the rows over and over; every count must be the same."""
    storage = open_storage(str(path))
    while not stop.is_set():
        sql = "SELECT count(*) AS n FROM s"
        with Session(storage, TimeRange(), LIMITS, mentioned_in=sql) as session:
            counts.append(session.run(sql).rows()[0]["n"])


def run_within(command: list[str], limit_mb: int) -> float:
    """Run a command to its end, killed beyond the limit; its peak resident memory in MB."""
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/statm")
    peak = 0.0
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            pages = int(status.read_text().split()[1])
            peak = max(peak, pages * resource.getpagesize() / 2**20)
        if peak > limit_mb:
            process.kill()
            raise SystemExit(f"killed at {peak:.0f} MB")
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit("compaction failed")
    return peak


def size_of_visible(path: Path) -> int:
    """Bytes of the parts that count."""
    from rayotel.lake import catalog

    return sum(part.size_bytes for part in catalog.parts(open_storage(str(path)), "s"))


def main() -> None:
    """Make the lake, compact it under the limit, print."""
    wanted = int(float((sys.argv[1:] or ["50"])[0]) * 1e6)
    limit_mb = int((sys.argv[2:] or ["512"])[0])
    with tempfile.TemporaryDirectory(prefix="rayotel-bench-") as name:
        lake = Path(name) / "lake"
        total, count, hours = make_lake(lake, wanted)
        before = size_of_visible(lake)
        stop, counts = threading.Event(), list[int]()
        thread = threading.Thread(target=ask_all_the_while, args=(lake, stop, counts))
        thread.start()
        started = time.monotonic()
        command = [*RAYOTEL, "compact", "--adopt", RECEIVER, "--storage", str(lake)]
        command += ["--data-dir", f"{name}/data"]
        peak = run_within(command, limit_mb)
        seconds = time.monotonic() - started
        stop.set()
        thread.join()
        after = size_of_visible(lake)
    wrong = sum(one != total for one in counts)
    print("| what | figure |\n| --- | ---: |")
    for what, figure in (
        ("rows", f"{total:,}"),
        ("parts before, hours", f"{count:,}, {hours}"),
        ("memory limit, MB", limit_mb),
        ("peak resident memory, MB", f"{peak:.0f}"),
        ("rows compacted per second", f"{total / seconds:,.0f}"),
        ("bytes per row before, after", f"{before / total:.2f}, {after / total:.2f}"),
        ("questions meanwhile, wrong answers", f"{len(counts)}, {wrong}"),
    ):
        print(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
