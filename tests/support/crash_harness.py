"""Kills a server under load, over and over, and counts what is lost and what is doubled.

A client posts numbered points and events and, like Fluent Bit and Ray, sends each request again
until it is acknowledged; each event comes in two batches. The server dies at named steps and at
random moments and is started again. All the while, questions are asked. In the end every number
must be there exactly once.

As a program: `python -m support.crash_harness KILLS [directory|s3]` prints its figures.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
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
}
LONGEST_LIFE_SECONDS = 3.0


@dataclass(slots=True)
class Figures:
    """What came of it."""

    kills: int = 0
    kills_by_step: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    questions: int = 0
    wrong_answers: int = 0


class Client(threading.Thread):
    """Posts numbered points for ever; each until it is acknowledged."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._stopping = threading.Event()
        self.acknowledged = 0

    def run(self) -> None:
        """One number after the other."""
        with httpx.Client(base_url=self._url, trust_env=False, timeout=WAIT_SECONDS) as client:
            for number in itertools.count():
                hour = OLD_HOURS[number % len(OLD_HOURS)]
                body = gauge_request(number, time_unix_nano=hour + number)
                events = event_bodies.of_numbers(range(max(0, number - 1), number + 1))
                for path, content in (("/v1/metrics", body), ("/v1/events", events)):
                    while not self._posted(client, path, content):
                        if self._stopping.is_set():
                            return
                self.acknowledged = number + 1
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
    kills: int, storage: Storage, settings: Mapping[str, str], data_dir: Path, seed: int
) -> Figures:
    """Kill and restart a server so often; what was lost and doubled."""
    figures = Figures()
    chance = random.Random(seed)
    port = free_port()
    client = Client(f"http://127.0.0.1:{port}")
    client.start()
    command = ["serve", "--port", str(port), "--data-dir", str(data_dir)]
    env = environment({**settings, **FAST, "RAYOTEL_PORT": str(port)})
    cache = Cache(data_dir / "cache", max_copies_bytes=1 << 30)
    most = 0
    for step in itertools.islice(itertools.cycle((*STEPS, AT_RANDOM)), kills):
        _live_and_die(step, command, env, client, chance)
        figures.kills += 1
        figures.kills_by_step[step] = figures.kills_by_step.get(step, 0) + 1
        most = _question(storage, cache, most, figures)
    _finish(client, kills, command, env)
    figures.acknowledged = client.acknowledged
    found = ask(storage, "SELECT data_point_value AS v, count(*) AS n FROM raymetrics GROUP BY v")
    counts = {int(row["v"]): row["n"] for row in found}
    figures.lost = sum(number not in counts for number in range(figures.acknowledged))
    figures.doubled = sum(count > 1 for count in counts.values())
    found = ask(storage, "SELECT event_id AS id, count(*) AS n FROM rayevents GROUP BY id")
    by_id = {row["id"]: row["n"] for row in found}
    wanted = (event_bodies.event_id(number).hex() for number in range(figures.acknowledged))
    figures.lost += sum(one not in by_id for one in wanted)
    figures.doubled += sum(count > 1 for count in by_id.values())
    return figures


def _live_and_die(
    step: str, command: list[str], env: dict[str, str], client: Client, chance: random.Random
) -> None:
    """One life of the server; a life that is to reach a step is not too short for a request."""
    before = client.acknowledged
    name, count = (step, chance.randint(1, 4)) if step != AT_RANDOM else (STEPS[0], 10**9)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), name, str(count), *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env,
    )  # fmt: skip
    life = chance.uniform(0.3, 1.5) if step == AT_RANDOM else LONGEST_LIFE_SECONDS
    try:
        process.wait(life)
    except subprocess.TimeoutExpired:  # a step that was not reached ends at a random moment
        if step != AT_RANDOM:
            wait_until(lambda: process.poll() is not None or client.acknowledged > before)
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, f"ended by itself: {process.returncode}"


def _question(storage: Storage, cache: Cache, most: int, figures: Figures) -> int:
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
    figures.wrong_answers += int(found["n"] != found["d"] or found["n"] < most)
    count: int = found["n"]
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
                kills, open_storage(str(top / "lake")), settings, top / "data", seed
            )
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
                figures = kill_often(kills, storage, settings, top / "data", seed)
    print(json.dumps({"seed": seed, "storage": kind, **asdict(figures)}, indent=2))


if __name__ == "__main__":
    main()
