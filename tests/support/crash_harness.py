"""Kills a server under load, over and over, and counts what is lost and what is doubled.

A client posts numbered points and events and, like Fluent Bit and Ray, sends each request again
until it is acknowledged; each event comes in two batches. The server dies at named steps and at
random moments and is started again. All the while, questions are asked. In the end every number
must be there exactly once.

Now and then the data directory is copied under load, and a server on the copy takes requests too
and is killed or stopped; or the directory is replaced by its backup of a while ago. Points that two
copies both hold may be there twice until they are merged. So then all hours are merged in the end.

As a program: `python -m support.crash_harness KILLS [directory|s3]` prints its figures.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from rayotel.errors import RayotelError
from rayotel.lake.cache import Cache
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from support import event_bodies
from support.crashing_server import STEPS
from support.harness import (
    PROTOBUF,
    S3_KEY_ID,
    S3_SECRET,
    WAIT_SECONDS,
    ask,
    environment,
    free_port,
    gauge_request,
    make_bucket,
    s3_server,
    wait_until,
)

SCRIPT = Path(__file__).with_name("crashing_server.py")
OLD_HOURS = [(490_000 + hour) * 3600 * 10**9 for hour in range(3)]
AT_RANDOM = "at a random moment"
FAST = {
    "RAYOTEL_COMMIT_INTERVAL_SECONDS": "0.05",
    "RAYOTEL_COMPACTION_INTERVAL_SECONDS": "0.1",
    "RAYOTEL_COMPACTION_AFTER_SECONDS": "0.001",
    "RAYOTEL_COMPACTION_GRACE_SECONDS": "1",
    "RAYOTEL_QUERY_TIMEOUT_SECONDS": "1",
    "RAYOTEL_LATE_HOURS_WAIT_SECONDS": "0.3",
}
FIRST_OF_A_COPY = 1_000_000  # numbers that a copy's client posts, times the number of the copy
COPIES_EVERY = 4
COPY_LIFE_SECONDS = (0.5, 3.0)
LONGEST_LIFE_SECONDS = 3.0


@dataclass(slots=True)
class Figures:
    """What came of it."""

    kills: int = 0
    kills_by_step: dict[str, int] = field(default_factory=dict)
    copies: int = 0
    restored: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    questions: int = 0
    wrong_answers: int = 0


class Client(threading.Thread):
    """Posts numbered points for ever; each until it is acknowledged."""

    def __init__(self, url: str, first: int = 0) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._first = first
        self._stopping = threading.Event()
        self.acknowledged = 0

    @property
    def numbers(self) -> range:
        """What was acknowledged."""
        return range(self._first, self._first + self.acknowledged)

    def run(self) -> None:
        """One number after the other."""
        with httpx.Client(base_url=self._url, trust_env=False, timeout=WAIT_SECONDS) as client:
            for number in itertools.count(self._first):
                hour = OLD_HOURS[number % len(OLD_HOURS)]
                body = gauge_request(number, time_unix_nano=hour + number)
                events = event_bodies.of_numbers(range(max(self._first, number - 1), number + 1))
                for path, content in (("/v1/metrics", body), ("/v1/events", events)):
                    while not self._posted(client, path, content):
                        if self._stopping.is_set():
                            return
                self.acknowledged = number - self._first + 1
                if self._stopping.is_set():
                    return

    def _posted(self, client: httpx.Client, path: str, body: bytes) -> bool:
        with contextlib.suppress(httpx.TransportError):
            if client.post(path, content=body, headers=PROTOBUF).status_code == 200:
                return True
        time.sleep(0.005)
        return False

    def stop(self) -> None:
        """After the request at hand."""
        self._stopping.set()
        self.join()


def kill_often(
    kills: int,
    storage: Storage,
    settings: Mapping[str, str],
    data_dir: Path,
    seed: int,
    *,
    copies_every: int = 0,
) -> Figures:
    """Kill and restart a server so often; what was lost and doubled.

    `copies_every`: after so many kills, a copy of the data directory serves too, or a backup takes
    its place, by turns; 0: never.
    """
    figures = Figures()
    chance = random.Random(seed)
    port = free_port()
    client = Client(f"http://127.0.0.1:{port}")
    client.start()
    command = ["serve", "--port", str(port), "--data-dir", str(data_dir)]
    env = environment({**settings, **FAST, "RAYOTEL_PORT": str(port)})
    cache = Cache(data_dir / "cache", max_copies_bytes=1 << 30)
    copies = _Copies(data_dir, env, chance, figures)
    most = 0
    for step in itertools.islice(itertools.cycle((*STEPS, AT_RANDOM)), kills):
        is_turn = copies_every > 0 and figures.kills % copies_every == copies_every - 1
        _live_and_die(step, command, env, client, chance, copies.begin if is_turn else None)
        figures.kills += 1
        figures.kills_by_step[step] = figures.kills_by_step.get(step, 0) + 1
        most = _question(storage, cache, most, figures, is_once=not copies_every)
        if is_turn and figures.copies % 2:
            copies.restore()
    copies.end()
    _finish(client, kills, command, env)
    if copies_every:
        _merge_all(data_dir, env)
    clients = [client, *copies.clients]
    numbers = [number for one in clients for number in one.numbers]
    figures.acknowledged = len(numbers)
    found = ask(storage, "SELECT data_point_value AS v, count(*) AS n FROM raymetrics GROUP BY v")
    counts = {int(row["v"]): row["n"] for row in found}
    figures.lost = sum(number not in counts for number in numbers)
    figures.doubled = sum(count > 1 for count in counts.values())
    found = ask(storage, "SELECT event_id AS id, count(*) AS n FROM rayevents GROUP BY id")
    by_id = {row["id"]: row["n"] for row in found}
    wanted = (event_bodies.event_id(number).hex() for number in numbers)
    figures.lost += sum(one not in by_id for one in wanted)
    figures.doubled += sum(count > 1 for count in by_id.values())
    return figures


class _Copies:
    """Servers on copies of a data directory, one at a time, and its backups."""

    def __init__(
        self, data_dir: Path, env: Mapping[str, str], chance: random.Random, figures: Figures
    ) -> None:
        self._data_dir = data_dir
        self._env = env
        self._chance = chance
        self._figures = figures
        self._process: subprocess.Popen[bytes] | None = None
        self._backup: Path | None = None
        self.clients: list[Client] = []

    def begin(self) -> None:
        """Copy the directory as it is being written, and serve the copy."""
        self.end()
        number = self._figures.copies + 1
        target = self._data_dir.with_name(f"copy-{number}")
        _copy(self._data_dir, target)
        self._figures.copies = number
        if self._backup is None:
            self._backup = self._data_dir.with_name("backup")
            _copy(target, self._backup)
        port = free_port()
        command = ["serve", "--port", str(port), "--data-dir", str(target)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rayotel", *command],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**self._env, "RAYOTEL_PORT": str(port)},
        )  # fmt: skip
        client = Client(f"http://127.0.0.1:{port}", FIRST_OF_A_COPY * number)
        client.start()
        self.clients.append(client)

    def end(self) -> None:
        """The copy stops in order: what it acknowledged is stored."""
        if self._process is None:
            return
        time.sleep(self._chance.uniform(*COPY_LIFE_SECONDS))
        wait_until(lambda: self.clients[-1].acknowledged > 0)
        self.clients[-1].stop()
        self._process.terminate()
        assert self._process.wait(WAIT_SECONDS) == 0
        self._process = None

    def restore(self) -> None:
        """Put the backup in place of the directory, whose server is dead, after it was drained."""
        if self._backup is None:
            return
        _drain(self._data_dir, self._env)
        for name in ("wal", "lock"):
            _forget(self._data_dir / name)
        _copy(self._backup, self._data_dir)
        self._backup = None
        self._figures.restored += 1


def _copy(source: Path, target: Path) -> None:
    """What serves as a data directory, file by file; some are gone before they are copied."""
    for path in sorted((source / "wal").rglob("*")):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(path, place)


def _forget(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _drain(data_dir: Path, env: Mapping[str, str]) -> None:
    """Start a server that nobody knows, and stop it: all that its WAL holds is stored."""
    port = str(free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "rayotel", "serve", "--port", port, "--data-dir", str(data_dir)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**env, "RAYOTEL_PORT": port},
    )  # fmt: skip
    wait_until(lambda: _is_alive(f"http://127.0.0.1:{port}"))
    process.terminate()
    assert process.wait(WAIT_SECONDS) == 0


def _is_alive(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/api/v1/readiness", trust_env=False).status_code == 200
    return False


def _merge_all(data_dir: Path, env: Mapping[str, str]) -> None:
    """Merge every hour, also what overlaps, until nothing is left to do."""
    for _ in range(3):
        subprocess.run(
            [sys.executable, "-m", "rayotel", "compact", "--data-dir", str(data_dir)],
            check=True, capture_output=True, env=dict(env),
        )  # fmt: skip


def _live_and_die(
    step: str,
    command: list[str],
    env: dict[str, str],
    client: Client,
    chance: random.Random,
    amid: Callable[[], None] | None,
) -> None:
    """One life of the server; a life that is to reach a step is not too short for a request.

    `amid`: what is done while it lives.
    """
    before = client.acknowledged
    name, count = (step, chance.randint(1, 4)) if step != AT_RANDOM else (STEPS[0], 10**9)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), name, str(count), *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env,
    )  # fmt: skip
    life = chance.uniform(0.3, 1.5) if step == AT_RANDOM else LONGEST_LIFE_SECONDS
    if amid is not None:
        amid()
    try:
        process.wait(life)
    except subprocess.TimeoutExpired:  # a step that was not reached ends at a random moment
        if step != AT_RANDOM:
            wait_until(lambda: process.poll() is not None or client.acknowledged > before)
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, f"ended by itself: {process.returncode}"


def _question(storage: Storage, cache: Cache, most: int, figures: Figures, *, is_once: bool) -> int:
    """Ask while the server is dead: nothing is there twice, and nothing that was there is gone."""
    try:
        found = ask(
            storage,
            "SELECT count(*) AS n, count(DISTINCT data_point_value) AS d FROM raymetrics",
            cache=cache,
        )[0]
    except RayotelError:
        if most:
            figures.wrong_answers += 1
        return most
    figures.questions += 1
    count: int = found["d"]
    figures.wrong_answers += int((is_once and found["n"] != count) or count < most)
    return max(most, count)


def _finish(client: Client, kills: int, command: list[str], env: dict[str, str]) -> None:
    """A last life without a crash, in which everything is committed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rayotel", *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env,
    )  # fmt: skip
    wanted = max(client.acknowledged + 5, kills)
    wait_until(lambda: client.acknowledged >= wanted)
    client.stop()
    process.terminate()
    assert process.wait(WAIT_SECONDS) == 0


def main() -> None:
    """Run it as often as told and print the figures."""
    kills, kind = int(sys.argv[1]), (sys.argv[2:] or ["directory"])[0]
    seed = int.from_bytes(os.urandom(4), "big")
    with tempfile.TemporaryDirectory(prefix="rayotel-crashes-") as name:
        top = Path(name)
        if kind == "directory":
            settings = {"RAYOTEL_STORAGE": str(top / "lake")}
            figures = kill_often(
                kills, open_storage(str(top / "lake")), settings, top / "data", seed,
                copies_every=COPIES_EVERY,
            )  # fmt: skip
        else:
            os.environ.update(AWS_ACCESS_KEY_ID=S3_KEY_ID, AWS_SECRET_ACCESS_KEY=S3_SECRET)
            with s3_server(top) as url:
                make_bucket(url, "bucket")
                settings = {
                    "RAYOTEL_STORAGE": "s3://bucket/lake",
                    "RAYOTEL_S3_ENDPOINT": url,
                    "AWS_ACCESS_KEY_ID": S3_KEY_ID,
                    "AWS_SECRET_ACCESS_KEY": S3_SECRET,
                }
                storage = open_storage("s3://bucket/lake", s3_endpoint=url)
                figures = kill_often(
                    kills, storage, settings, top / "data", seed, copies_every=COPIES_EVERY
                )
    print(json.dumps({"seed": seed, "storage": kind, **asdict(figures)}, indent=2))


if __name__ == "__main__":
    main()
