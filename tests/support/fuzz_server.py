"""Hostile bodies for a server that commits and restarts, with its memory as the oracle.

    python -m support.fuzz_server COUNT [--seed N] [--life N]   bodies by seed
    python -m support.fuzz_server --attacks [--times N]         each attack by name, a server each

A life of the server takes some thousand bodies from several senders, and ends by SIGKILL or, now
and then, in order. An end in order must come with an empty WAL. Whatever is sent, the process stays
below its budget of memory, answers liveness, and never sets a record aside. The figures are printed
as JSON; exit status 1: one of these did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from rayotel.config.settings import Settings
from support.harness import Server
from support.hostile_bodies import ATTACKS, MIB, Sent, of_seed

BUDGET_BYTES = 512 * 10**6
SENDERS = 4
# as large as a body may be, with room for what stands around an attack
LARGEST_BYTES = Settings().max_inflated_body_bytes - 128 * 1024
LARGE_EVERY = 400
SMALL_BYTES, LARGE_BYTES = 20_000, 4 * MIB
STOP_EVERY = 3  # lives
SETTINGS = {"RAYOTEL_LATE_HOURS_WAIT_SECONDS": "5", "RAYOTEL_SHUTDOWN_TIMEOUT_SECONDS": "280"}


@dataclass(slots=True)
class Figures:
    """What came of it."""

    bodies: int = 0
    lives: int = 0
    restarts_with_a_log: int = 0
    peak_bytes: int = 0
    peak_by_attack: dict[str, int] = field(default_factory=dict)
    seconds_by_attack: dict[str, float] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    set_aside: int = 0
    not_drained: list[str] = field(default_factory=list)
    no_answer: int = 0

    @property
    def holds(self) -> bool:
        """Whether everything held."""
        bad = self.set_aside or self.not_drained or self.no_answer
        return not bad and self.peak_bytes < BUDGET_BYTES and self.answers[500] == 0


def peak_of(server: Server) -> int:
    """The most memory that a server had so far, in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) * 1024


def _watch(server: Server, figures: Figures) -> int:
    """Look at a server, which answers meanwhile; its peak."""
    peak = peak_of(server)
    figures.peak_bytes = max(figures.peak_bytes, peak)
    try:
        alive = server.get("/api/v1/liveness", timeout=30).status_code == 200
        text = server.get("/metrics", timeout=60).text
        aside = re.search(r"^rayotel_wal_records_set_aside_total (\S+)", text, re.MULTILINE)
    except httpx.HTTPError:
        figures.no_answer += 1
        return peak
    figures.no_answer += not alive
    figures.set_aside += int(float(aside[1])) if aside else 0
    return peak


def _send(server: Server, sent: Sent, figures: Figures) -> None:
    path, headers, body = sent
    with contextlib.suppress(httpx.TransportError):
        answer = server.request("POST", path, content=body, headers=headers, timeout=120)
        figures.answers[answer.status_code] += 1
    figures.bodies += 1


def _send_all(server: Server, bodies: list[Sent], figures: Figures) -> None:
    """Several at once."""
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(lambda sent: _send(server, sent, figures), bodies))


def _stop(server: Server, what: str, figures: Figures) -> None:
    if server.stop() != 0:
        figures.not_drained.append(what)


def fuzz(directory: Path, count: int, seed: int, a_life: int, env: dict[str, str]) -> Figures:
    """Send `count` bodies by seed."""
    figures = Figures()
    server = Server(directory / "data", "--commit-interval-seconds", "0.5", env=env)
    for first in range(seed, seed + count, a_life):
        server.start()
        figures.lives += 1

        def send(number: int, server: Server = server) -> None:
            most = LARGE_BYTES if number % LARGE_EVERY == 0 else SMALL_BYTES
            _send(server, of_seed(number, time.time_ns(), most), figures)

        with ThreadPoolExecutor(SENDERS) as pool:
            list(pool.map(send, range(first, min(first + a_life, seed + count))))
        _watch(server, figures)
        if figures.lives % STOP_EVERY == 0:
            _stop(server, f"life {figures.lives}", figures)
        else:
            server.kill()
            figures.restarts_with_a_log += 1
    server.start()
    _watch(server, figures)
    _stop(server, "the last life", figures)
    return figures


def attack(directory: Path, times: int, wanted: str, env: dict[str, str]) -> Iterator[Figures]:
    """Each attack several times over, a crash and a restart amid; figures after each."""
    figures = Figures()
    for name, make in ATTACKS.items():
        if wanted not in name:
            continue
        place = directory / str(len(figures.peak_by_attack))
        server = Server(place / "data", "--commit-interval-seconds", "0.5", env=env)
        started = time.monotonic()
        peaks = []
        for _ in range(2):
            server.start()
            figures.lives += 1
            bodies = [make(time.time_ns() + number, LARGEST_BYTES) for number in range(times)]
            _send_all(server, bodies, figures)
            peaks.append(_watch(server, figures))
            server.kill()
        server.start()
        time.sleep(2)
        peaks.append(_watch(server, figures))
        log_peak = _stopped_peak(server, name, figures)
        figures.peak_by_attack[name] = max(*peaks, log_peak)
        figures.seconds_by_attack[name] = round(time.monotonic() - started, 1)
        yield figures


def _stopped_peak(server: Server, name: str, figures: Figures) -> int:
    """Stop a server; the most memory that it had until shortly before its end."""
    peaks = [0]
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(_stop, server, name, figures)
        pid = server.pid
        while not stopping.done():
            with contextlib.suppress(OSError, ValueError):
                text = Path(f"/proc/{pid}/status").read_text()
                peaks += [int(kb) * 1024 for kb in re.findall(r"VmHWM:\s+(\d+) kB", text)]
            time.sleep(0.05)
    figures.peak_bytes = max(figures.peak_bytes, *peaks)
    return max(peaks)


def main() -> int:
    """Run it as told and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--life", type=int, default=3000, help="bodies of one life")
    parser.add_argument("--attacks", action="store_true")
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--only", default="", help="attacks whose name has this")
    told = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="rayotel-hostile-") as name:
        if told.attacks:
            for figures in attack(Path(name), told.times, told.only, SETTINGS):
                last = list(figures.peak_by_attack)[-1]
                peak = figures.peak_by_attack[last] // 10**6
                print(f"{peak:5} MB {figures.seconds_by_attack[last]:6} s  {last}", flush=True)
        else:
            figures = fuzz(Path(name), told.count, told.seed, told.life, SETTINGS)
    holds = figures.holds
    answers = {str(status): count for status, count in sorted(figures.answers.items())}
    figures.answers = Counter()
    print(json.dumps({**asdict(figures), "answers": answers, "holds": holds}, indent=2))
    return 0 if figures.holds else 1


if __name__ == "__main__":
    sys.exit(main())
