"""A small Ray workload that mostly works, so that the demo stack has something to tell.

Each round runs tasks that succeed and tasks that fail; now and then a worker process dies and
the object store fills up. Ray's address comes from RAY_ADDRESS.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from typing import Any

import ray

GOOD_TASKS_PER_ROUND = 8
BAD_TASKS_PER_ROUND = 2
ROUNDS_PER_CRASH = 7
ROUNDS_PER_CYCLE = 12  # objects are held in the first third of a cycle, then let go
OBJECT_BYTES = 16 * 1024 * 1024
OBJECTS_HELD = 14  # with 256 MiB of object store a node passes 80 %, where Ray starts to spill


def score(seconds: float) -> int:
    """Keep one CPU busy."""
    steps = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        steps += 1
    return steps


def parse_record(text: str) -> int:
    """Fail as user code fails: with an exception."""
    return int(text)


def call_native_code() -> None:
    """Fail as native code fails: the worker process is gone."""
    os._exit(139)


def play(round_number: int, held: list[Any]) -> Counter[str]:
    """Run the tasks of one round and count how they ended."""
    # No retries: every failed attempt is one failed task, which keeps the answers easy to check.
    options = ray.remote(max_retries=0)
    work, parse, crash = options(score), options(parse_record), options(call_native_code)
    refs = [work.remote(0.4) for _ in range(GOOD_TASKS_PER_ROUND)]
    refs += [parse.remote("not a number") for _ in range(BAD_TASKS_PER_ROUND)]
    if round_number % ROUNDS_PER_CRASH == 0:
        refs.append(crash.remote())
    if round_number % ROUNDS_PER_CYCLE < ROUNDS_PER_CYCLE // 3:
        if not held:
            held.extend(ray.put(os.urandom(OBJECT_BYTES)) for _ in range(OBJECTS_HELD))
    else:
        held.clear()
    ends: Counter[str] = Counter()
    for ref in refs:
        try:
            ray.get(ref)
            ends["done"] += 1
        except ray.exceptions.WorkerCrashedError:
            ends["crashed"] += 1
        except ray.exceptions.RayTaskError:
            ends["failed"] += 1
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a small Ray workload that mostly works.")
    parser.add_argument("--seconds", type=float, help="stop after so long; without it, never")
    parser.add_argument("--pause", type=float, default=4.0, help="seconds between two rounds")
    arguments = parser.parse_args()

    ray.init(log_to_driver=False)
    end = time.monotonic() + arguments.seconds if arguments.seconds else None
    held: list[Any] = []
    round_number = 1
    while end is None or time.monotonic() < end:
        ends = play(round_number, held)
        print(
            f"round {round_number}: {ends['done']} done, {ends['failed']} failed, "
            f"{ends['crashed']} crashed, {len(held) * OBJECT_BYTES >> 20} MiB held",
            flush=True,
        )
        round_number += 1
        time.sleep(arguments.pause)
    return 0


if __name__ == "__main__":
    sys.exit(main())
