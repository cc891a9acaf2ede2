"""The whole path in a minute: a real server, a recorded cluster, the shipped questions.

The recordings are fifteen minutes of a Ray cluster of three nodes to which known things were done:
a burst of failing tasks, objects beyond the store's size, a node killed and brought back. One is
what Fluent Bit sent, the other Ray's own events.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from rayotel import replay
from rayotel.errors import RayotelError
from rayotel.lake.storage.opening import open_storage
from rayotel.query.lake import Lake
from rayotel.query.output.table import write_table
from rayotel.query.process.limits import Limits
from rayotel.query.ray import questions
from rayotel.replay import Recording
from rayotel.shipped import shipped_directory

START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 60.0
LIMITS = Limits(memory_bytes=1024 * 1024 * 1024, threads=0, timeout_seconds=60)

# (title, shipped query or its name and SQL around it, what it shows)
_ACTS: tuple[tuple[str, str, str], ...] = (
    (
        "fleet",
        "{sql}",
        "One cluster of three nodes; every failed attempt counted once, although each was reported"
        " again with every scrape.",
    ),
    (
        "failures-by-job",
        "SELECT job_id, submission_id, task, error_type, failed_attempts, failed_tasks,"
        " left(example, 40) AS example FROM ({sql})",
        "Whose job failed and why, from Ray's own events: attempts and tasks are not the same, for"
        " native_crash and transform were tried again.",
    ),
    (
        "task-failures",
        "SELECT minute, sum(failed_attempts) AS failed_attempts,"
        " string_agg(task || ' ' || failed_attempts, ', ' ORDER BY failed_attempts DESC) AS tasks"
        " FROM ({sql}) GROUP BY minute ORDER BY minute",
        "The failure spike: for about two minutes load_shard failed twenty times as often as"
        " before.",
    ),
    (
        "object-store",
        "SELECT minute, node, object_store_used_pct, on_disk_bytes, fallback_bytes FROM ({sql})"
        " WHERE object_store_used_pct > 0 ORDER BY minute, node",
        "The full object store: the head filled up and spilled to disk until its objects were"
        " released.",
    ),
    (
        "node-losses",
        "SELECT lost_at, node[:8] AS node, address, reason, message, back_at, away_seconds"
        " FROM ({sql})",
        "The node that was killed, found within seconds, and when another took its place.",
    ),
    (
        "scrape-health",
        "SELECT node, scrapes, longest_gap_seconds, gaps, last_seen FROM ({sql})",
        "The same loss as the scrapes show it: one endpoint was silent for two minutes while the"
        " others went on.",
    ),
    (
        "node-cpu",
        "SELECT node, avg(cpu_mean_pct) AS cpu_mean_pct, max(cpu_peak_pct) AS cpu_peak_pct,"
        " max(cores) AS cores FROM ({sql}) GROUP BY node ORDER BY cpu_mean_pct DESC",
        "CPU by node, the busiest first: nodes on one host stay apart, because each is known by"
        " its scrape target.",
    ),
    (
        "node-memory",
        "SELECT node, max(memory_used_bytes) AS memory_used_bytes,"
        " max(memory_total_bytes) AS memory_total_bytes, max(memory_used_pct) AS memory_used_pct"
        " FROM ({sql}) GROUP BY node ORDER BY memory_used_pct DESC",
        "Memory by node at its highest: far from the 95 % at which Ray begins to kill workers.",
    ),
)


def request_count() -> int:
    """How many requests the larger part of the demo posts."""
    return max(len(recording.requests) for recording in _recordings())


def _recordings() -> list[Recording]:
    return [replay.load(shipped_directory(f"recordings/{name}")) for name in ("cluster", "events")]


def run(progress: Callable[[int], None]) -> Iterator[str]:
    """Do it all; yields what to print once the data is in."""
    recordings = _recordings()
    with tempfile.TemporaryDirectory(prefix="rayotel-demo-") as directory:
        started = time.monotonic()
        # what was recorded together is moved together
        shift = replay.shift_to_now(recordings[-1])
        with _server(Path(directory)) as url:
            posted = [_post(recording, url, shift, progress) for recording in recordings]
        yield (
            f"{posted[0]} requests of Fluent Bit and {posted[1]} of Ray replayed and stored as"
            f" Parquet in {time.monotonic() - started:.1f} s."
        )
        yield from _answers(Path(directory) / "lake")
    yield _what_next()


def _post(recording: Recording, url: str, shift: int, progress: Callable[[int], None]) -> int:
    """Replay one recording; how many requests that were. Progress begins anew with each."""
    outcome = replay.post(recording, url, speed=None, shift_nano=shift, progress=progress)
    return sum(outcome.answers.values())


def _answers(lake: Path) -> Iterator[str]:
    with contextlib.closing(Lake(open_storage(str(lake)), LIMITS)) as whole:
        for name, around, words in _ACTS:
            question = questions.find(name)
            sql = around.format(sql=question.sql)
            text = io.StringIO()
            with whole.ask(sql, None, question.bind({})) as result:
                write_table(result.schema, result.batches(), text)
            lines = (line.rstrip() for line in text.getvalue().strip("\n").splitlines())
            yield "\n".join(["", f"{name}: {question.question}", "", *lines, "", words])


def _what_next() -> str:
    return """
What next:
  rayotel serve                            receive on 127.0.0.1:8000, store in ./rayotel-data
  fluent-bit -c fluent-bit/fluent-bit.yaml scrape your Ray cluster (set your targets in it first)
  rayotel queries                          all shipped questions
  rayotel query --name node-cpu --since 1h ask one
  rayotel views                            what else SQL can ask of Ray"""


@contextlib.contextmanager
def _server(directory: Path) -> Iterator[str]:
    """A real `rayotel serve` on a free port, drained and stopped at the end."""
    port = _free_port()
    log = directory / "serve.log"
    # settings of the person's own environment are not for the demo
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAYOTEL_")}
    environment["RAYOTEL_CONFIG"] = os.devnull
    command = [sys.executable, "-m", "rayotel", "serve", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--data-dir", str(directory), "--commit-interval-seconds", "2"],
            stdout=output, stderr=output, env=environment,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        yield url
        process.terminate()
        if process.wait(STOP_TIMEOUT_SECONDS) != 0:
            raise RayotelError(f"the server failed: {_tail(log)}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RayotelError(f"the server did not start: {_tail(log)}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/api/v1/readiness", trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise RayotelError(f"the server did not become ready: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace").strip()[-500:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
