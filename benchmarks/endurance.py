"""One server at full rate for minutes: does its memory stay what it is?

    endurance.py [SECONDS]

The recorded requests are posted round after round, each round moved in time so that nothing is
sent twice, while the server commits and merges. Prints a line every twenty seconds, then the peak.
"""

from __future__ import annotations

import queue
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import load
from rayotel import replay
from support.harness import RECORDING, Server

# after so many rounds the times begin anew, a little later, so that they stay within some hours
ROUNDS_ABREAST = 40
STEP_NANO = 7_000_000
LINE_SECONDS = 20


def prepare(rounds: queue.Queue[list[bytes]]) -> None:
    """Make requests one round ahead, for ever."""
    recording = replay.load(RECORDING)
    found = load.recorded(recording)
    start = replay.shift_to_now(recording) - ROUNDS_ABREAST * load.ROUND_NANO - load.HOUR_NANO
    number = 0
    while True:
        moved = number % ROUNDS_ABREAST * load.ROUND_NANO + number // ROUNDS_ABREAST * STEP_NANO
        rounds.put([load.request_bytes(plain) for plain in found.at(start + moved)])
        number += 1


def main() -> None:
    """Post, watch, print."""
    seconds = float((sys.argv[1:] or ["600"])[0])
    points = load.recorded(replay.load(RECORDING)).points
    rounds: queue.Queue[list[bytes]] = queue.Queue(1)
    threading.Thread(target=prepare, args=(rounds,), daemon=True).start()
    with (
        tempfile.TemporaryDirectory(prefix="rayotel-bench-") as name,
        Server(Path(name) / "data", "--commit-interval-seconds", "5") as server,
    ):
        started = said = time.monotonic()
        sent = 0
        while time.monotonic() - started < seconds:
            refused = load.send(server.port, rounds.get()).refused
            sent += points
            if time.monotonic() - said > LINE_SECONDS:
                said = time.monotonic()
                cost = load.cpu_seconds(server.pid) / sent * 1e6
                print(
                    f"{said - started:.0f} s, {sent:,} points, refused {refused},"
                    f" memory {load.memory_mb(server.pid):.0f} MB, CPU {cost:.2f} µs a point",
                    flush=True,
                )
        print(f"peak memory {load.memory_mb(server.pid, 'VmHWM'):.0f} MB")
        server.stop()


if __name__ == "__main__":
    main()
