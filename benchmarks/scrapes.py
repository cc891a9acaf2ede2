"""What a fleet at rest costs: a request a scrape, each node on a connection that it keeps.

    scrapes.py [--seconds 30] [--repeat 1] [--profile FILE]

100 nodes send 250 points a second each: a recorded worker's scrape with the node's `instance`, its
times moved, its values moving. The server commits every five seconds. Each figure is CPU time of
its process, from the first request until the last point is in a part:

- up to the answer: all but the threads that commit and merge, and but processes of their own;
- socket to durable part: everything, beside `FromString` on the same bytes, inflated, in this run.

`--profile` samples the server's threads with py-spy, if that is installed, writes its folded stacks
to FILE and prints where the event loop's time goes. Sampling costs the server something.
"""

from __future__ import annotations

import argparse
import random
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import load
from rayotel import replay
from rayotel.ingest.wal import segments
from support.harness import RECORDING, Server, wait_until

NODES, POINTS, WARM_UP_SECONDS, SECONDS = 100, 250, 12, 30
COMMIT_SECONDS = 5
OFFICIAL_ROUNDS = 5
WANTED_ANSWER_MS, WANTED_RATIO = 0.75, 4
# threads after the answer, by name; what libraries start for them has their name too
LATER_THREADS = ("committer", "compactor")
LOOP, WRITER = "event loop", "wal-writer"
NAMED_THREADS = Path(__file__).with_name("named_threads")
SAMPLES_PER_SECOND = 500
# the innermost of these that is on the stack gets the sample; the order does not matter
LAYERS = {
    "starlette/": "Starlette",
    "fastapi/": "FastAPI",
    "contextlib.py": "FastAPI",
    "asyncio/runners.py": "uvloop and the system",
    "asyncio/": "asyncio",
    "concurrent/": "asyncio",
    "prometheus_client/": "counting",
    "rayotel/telemetry.py": "counting",
    "rayotel/http/": "rayotel/http",
    "rayotel/server.py": "rayotel/http",
    "rayotel/ingest/receive/": "receive",
    "rayotel/ingest/wal/": "WAL",
    "rayotel/ingest/decode/limits/": "inflate",
    "rayotel/ingest/decode/": "decode",
}
Row = tuple[str, str, str]


class Fleet:
    """One scrape of each node after another; each time has values of its own."""

    def __init__(self, recording: replay.Recording) -> None:
        plains = load.nodes(recording, NODES, POINTS).plains
        self._requests = [ExportMetricsServiceRequest.FromString(plain) for plain in plains]
        self._points = [list(_points(one)) for one in self._requests]
        self._random = random.Random(1)
        self.points_per_request = len(self._points[0])

    def scrape(self, moment_unix_nano: int) -> list[bytes]:
        """The bodies of all nodes, without gzip."""
        for number, points in enumerate(self._points):
            self._move(points, moment_unix_nano + number * 10**9 // NODES)
        return [one.SerializeToString() for one in self._requests]

    def _move(self, points: list[tuple[Any, bool]], moment_unix_nano: int) -> None:
        """Counters rise, gauges with fractions or large numbers tremble, small numbers stay."""
        for point, rises in points:
            point.time_unix_nano = moment_unix_nano
            value = getattr(point, "as_double", 0.0)
            if rises and value:
                point.as_double = value + self._random.randrange(100)
            elif abs(value) > 1000 or value % 1:
                moved = value * self._random.uniform(0.995, 1.005)
                point.as_double = round(moved, 2) if value % 1 else float(round(moved))


def _points(request: ExportMetricsServiceRequest) -> Iterator[tuple[Any, bool]]:
    """Each point, and whether it only rises."""
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        kind = metric.WhichOneof("data") or "gauge"
        data = getattr(metric, kind)
        for point in data.data_points:
            yield point, kind == "sum" and data.is_monotonic


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU of a server: its own, its children's, and by the name of a thread.

    `own` holds threads that have ended, `threads` does not.
    """

    own: float
    children: float
    threads: dict[str, float]

    @classmethod
    def of(cls, pid: int) -> Cpu:
        """Until now."""
        threads: dict[str, float] = {}
        for task in Path(f"/proc/{pid}/task").iterdir():
            name = LOOP if task.name == str(pid) else (task / "comm").read_text("utf-8").strip()
            threads[name] = threads.get(name, 0.0) + load.own_cpu_seconds(task)
        own = load.own_cpu_seconds(Path(f"/proc/{pid}"))
        return cls(own, load.cpu_seconds(pid) - own, threads)

    def since(self, before: Cpu) -> Cpu:
        """What came on top."""
        threads = {k: v - before.threads.get(k, 0.0) for k, v in self.threads.items()}
        return Cpu(self.own - before.own, self.children - before.children, threads)

    @property
    def total(self) -> float:
        """All of it."""
        return self.own + self.children

    @property
    def later(self) -> float:
        """What came after the answers."""
        return self.children + sum(self.threads.get(name, 0.0) for name in LATER_THREADS)


@dataclass(frozen=True, slots=True)
class Found:
    """What one run found. `official_us` is of the official parser, a point."""

    requests: int
    points: int
    cpu: Cpu
    official_us: float
    sent: load.Sent

    @property
    def answer_ms(self) -> float:
        """CPU of a request up to its answer."""
        return (self.cpu.total - self.cpu.later) / self.requests * 1e3

    @property
    def durable_us(self) -> float:
        """CPU of a point from socket to durable part."""
        return self.cpu.total / self.points * 1e6

    @property
    def ratio(self) -> float:
        """The same by the official parser's."""
        return self.durable_us / self.official_us

    def thread_ms(self, name: str) -> float:
        """CPU of a thread, a request."""
        return self.cpu.threads.get(name, 0.0) / self.requests * 1e3


def send(port: int, requests: Sequence[bytes]) -> load.Sent:
    """Send all, NODES a second, each in its turn over the connection of its node."""
    outcome = load.Sent()
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(NODES)]
    due = [0.0] * NODES
    waiting: set[int] = set()
    with selectors.DefaultSelector() as selector:
        for number, connection in enumerate(connections):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, number)

        def receive(node: int) -> None:
            answer = connections[node].recv(65536)
            if node not in waiting:
                raise ConnectionError("the server closed a connection that was kept")
            waiting.discard(node)
            outcome.waits.append(time.perf_counter() - due[node])
            outcome.refused += not answer.startswith(b"HTTP/1.1 200")

        started = time.perf_counter()
        for number, request in enumerate(requests):
            node, moment = number % NODES, started + number / NODES
            while (left := moment - time.perf_counter()) > 0:
                for key, _ in selector.select(left):
                    receive(key.data)
            if node in waiting:
                receive(node)
            due[node] = moment
            waiting.add(node)
            connections[node].sendall(request)
        while waiting:
            for key, _ in selector.select():
                receive(key.data)
    outcome.seconds = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return outcome


def official_seconds(plains: Sequence[bytes]) -> float:
    """CPU of the official parser for these bodies, a median; nothing reads what it parses."""
    taken = []
    for _ in range(OFFICIAL_ROUNDS):
        started = time.process_time()
        for plain in plains:
            ExportMetricsServiceRequest.FromString(plain)
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def is_committed(data_dir: Path) -> bool:
    """Whether all is in parts: of the log only an empty segment is left. Costs the server none."""
    try:
        sizes = [one.stat().st_size for one in (data_dir / "wal").glob("*.wal")]
    except FileNotFoundError:  # a segment was released meanwhile
        return False
    return len(sizes) == 1 and sizes[0] <= segments.HEADER_BYTES


def measure(
    recording: replay.Recording, seconds: int = SECONDS, profile: Path | None = None
) -> Found:
    """One run of a server of its own."""
    fleet = Fleet(recording)
    now = time.time_ns()
    scrapes = [fleet.scrape(now + n * 10**9) for n in range(-WARM_UP_SECONDS, seconds)]
    ready = [[load.request_bytes(plain) for plain in scrape] for scrape in scrapes]
    warm_up, requests = (
        [request for scrape in part for request in scrape]
        for part in (ready[:WARM_UP_SECONDS], ready[WARM_UP_SECONDS:])
    )
    official = [official_seconds(scrapes[-1])]
    with tempfile.TemporaryDirectory(prefix="rayotel-bench-") as name:
        data_dir = Path(name) / "data"
        arguments = ("--commit-interval-seconds", str(COMMIT_SECONDS))
        with Server(data_dir, *arguments, env={"PYTHONPATH": str(NAMED_THREADS)}) as server:
            send(server.port, warm_up)
            wait_until(lambda: is_committed(data_dir))
            before = Cpu.of(server.pid)
            with _sampled(server.pid, profile):
                sent = send(server.port, requests)
                wait_until(lambda: is_committed(data_dir))
                cpu = Cpu.of(server.pid).since(before)
            server.stop()
    official.append(official_seconds(scrapes[-1]))
    points = len(requests) * fleet.points_per_request
    official_us = statistics.mean(official) / NODES / fleet.points_per_request * 1e6
    return Found(len(requests), points, cpu, official_us, sent)


@contextmanager
def _sampled(pid: int, target: Path | None) -> Iterator[None]:
    """The server's threads sampled meanwhile."""
    if target is None:
        yield
        return
    tool = shutil.which("py-spy")
    if tool is None:
        raise SystemExit("--profile needs py-spy on PATH: pip install py-spy")
    options = ["--threads", "--format", "raw", "--rate", str(SAMPLES_PER_SECOND), "--duration"]
    process = subprocess.Popen(
        [tool, "record", "--pid", str(pid), *options, "86400", "--output", str(target)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def layers(folded: str) -> Counter[str]:
    """Samples of the event loop's thread by layer, from py-spy's folded stacks."""
    found: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if "MainThread" in thread:
            found[_layer(frames)] += int(count)
    return found


def _layer(frames: list[str]) -> str:
    for frame in reversed(frames):
        for part, layer in LAYERS.items():
            if part in frame:
                return layer
    return "other"


def rows(found: Sequence[Found]) -> list[Row]:
    """The table of some runs: the median of each figure."""

    def median(figures: Iterator[float]) -> float:
        return statistics.median(figures)

    label = f"{NODES} requests/s of {found[0].points // found[0].requests} points"
    refused = sum(one.sent.refused for one in found)
    loop, writer = (median(one.thread_ms(name) for one in found) for name in (LOOP, WRITER))
    percentiles = [median(one.sent.percentile_ms(p) for one in found) for p in (50, 99)]
    later_us = median(one.cpu.later / one.points * 1e6 for one in found)
    return [
        (
            f"{label}: CPU per request up to the answer, ms",
            f"{median(one.answer_ms for one in found):.2f}",
            f"{WANTED_ANSWER_MS} wanted",
        ),
        (f"{label}: of that event loop, log, ms", f"{loop:.2f}, {writer:.2f}", ""),
        (
            f"{label}: socket to durable part, CPU per point, µs",
            f"{median(one.durable_us for one in found):.2f}",
            f"{median(one.ratio for one in found):.1f} x FromString, {WANTED_RATIO} x wanted",
        ),
        (f"{label}: of that commit, µs", f"{later_us:.2f}", ""),
        (
            f"{label}: official `FromString` alone, µs",
            f"{median(one.official_us for one in found):.2f}",
            "1",
        ),
        (
            f"{label}: acknowledgement p50, p99, ms",
            ", ".join(f"{one:.1f}" for one in percentiles),
            f"refused {refused}",
        ),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A fleet at rest, a request a scrape.")
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--profile", type=Path)
    given = parser.parse_args()
    recording = replay.load(RECORDING)
    found = []
    for _ in range(given.repeat):
        one = measure(recording, given.seconds, given.profile)
        found.append(one)
        threads = {name: f"{one.thread_ms(name):.3f}" for name in one.cpu.threads}
        print(f"{one.answer_ms:.3f} ms, {one.ratio:.2f} x; ms a request: {threads}", flush=True)
    print("\n| what | figure | ratio to `FromString` |\n| --- | ---: | ---: |")
    for what, figure, ratio in rows(found):
        print(f"| {what} | {figure} | {ratio} |")
    if given.profile is not None:
        samples = layers(given.profile.read_text("utf-8"))
        print("\n| layer of the event loop | µs a request |\n| --- | ---: |")
        for layer, count in samples.most_common():
            share = count / samples.total() * found[-1].thread_ms(LOOP) * 1e3
            print(f"| {layer} | {share:.0f} |")


if __name__ == "__main__":
    main()
