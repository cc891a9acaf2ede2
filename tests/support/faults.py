"""Lets calls of a server fail under a steady load, and measures how it recovers.

The clients post numbered points, now and in hours long over, to ever new streams, so that segments,
commits, merges and claims all happen while the failure lasts. Like Fluent Bit they send a request
again until it is acknowledged. In the end every acknowledged number must be there exactly once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import httpx

from rayotel.errors import RayotelError
from rayotel.lake.storage.interface import Storage
from support.faulty_server import Failure
from support.harness import (
    NO_TLS,
    PROTOBUF,
    Server,
    ask,
    gauge_request,
    wait_until,
)

SCRIPT = Path(__file__).with_name("faulty_server.py")
FAST = {
    "RAYOTEL_COMPACTION_INTERVAL_SECONDS": "0.3",
    "RAYOTEL_COMPACTION_AFTER_SECONDS": "0.001",
    "RAYOTEL_COMPACTION_GRACE_SECONDS": "1",
    "RAYOTEL_QUERY_TIMEOUT_SECONDS": "1",
    "RAYOTEL_LATE_HOURS_WAIT_SECONDS": "0.3",
}
OLD_HOUR_UNIX_NANO = 490_000 * 3600 * 10**9
CLIENTS = 3
REQUESTS_PER_SECOND = 12.0  # of each client
STREAM_SECONDS = 2.0
CLIENT_TIMEOUT_SECONDS = 20.0
PAUSE_SECONDS = 0.05
ONCE_SECONDS = 10.0
PARTS, MERGES = "rayotel_parts_written_total", "rayotel_hours_compacted_total"
NO_ANSWER = 0


class FaultyServer(Server):
    """A server whose disk and storage fail when told to."""

    def __init__(self, data_dir: Path, env: Mapping[str, str]) -> None:
        super().__init__(data_dir, env={**FAST, **env})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout) if self._process else ():
            if pipe is not None:
                pipe.close()

    def _spawn(self, arguments: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        self._close_pipes()
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._env,
        )  # fmt: skip

    def play(self, failure: Failure) -> None:
        """From now on this fails, and nothing else."""
        self._tell(asdict(failure))

    def heal(self) -> int:
        """From now on nothing fails; how many calls did."""
        return self._tell(None)

    def met(self) -> int:
        """How many calls have failed since `play`."""
        return self._tell(True)

    def kill_and_start(self) -> None:
        """SIGKILL in the middle of it all, and another life in which nothing fails."""
        self.kill()
        self.start()

    def _tell(self, what: object) -> int:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Load:
    """Clients that post numbers at a steady rate. Use with `with`; `stop` ends it earlier."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._numbers = itertools.count()
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._post_all) for _ in range(CLIENTS)]
        self.answers: Counter[int] = Counter()
        self.acknowledged: dict[int, str] = {}
        self.last_acknowledged = 0.0

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """After the requests at hand, acknowledged or not."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _post_all(self) -> None:
        with httpx.Client(
            base_url=self._url, trust_env=False, timeout=CLIENT_TIMEOUT_SECONDS, verify=NO_TLS
        ) as client:
            while not self._stopping.is_set():
                self._post(client, next(self._numbers))
                self._stopping.wait(1 / REQUESTS_PER_SECOND)

    def _post(self, client: httpx.Client, number: int) -> None:
        """One number, until it is acknowledged."""
        stream = f"s{int((time.monotonic() - self._began) / STREAM_SECONDS)}"
        at = time.time_ns() if number % 2 else OLD_HOUR_UNIX_NANO + number
        body = gauge_request(number, time_unix_nano=at)
        while not self._stopping.is_set():
            status = NO_ANSWER
            with contextlib.suppress(httpx.TransportError):
                headers = {**PROTOBUF, "X-P-Stream": stream}
                status = client.post("/v1/metrics", content=body, headers=headers).status_code
            self.answers[status] += 1
            if status == 200:
                self.acknowledged[number] = stream
                self.last_acknowledged = time.monotonic()
                return
            self._stopping.wait(PAUSE_SECONDS)


@dataclass(slots=True)
class Figures:
    """What came of a failure. Seconds are from its end; None: not within the wait.

    `answers`: of requests while it lasted, by status, 0: none came. `met`: calls that failed.
    """

    met: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    first_200_seconds: float | None = None
    first_part_seconds: float | None = None
    first_merge_seconds: float | None = None
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    exit_status: int | None = None
    words: str = ""

    def has_recovered(self, within_seconds: float) -> bool:
        """Whether it took and stored points, and merged again, in time, and ended well."""
        all_seconds = (self.first_200_seconds, self.first_part_seconds, self.first_merge_seconds)
        in_time = all(one is not None and one <= within_seconds for one in all_seconds)
        return in_time and self.exit_status == 0 and self.lost == self.doubled == 0


@dataclass(frozen=True, slots=True)
class Cause:
    """How a failure begins and ends. `met`: how often it was met so far."""

    begin: Callable[[], object]
    end: Callable[[], object]
    met: Callable[[], int]


def played(server: FaultyServer, failure: Failure) -> Cause:
    """A failure inside the server's process."""
    return Cause(lambda: server.play(failure), server.heal, server.met)


def limited(server: Server, limit: int, value: Callable[[], int]) -> Cause:
    """A limit of the operating system on the server's process, a constant of `resource`."""
    before = resource.prlimit(server.pid, limit)

    def lower() -> None:
        resource.prlimit(server.pid, limit, (value(), before[1]))

    return Cause(lower, lambda: resource.prlimit(server.pid, limit, before), lambda: 1)


def open_files(server: Server) -> int:
    """As many files as a server has open: with this limit it can open no other."""
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def measure(
    server: FaultyServer, storage: Storage, cause: Cause, seconds: float, patience_seconds: float
) -> Figures:
    """Begin a failure under load, end it, wait for the recovery, stop the server, and count.

    `seconds`: how long it lasts; 0: until it was met once. `server` has just started.
    """
    figures = Figures()
    with Load(server.url) as load, _Watch(server) as watch:
        wait_until(lambda: all(count > 0 for count in watch.counts().values()))
        before = Counter(load.answers)
        cause.begin()
        if seconds:
            time.sleep(seconds)
        else:
            with contextlib.suppress(AssertionError):
                wait_until(lambda: cause.met() > 0, ONCE_SECONDS)
        figures.met = cause.met()
        figures.answers = Counter(load.answers)
        figures.answers.subtract(before)
        cause.end()
        _recover(figures, load, watch, patience_seconds)
        load.stop()
        figures.acknowledged = len(load.acknowledged)
        with contextlib.suppress(subprocess.TimeoutExpired):
            figures.exit_status = server.stop()
    figures.lost, figures.doubled = _counted(storage, load.acknowledged)
    figures.words = server.log()
    return figures


def _recover(figures: Figures, load: Load, watch: _Watch, patience_seconds: float) -> None:
    """Wait for the first of everything after the end of the failure, which is now."""
    end = time.monotonic()
    before = watch.counts() or watch.last
    while time.monotonic() - end < patience_seconds:
        seconds = time.monotonic() - end
        now = watch.counts()
        if figures.first_200_seconds is None and load.last_acknowledged > end:
            figures.first_200_seconds = load.last_acknowledged - end
        if figures.first_part_seconds is None and now[PARTS] > before[PARTS]:
            figures.first_part_seconds = seconds
        if figures.first_merge_seconds is None and now[MERGES] > before[MERGES]:
            figures.first_merge_seconds = seconds
        found = (figures.first_200_seconds, figures.first_part_seconds, figures.first_merge_seconds)
        if None not in found:
            return
        time.sleep(PAUSE_SECONDS)


class _Watch:
    """The server's own counters, over a connection that is kept."""

    def __init__(self, server: Server) -> None:
        self._client = httpx.Client(
            base_url=server.url, trust_env=False, timeout=CLIENT_TIMEOUT_SECONDS, verify=NO_TLS
        )
        self.last: Counter[str] = Counter()

    def __enter__(self) -> _Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def counts(self) -> Counter[str]:
        """Parts and merges so far; as they were known where there is no answer."""
        with contextlib.suppress(httpx.TransportError):
            lines = self._client.get("/metrics").text.splitlines()
            pairs = (line.split(" ") for line in lines if line.startswith((PARTS, MERGES)))
            self.last = Counter({name: int(float(value)) for name, value in pairs})
        return self.last


def _counted(storage: Storage, acknowledged: Mapping[int, str]) -> tuple[int, int]:
    """How many acknowledged numbers are not there, and how many numbers are there twice."""
    stored: Counter[tuple[str, int]] = Counter()
    for stream in sorted(set(acknowledged.values())):
        with contextlib.suppress(RayotelError):  # a stream without a part
            rows = ask(storage, f'SELECT data_point_value AS v FROM "{stream}"')
            stored.update((stream, int(row["v"])) for row in rows)
    lost = sum((stream, number) not in stored for number, stream in acknowledged.items())
    return lost, sum(count > 1 for count in stored.values())
