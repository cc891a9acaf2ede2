"""A load generator that costs little: prepared requests over a few connections, answers timed.

It runs in this process; the server is another one. Bodies are made before anything is measured.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import socket
import statistics
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel import replay

CONNECTIONS = 8
HOUR_NANO = 3600 * 10**9
ROUND_NANO = 1000 * 10**9  # longer than the recording: no point is sent twice
GZIP_WINDOW_BITS = 31
_HEAD = (
    "POST /v1/metrics HTTP/1.1\r\nHost: bench\r\nUser-Agent: Fluent-Bit\r\n"
    "Content-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\n"
    "X-P-Stream: raymetrics\r\nContent-Length: {}\r\n\r\n"
)


def request_bytes(plain: bytes) -> bytes:
    """A whole HTTP request as Fluent Bit sends it."""
    codec = zlib.compressobj(6, zlib.DEFLATED, GZIP_WINDOW_BITS)
    body = codec.compress(plain) + codec.flush()
    return _HEAD.format(len(body)).encode() + body


def points_of(plain: bytes) -> list[int]:
    """The time of every point."""
    return [
        point.time_unix_nano
        for resource in ExportMetricsServiceRequest.FromString(plain).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in getattr(metric, metric.WhichOneof("data") or "gauge").data_points
    ]


class Repeated:
    """Bodies whose points have few times, moved to other times without parsing them again."""

    def __init__(self, plains: Sequence[bytes]) -> None:
        self.plains = list(plains)
        found = [points_of(plain) for plain in plains]
        self.points = sum(map(len, found))
        self._times = [sorted(set(times)) for times in found]
        self.first_time = min(times[0] for times in self._times if times)

    def at(self, shift_nano: int) -> list[bytes]:
        """All bodies, each of its times moved."""
        moved = []
        for plain, times in zip(self.plains, self._times, strict=True):
            for moment in times:
                plain = plain.replace(_fixed64(moment), _fixed64(moment + shift_nano))
            moved.append(plain)
        return moved


def _fixed64(moment: int) -> bytes:
    return b"\x19" + moment.to_bytes(8, "little")


def recorded(recording: replay.Recording) -> Repeated:
    """The recorded requests."""
    return Repeated([one.plain_body() for one in recording.requests])


def nodes(recording: replay.Recording, count: int, points: int) -> Repeated:
    """One scrape of each of so many nodes: a recorded worker's, `instance` telling them apart."""
    plains = [one.plain_body() for one in recording.requests]
    model = min(plains, key=lambda plain: abs(len(points_of(plain)) - points))
    made = []
    for number in range(count):
        request = ExportMetricsServiceRequest.FromString(model)
        name = f"10.{number // 62500}.{number // 250 % 250}.{number % 250}:8080"
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            for point in getattr(metric, metric.WhichOneof("data") or "gauge").data_points:
                point.attributes.add(key="instance").value.string_value = name
        made.append(request.SerializeToString())
    return Repeated(made)


@dataclass(slots=True)
class Sent:
    """What came of a load: seconds of all of it, and of each answer from when it was due."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    refused: int = 0

    def percentile_ms(self, percent: int) -> float:
        """A percentile of the waits."""
        return statistics.quantiles(self.waits, n=100)[percent - 1] * 1000


def send(port: int, requests: Sequence[bytes], per_second: float | None = None) -> Sent:
    """Send all; `per_second`: each is due at its time, else as fast as answers come."""
    outcome = Sent()
    waiting: queue.SimpleQueue[tuple[float, bytes] | None] = queue.SimpleQueue()
    lock = threading.Lock()

    def work() -> None:
        waits, refused = [], 0
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (item := waiting.get()) is not None:
                due, request = item
                due = due or time.perf_counter()
                connection.sendall(request)
                answer = connection.recv(65536)
                waits.append(time.perf_counter() - due)
                refused += not answer.startswith(b"HTTP/1.1 200")
        with lock:
            outcome.waits += waits
            outcome.refused += refused

    workers = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for number, request in enumerate(requests):
        due = 0.0
        if per_second is not None:
            due = started + number / per_second
            time.sleep(max(0.0, due - time.perf_counter()))
        waiting.put((due, request))
    for _ in workers:
        waiting.put(None)
    for worker in workers:
        worker.join()
    outcome.seconds = time.perf_counter() - started
    return outcome


def own_cpu_seconds(process: Path) -> float:
    """User and system time of a process or thread, by its directory in /proc; without children."""
    fields = (process / "stat").read_text("utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its children that are alive and of those waited for."""
    ticks = 0
    todo = [pid]
    while todo:
        one = todo.pop()
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text("utf-8").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
            for task in Path(f"/proc/{one}/task").iterdir():
                todo += map(int, (task / "children").read_text("ascii").split())
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, name: str = "VmRSS") -> float:
    """Memory of a process: VmRSS now, VmHWM at most so far."""
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
