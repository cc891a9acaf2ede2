"""The servers that are compared: rayotel of this checkout, and two from Debian's packages.

The packages are downloaded and unpacked into a directory, never installed: nothing is started or
configured by them, and root is not needed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import load
from rayotel.errors import RayotelError
from support.harness import RAYOTEL, environment, free_port

PACKAGES = ("victoria-metrics", "prometheus")
COMMAND_SECONDS = 300.0
READY_SECONDS = 60.0
REQUEST_SECONDS = 600.0
DONE_SECONDS = 1800.0
STOP_SECONDS = 120.0
POLL_SECONDS = 0.5
GRACE_SECONDS = 1.0
# one block for everything: what Prometheus' compaction of blocks tends to, without waiting for it
ONE_BLOCK = "3650d"
OLDEST = "rayotel_oldest_uncommitted_timestamp_seconds"
HEADERS = {
    "otlp": {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"},
    "write": {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    },
    "text": {"Content-Type": "text/plain"},
    "json": {"Content-Type": "application/x-ndjson"},
}


@dataclass(frozen=True, slots=True)
class Packages:
    """Where the programs are, and the packages' versions by name."""

    programs: Path
    versions: dict[str, str]


def install(directory: Path) -> Packages:
    """Unpack the packages below a directory. Raises RayotelError."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RayotelError(
                f"there is no '{tool}'", hint="the peers come from Debian's packages: use Debian"
            )
    hint = "as root: apt-get update; is the network there, and has this release both packages?"
    _run(["apt-get", "download", "-qq", *PACKAGES], directory, hint)
    versions = {}
    for name in PACKAGES:
        (archive,) = directory.glob(f"{name}_*.deb")
        versions[name] = _run(["dpkg-deb", "-f", str(archive), "Version"], directory, hint)
        _run(["dpkg-deb", "-x", str(archive), "root"], directory, hint)
    programs = directory / "root" / "usr" / "bin"
    for name, flag in (("victoria-metrics", "-version"), ("prometheus", "--version")):
        _run([str(programs / name), flag], directory, "apt-get install libzstd1")
    return Packages(programs, versions)


def _run(command: list[str], directory: Path, hint: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=COMMAND_SECONDS,
            check=False, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RayotelError(f"'{' '.join(command)}' failed: {error}", hint=hint) from None
    if done.returncode:
        said = (done.stderr.strip() or "no words").splitlines()[-1]
        raise RayotelError(f"'{' '.join(command)}' failed: {said}", hint=hint)
    return done.stdout.strip()


def size_of(*directories: Path) -> int:
    """Bytes of all files below."""
    return sum(
        path.stat().st_size
        for directory in directories
        for path in directory.rglob("*")
        if path.is_file()
    )


class Server:
    """A process that listens on a free port of 127.0.0.1. Use with `with`."""

    name = ""
    ready_path = "/"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._port = free_port()
        self._log = directory.parent / f"{directory.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: http.client.HTTPConnection | None = None

    def command(self, address: str) -> Sequence[str]:
        """What to run so that it listens on an address."""
        raise NotImplementedError

    def path_for(self, kind: str) -> str:
        """Where bodies of this kind are posted."""
        raise NotImplementedError

    def flush(self) -> None:
        """Wait until all that was acknowledged is where it stays."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        self._kill()

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(f"127.0.0.1:{self._port}"),
                stdout=log, stderr=log, cwd=self.directory, env=self.environment(),
            )  # fmt: skip
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(RayotelError):
                if self.request("GET", self.ready_path)[0] == 200:
                    return
            time.sleep(0.05)
        said = self._log.read_text("utf-8", "replace")[-2000:]
        raise RayotelError(f"{self.name} did not start: {said}")

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def environment(self) -> dict[str, str]:
        """The process's environment."""
        return environment()

    def stop(self) -> None:
        """Ask it to end, and wait."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(STOP_SECONDS)

    def request(
        self, method: str, path: str, body: bytes = b"", kind: str = ""
    ) -> tuple[int, bytes]:
        """One request on the one connection; (status, body)."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=REQUEST_SECONDS
            )
        headers = HEADERS.get(kind, {"Content-Type": "application/x-www-form-urlencoded"})
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise RayotelError(f"{self.name} does not answer: {error!r}") from None

    def post(self, bodies: Iterable[bytes], kind: str) -> None:
        """Post one after another; each must be taken whole. Raises RayotelError."""
        path = self.path_for(kind)
        if self._connection is not None:  # servers hang up while the others have their turns
            self._connection.close()
            self._connection = None
        for body in bodies:
            status, answer = self.request("POST", path, body, kind)
            if status not in (200, 204) or (answer and not self.is_whole(answer)):
                raise RayotelError(f"{self.name} answers {status}: {answer[:500]!r}")

    def is_whole(self, answer: bytes) -> bool:
        """Whether an answer says that nothing was rejected."""
        return not answer

    def metric(self, name: str, labels: str = ".*") -> float:
        """The sum of one of the server's own metrics; 0 where it is absent. `labels`: a pattern."""
        text = self.request("GET", "/metrics")[1].decode()
        found = re.findall(rf"^{name}(?:\{{{labels}\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def wait_until_zero(self, metric: str) -> None:
        """Wait for a metric to be 0."""
        deadline = time.monotonic() + DONE_SECONDS
        while self.metric(metric):
            if time.monotonic() > deadline:
                raise RayotelError(f"{self.name}: '{metric}' is not 0 in time")
            time.sleep(POLL_SECONDS)

    @property
    def cpu_seconds(self) -> float:
        """User and system time until now."""
        assert self._process is not None
        return load.cpu_seconds(self._process.pid)

    @property
    def peak_bytes(self) -> int:
        """The most memory that it had."""
        assert self._process is not None
        return int(load.memory_mb(self._process.pid, "VmHWM") * 1024 * 1024)


class Rayotel(Server):
    """rayotel with its defaults, but that compaction comes when it is asked for."""

    name = "rayotel"
    ready_path = "/api/v1/readiness"

    def command(self, address: str) -> Sequence[str]:
        port = address.rpartition(":")[2]
        return [*RAYOTEL, "serve", "--port", port, "--data-dir", str(self.directory)]

    def environment(self) -> dict[str, str]:
        """The server merges nothing."""
        return environment({"RAYOTEL_COMPACTION_INTERVAL_SECONDS": "1000000"})

    def path_for(self, kind: str) -> str:
        return {"otlp": "/v1/metrics"}[kind]

    def is_whole(self, answer: bytes) -> bool:
        """By the answer's partial_success."""
        found = ExportMetricsServiceResponse.FromString(answer).partial_success
        return not found.rejected_data_points

    def flush(self) -> None:
        """Until the log is empty: all is in Parquet parts."""
        self.wait_until_zero(OLDEST)

    @property
    def lake(self) -> Path:
        """The directory of the lake."""
        return self.directory / "lake"

    def compact(self) -> float:
        """Run `rayotel compact`, twice: what the first covers the second removes. CPU seconds."""
        used = 0.0
        no_grace = {
            "RAYOTEL_COMPACTION_GRACE_SECONDS": str(GRACE_SECONDS),
            "RAYOTEL_QUERY_TIMEOUT_SECONDS": str(GRACE_SECONDS),
        }
        for wait in (0.0, 2 * GRACE_SECONDS):
            time.sleep(wait)
            process = subprocess.Popen(
                [*RAYOTEL, "compact", "--data-dir", str(self.directory)],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(no_grace),
            )  # fmt: skip
            before = os.times()
            try:
                _, said = process.communicate(timeout=DONE_SECONDS)
            finally:
                process.kill()
                process.wait()
            after = os.times()
            used += after.children_user - before.children_user
            used += after.children_system - before.children_system
            if process.returncode:
                raise RayotelError(f"rayotel compact failed: {said.decode()[-500:]}")
        return used


class Peer(Server):
    """A server that answers PromQL."""

    def ask(self, expression: str, start: int, end: int, *, step: int) -> list[dict[str, Any]]:
        """The series of an answer; `step` 0: of one moment, `end`. Unix seconds."""
        parameters: dict[str, str | int] = {"query": expression, "nocache": 1}
        if step:
            path = "/api/v1/query_range"
            parameters |= {"start": start + step, "end": end, "step": step}
        else:
            path = "/api/v1/query"
            parameters |= {"time": end}
        status, answer = self.request("POST", path, urlencode(parameters).encode())
        if status != 200:
            raise RayotelError(f"{self.name} answers {status} to {expression}: {answer[:500]!r}")
        found: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
        return found


class VictoriaMetrics(Peer):
    """VictoriaMetrics, single node."""

    name = "VictoriaMetrics"
    ready_path = "/health"

    def __init__(self, directory: Path, programs: Path) -> None:
        super().__init__(directory)
        self._program = programs / "victoria-metrics"

    def command(self, address: str) -> Sequence[str]:
        return [
            str(self._program), f"-httpListenAddr={address}", "-loggerLevel=WARN",
            f"-storageDataPath={self.directory}", "-retentionPeriod=100y",
            "-http.idleConnTimeout=1h",
            "-search.maxQueryDuration=10m", "-search.maxUniqueTimeseries=10000000",
        ]  # fmt: skip

    def path_for(self, kind: str) -> str:
        return {
            "write": "/api/v1/write", "text": "/api/v1/import/prometheus",
            "json": "/api/v1/import",
        }[kind]  # fmt: skip

    def flush(self) -> None:
        """Rows that it buffers become parts."""
        self.request("GET", "/internal/force_flush")

    def compact(self) -> None:
        """Merge all parts of each partition into one."""
        status, answer = self.request("GET", "/internal/force_merge")
        if status != 200:
            raise RayotelError(f"{self.name} does not merge: {answer[:500]!r}")
        time.sleep(POLL_SECONDS)
        self.wait_until_zero("vm_active_force_merges")

    @property
    def samples(self) -> int:
        """How many it holds."""
        return int(self.metric("vm_rows", 'type="storage/.*"'))


class Prometheus(Peer):
    """Prometheus; `directory` may be a snapshot of another."""

    name = "Prometheus"
    ready_path = "/-/ready"

    def __init__(self, directory: Path, programs: Path) -> None:
        super().__init__(directory)
        self._program = programs / "prometheus"

    def command(self, address: str) -> Sequence[str]:
        configuration = self.directory.parent / "prometheus.yml"
        configuration.write_text("global: {}\n", "ascii")
        return [
            str(self._program), f"--config.file={configuration}", "--log.level=warn",
            f"--web.listen-address={address}", "--web.enable-remote-write-receiver",
            "--web.enable-admin-api", f"--storage.tsdb.path={self.directory}",
            f"--storage.tsdb.min-block-duration={ONE_BLOCK}",
            f"--storage.tsdb.max-block-duration={ONE_BLOCK}",
            "--storage.tsdb.retention.time=100y", "--web.read-timeout=1h",
            "--query.max-samples=2000000000", "--query.timeout=10m",
        ]  # fmt: skip

    def path_for(self, kind: str) -> str:
        return {"write": "/api/v1/write"}[kind]

    def snapshot(self) -> Path:
        """Write all as compacted blocks; their directory."""
        status, answer = self.request("POST", "/api/v1/admin/tsdb/snapshot")
        if status != 200:
            raise RayotelError(f"{self.name} makes no snapshot: {answer[:500]!r}")
        name: str = json.loads(answer)["data"]["name"]
        return self.directory / "snapshots" / name


def samples_in_blocks(directory: Path) -> int:
    """How many samples Prometheus' blocks hold."""
    found = (json.loads(path.read_bytes()) for path in directory.glob("*/meta.json"))
    return sum(block["stats"]["numSamples"] for block in found)
