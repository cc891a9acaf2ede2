"""Questions to a lake of many hours and streams on S3, with a wait before each answer.

    catalog.py [HOURS] [STREAMS] [MILLISECONDS]

Each hour of each stream is one part, as compaction leaves it: the recorded cluster's first minute,
moved. The server is `rclone serve s3`; a proxy makes each request wait. Each command runs as a
process, first with an empty cache and then again. Prints a Markdown table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from compaction import moved, recorded_tables
from rayotel.lake.layout import PartName, Span
from rayotel.model import NANOSECONDS_PER_HOUR
from support.fault_proxy import Fault, FaultProxy, Kind
from support.harness import RAYOTEL, S3_KEY_ID, S3_SECRET, environment, make_bucket, s3_server
from support.lakes import RECEIVER, part

COMMANDS = (
    ("streams", "streams", "--format", "csv"),
    ("query --since 1h, one stream", "query", "SELECT count(*) FROM stream_0", "--since", "1h"),
    ("query --name node-cpu, 24 hours", "query", "--name", "node-cpu", "--since", "24h"),
    ("streams --since 24h", "streams", "--since", "24h", "--format", "csv"),
)


def make_lake(directory: Path, hours: int, streams: int) -> None:
    """Write the parts straight into the server's directory; one stream is `raymetrics`."""
    table = recorded_tables()[0]
    first = pc.min(table.column("time_unix_nano").cast(pa.int64())).as_py()
    last_hour = time.time_ns() // NANOSECONDS_PER_HOUR - 1
    names = ["raymetrics", *(f"stream_{number}" for number in range(streams - 1))]
    for hour in range(last_hour - hours + 1, last_hour + 1):
        content = part(moved(table, 0, hour * NANOSECONDS_PER_HOUR, first))
        for name in names:
            path = (
                directory / PartName(name, hour, RECEIVER, (Span("e" * 10, 1, 720),), 1, True).key
            )
            path.parent.mkdir(parents=True)
            path.write_bytes(content)


def run(arguments: tuple[str, ...], env: dict[str, str]) -> float:
    """Seconds of one command, from start to end of its process."""
    started = time.monotonic()
    subprocess.run([*RAYOTEL, *arguments], env=env, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """Make the lake, ask, print."""
    hours, streams, milliseconds = (
        int(given) for given in (*sys.argv[1:], *("1000", "20", "20")[len(sys.argv) - 1 :])
    )
    with (
        tempfile.TemporaryDirectory(prefix="rayotel-bench-") as name,
        s3_server(Path(name), forgets_seconds=3600) as url,
    ):
        make_bucket(url, "bucket")
        make_lake(Path(name) / "bucket" / "lake", hours, streams)
        with FaultProxy(url) as proxy:
            proxy.play(Fault(Kind.SLOW, seconds=milliseconds / 1000))
            env = environment(
                {
                    "RAYOTEL_STORAGE": "s3://bucket/lake",
                    "RAYOTEL_S3_ENDPOINT": proxy.url,
                    "AWS_ACCESS_KEY_ID": S3_KEY_ID,
                    "AWS_SECRET_ACCESS_KEY": S3_SECRET,
                }
            )
            print(f"{hours} hours of {streams} streams, {milliseconds} ms a request,")
            print(f"{os.cpu_count()} cores\n")
            print("| command | cold, s | requests | warm, s | requests |")
            print("| --- | ---: | ---: | ---: | ---: |")
            for number, (what, *arguments) in enumerate(COMMANDS):
                cells = []
                with_cache = {**env, "RAYOTEL_CACHE_DIR": f"{name}/cache-{number}"}
                for _ in ("cold", "warm"):
                    before = proxy.requests
                    seconds = run(tuple(arguments), with_cache)
                    cells += [f"{seconds:.2f}", str(proxy.requests - before)]
                print(f"| {what} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
