"""What tests share: a real server process, a real S3 server, questions, small OTLP requests."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
import httpx
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.lake.cache import Cache
from rayotel.lake.storage.interface import Storage
from rayotel.model import TimeRange
from rayotel.query.lake import Lake
from rayotel.query.session import Limits

ROOT = Path(__file__).parent.parent.parent
RECORDINGS = ROOT / "tests" / "recordings"
RECORDING, EVENTS_RECORDING = RECORDINGS / "cluster", RECORDINGS / "events"
RAYOTEL = (sys.executable, "-m", "rayotel")
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
S3_KEY_ID, S3_SECRET = "AKIAIOSFODNN7TESTKEY", "wJalrXUtnFEMIK7MDENGbPxRfiCYTESTSECRET"
LIMITS = Limits(memory_bytes=1 << 30, threads=2, timeout_seconds=600)
NO_TLS = ssl.create_default_context()  # to make one costs more than a request
WAIT_SECONDS = 300.0  # on a machine that does much else; ends what hangs


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of rayotel or AWS, and with `more`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAYOTEL_", "AWS_"))}
    return {**kept, "RAYOTEL_CONFIG": os.devnull, **(more or {})}


class Server:
    """A real `rayotel serve` on a free port, with a log of its words."""

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        max_files: int | None = None,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        """`max_files`: that it may have open at once; None: as many as this process. `verify`: what
        trusts its certificate, if it has one."""
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"{'https' if verify else 'http'}://127.0.0.1:{self.port}"
        self._verify = verify or NO_TLS
        self._max_files = max_files
        self._arguments = arguments
        self._env = environment(env)
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        self._log = data_dir.parent / f"serve-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def start(self) -> None:
        """Start and wait until it is ready; fails with its log."""
        command = [*RAYOTEL, "serve", "--port", str(self.port), "--data-dir", str(self.data_dir)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--commit-interval-seconds", "0.2", *self._arguments],
                stdout=log,
                stderr=log,
                env=self._env,
                preexec_fn=self._limit_files if self._max_files else None,
            )
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(httpx.TransportError):
                if self.get("/api/v1/readiness").status_code == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"the server did not start: {self.log()}")

    def _limit_files(self) -> None:
        assert self._max_files is not None
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._max_files, self._max_files))

    def log(self) -> str:
        """All that it said."""
        return self._log.read_text("utf-8", "replace")

    def get(self, path: str, **more: Any) -> httpx.Response:
        """A GET."""
        return self.request("GET", path, **more)

    def post(
        self,
        content: bytes | Iterator[bytes],
        headers: Mapping[str, str],
        path: str = "/v1/metrics",
        **more: Any,
    ) -> httpx.Response:
        """A POST."""
        return self.request("POST", path, content=content, headers=headers, **more)

    def request(self, method: str, path: str = "/v1/metrics", **more: Any) -> httpx.Response:
        """Any request, on a connection of its own."""
        with httpx.Client(trust_env=False, timeout=WAIT_SECONDS, verify=self._verify) as client:
            return client.request(method, self.url + path, **more)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL; the exit status."""
        return self._end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(WAIT_SECONDS)


@contextlib.contextmanager
def s3_server(directory: Path, *, forgets_seconds: int = 1) -> Iterator[str]:
    """A real S3 server (`rclone serve s3`) over a directory, each folder a bucket; its URL.

    What others than its clients change in the directory it sees after `forgets_seconds`.
    """
    port = free_port()
    rclone = Path(sys.executable).with_name("rclone")
    command = [str(rclone), "serve", "s3", str(directory), "--addr", f"127.0.0.1:{port}"]
    options = ["--dir-cache-time", f"{forgets_seconds}s", "--config", os.devnull]
    process = subprocess.Popen(
        [*command, "--auth-key", f"{S3_KEY_ID},{S3_SECRET}", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url))
        yield url
    finally:
        process.kill()
        process.wait()


def make_bucket(url: str, name: str) -> None:
    """Make a bucket by the server's own means: it remembers for a while what it did not have."""
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=S3_KEY_ID,
        aws_secret_access_key=S3_SECRET,
    )
    client.create_bucket(Bucket=name)
    client.close()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        httpx.get(url, trust_env=False, verify=NO_TLS)
        return True
    return False


def wait_until(is_so: Any, seconds: float = WAIT_SECONDS) -> None:
    """Wait for a condition; fails if it does not come in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)


def rayotel_process(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the `rayotel` command to its end, in a process of its own."""
    return subprocess.run(
        [*RAYOTEL, *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        env=environment(env),
        input=stdin or "",
        check=False,
    )


def ask(
    storage: Storage, sql: str, range_: TimeRange | None = None, cache: Cache | None = None
) -> list[dict[str, Any]]:
    """The rows of a question to the lake."""
    with Lake(storage, LIMITS, cache=cache).ask(sql, range_) as result:
        return result.rows()


def gauge_request(
    *values: float, name: str = "m", time_unix_nano: int | None = None, **attributes: str
) -> bytes:
    """A small OTLP request: one gauge with a point per value, a nanosecond apart."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name=name)
    now = time.time_ns() if time_unix_nano is None else time_unix_nano
    for number, value in enumerate(values):
        point = metric.gauge.data_points.add(time_unix_nano=now + number, as_double=value)
        for key, text in attributes.items():
            point.attributes.add(key=key).value.string_value = text
    return request.SerializeToString()
