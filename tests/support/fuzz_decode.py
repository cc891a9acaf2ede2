"""Decodes hostile bodies, with budgets of memory and time as the oracle.

    python -m support.fuzz_decode COUNT [--seed N] [--jobs N]   bodies by seed, small ones mostly
    python -m support.fuzz_decode --attacks [--size BYTES]      each attack by name

It also checks each small body: no exception but a refusal, the same outcome cold, warm, by the
shortcuts and in full, and that points accepted, rejected and sent add up. It prints the figures,
and each body that fails by its seed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.config.settings import Settings
from rayotel.ingest.decode.decoder import Decoder
from rayotel.ingest.decode.limits.inflate import BodyTooLarge, MalformedBody, inflate
from rayotel.ingest.decode.otlp.messages import MalformedProtobuf
from rayotel.ingest.decode.otlp.metrics import Contexts, decode_in_full
from rayotel.model import Arrival, Batch, MetricBatch, Record
from support.hostile_bodies import ATTACKS, MIB, PROTOBUF, Sent, of_seed
from support.otlp_reference import ARRIVED

SETTINGS = Settings()
# of one decode: beside the body as sent, a constant and a multiple of what it inflates to
MAX_CONSTANT_BYTES = 64 * MIB
MAX_BYTES_A_BYTE = 6
# beyond the first MiB, sent and inflated; the tests allow a factor of five
MAX_CPU_SECONDS_A_MIB = 2.0
SLACK = 5
# a child stops here rather than taking the machine with it
ADDRESS_SPACE_BYTES = 4096 * MIB
BODIES_A_CHILD = 5000
LARGE_EVERY = 500
ACCEPTED, REFUSED = "accepted", "refused"


class Cost(NamedTuple):
    """What decoding one body took, and how it ended."""

    name: str
    sent_bytes: int
    inflated_bytes: int
    memory_bytes: int
    estimated_bytes: int
    cpu_seconds: float
    outcome: str
    rejected: dict[str, int]

    @property
    def allowed_bytes(self) -> int:
        """The budget of memory."""
        return MAX_CONSTANT_BYTES + MAX_BYTES_A_BYTE * self.inflated_bytes

    @property
    def allowed_seconds(self) -> float:
        """The budget of time, without slack."""
        mib = (self.sent_bytes + self.inflated_bytes) / MIB
        return MAX_CPU_SECONDS_A_MIB * max(1.0, mib - 1)


def arrival_of(sent: Sent) -> Arrival:
    """How the request came."""
    signal = "metrics" if sent.path.endswith("metrics") else "events"
    encoding = sent.headers.get("Content-Encoding", "identity")
    kind = sent.headers["Content-Type"]
    return Arrival(signal, "s", kind, encoding, ARRIVED, "192.0.2.1", "hostile")


def new_decoder() -> Decoder:
    """A decoder with the default settings."""
    return Decoder(
        max_inflated_body_bytes=SETTINGS.max_inflated_body_bytes,
        max_series_cached_bytes=SETTINGS.max_series_cached_bytes,
    )


def peak_bytes() -> int:
    """The largest resident size since `forget_peak`."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def resident_bytes() -> int:
    """The resident size now."""
    sizes = Path("/proc/self/statm").read_text("ascii")
    return int(sizes.split()[1]) * resource.getpagesize()


def forget_peak() -> None:
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def cost_of(name: str, sent: Sent) -> Cost:
    """Decode a request in this process, and say what it took."""
    decoder, record = new_decoder(), Record(arrival_of(sent), sent.body)
    pieces: list[int] = []
    batch: Batch | None = None
    forget_peak()
    before, began = resident_bytes(), time.process_time()
    try:
        batch = decoder.decode(record, pieces.append)
        outcome = ACCEPTED
    except (BodyTooLarge, MalformedBody, ValueError) as error:
        outcome = f"{REFUSED}: {error}"
    seconds, memory = time.process_time() - began, peak_bytes() - before
    rejected = {} if batch is None else {**batch.rejected, **batch.unreadable}
    estimated = 0 if batch is None else batch.memory_bytes
    inflated = sum(pieces) or len(sent.body)
    return Cost(name, len(sent.body), inflated, memory, estimated, seconds, outcome, rejected)


def in_child(work: Callable[[], Any]) -> Any:
    """What a child of this process makes of it; its last words where it dies."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(read)
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES,) * 2)
            with os.fdopen(write, "w", encoding="utf-8") as answer:
                answer.write(json.dumps(work()))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if status == 0 else {"died": status}


def _made(make: Callable[[int, int], Sent], size_bytes: int, path: str) -> Any:
    sent = make(ARRIVED, size_bytes)
    Path(path).write_bytes(sent.body)
    return sent.path, sent.headers


def _measured(name: str, about: Any, path: str) -> Cost:
    return cost_of(name, Sent(about[0], about[1], Path(path).read_bytes()))


def attacks(size_bytes: int, wanted: str = "") -> Iterator[Cost]:
    """The cost of each attack, each in a child of its own. Raises RuntimeError where one dies."""
    for name, make in ATTACKS.items():
        if wanted not in name:
            continue
        # made in another process: what making it frees would hide what decoding takes
        with tempfile.NamedTemporaryFile() as file:
            about = in_child(functools.partial(_made, make, size_bytes, file.name))
            found = in_child(functools.partial(_measured, name, about, file.name))
        if isinstance(found, dict):
            raise RuntimeError(f"decoding '{name}' died: {found}")
        yield Cost(*found)


# --- small bodies --------------------------------------------------------------------------------


def outcome_of(batch: Batch) -> Any:
    """Everything in a batch that must not depend on how it was decoded."""
    if not isinstance(batch, MetricBatch):
        return batch.events, dict(batch.unreadable)
    points: list[Any] = []
    for chunk in batch.chunks:
        start = [0] * len(chunk) if chunk.start is None else chunk.start.tolist()
        numbers = zip(chunk.series.tolist(), chunk.time.tolist(), start, strict=True)
        points += [(chunk.kind, batch.series[place].series_id, *more) for place, *more in numbers]
    return sorted(points), dict(batch.rejected), dict(batch.dropped)


def _decoded(decode: Callable[[], Batch]) -> Any:
    try:
        return outcome_of(decode())
    except (BodyTooLarge, MalformedBody, ValueError) as error:
        return type(error).__name__


def _sent_points(body: bytes) -> int | None:
    """How many points protobuf's own library finds; None where it refuses the body."""
    try:
        request = ExportMetricsServiceRequest.FromString(body)
    except DecodeError:
        return None
    return sum(
        len(getattr(metric, kind).data_points)
        for by_resource in request.resource_metrics
        for by_scope in by_resource.scope_metrics
        for metric in by_scope.metrics
        if (kind := metric.WhichOneof("data"))
    )


def check(seed: int, warm: Decoder) -> str:
    """Decode a body in each way. Raises AssertionError; returns how it ended."""
    sent = of_seed(seed, ARRIVED)
    record = Record(arrival_of(sent), sent.body)
    began = time.process_time()
    outcome = _decoded(lambda: warm.decode(record))
    seconds = time.process_time() - began
    assert seconds < SLACK * MAX_CPU_SECONDS_A_MIB, f"took {seconds:.1f} s of CPU"
    again = _decoded(lambda: warm.decode(record))
    assert again == outcome, "decoding again gives something else"
    arrival = record.arrival
    if arrival.content_type != PROTOBUF or outcome in ("MalformedBody", "BodyTooLarge"):
        return outcome if isinstance(outcome, str) else ACCEPTED
    # what was cut at the end of a member is a body all the same
    body = inflate(
        sent.body, arrival.content_encoding, SETTINGS.max_inflated_body_bytes, lambda _: None
    )
    full = _decoded(lambda: decode_in_full(body, arrival, Contexts()))
    assert full == outcome, f"the shortcuts give {outcome}, the reference {full}"
    points = _sent_points(body)
    if isinstance(full, str):
        assert points is None or full != MalformedProtobuf.__name__, "refused, but is protobuf"
        return full
    if points is not None:
        counted = len(full[0]) + sum(full[1].values())
        assert counted == points, f"{points} points sent, {counted} accepted or rejected"
    return ACCEPTED


def check_many(first: int, count: int) -> dict[str, Any]:
    """Check bodies by seed in this process, with one decoder; and how much its memory grew."""
    warm = new_decoder()
    ends: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    forget_peak()
    before = resident_bytes()
    for seed in range(first, first + count):
        try:
            ends[check(seed, warm)] += 1
        except Exception as error:
            failures.append((seed, f"{type(error).__name__}: {error}"[:300]))
    return {"ends": ends, "failures": failures, "grew_bytes": peak_bytes() - before}


def fuzz(first: int, count: int) -> tuple[Counter[str], list[tuple[int, str]], int]:
    """Check bodies from this seed on: how they ended, which failed, and the largest growth."""
    ends: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    grew = 0
    for seed in range(first, first + count, BODIES_A_CHILD):
        many = min(BODIES_A_CHILD, first + count - seed)
        found = in_child(functools.partial(check_many, seed, many))
        if "died" in found:
            failures.append((seed, f"a child died: {found}"))
            continue
        ends.update(found["ends"])
        failures += [(number, text) for number, text in found["failures"]]
        grew = max(grew, found["grew_bytes"])
    return ends, failures, grew


def _show(costs: Iterable[Cost], as_json: bool) -> int:
    """Print what attacks took; 1 where one is beyond the budget. JSON's reader judges itself."""
    if as_json:
        for cost in costs:
            print(json.dumps({**cost._asdict(), "allowed_seconds": cost.allowed_seconds}))
        return 0
    print("MB peak | MB estimated | inflated MB | s CPU | attack: outcome, rejected")
    bad = 0
    for cost in costs:
        is_bad = cost.memory_bytes > cost.allowed_bytes or cost.cpu_seconds > cost.allowed_seconds
        bad += is_bad
        print(
            f"{'BAD ' if is_bad else ''}{cost.memory_bytes / 1e6:.0f} |"
            f" {cost.estimated_bytes / 1e6:.0f} | {cost.inflated_bytes / 1e6:.1f} |"
            f" {cost.cpu_seconds:.2f} | {cost.name}: {cost.outcome[:80]}"
            f" {json.dumps(cost.rejected)}",
            flush=True,
        )
    return min(bad, 1)


def main() -> int:
    """Run what the command line says."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("count", type=int, nargs="?", default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--attacks", action="store_true")
    options.add_argument("--only", default="", help="attacks with this in their name")
    options.add_argument("--size", type=int, default=SETTINGS.max_inflated_body_bytes - MIB)
    options.add_argument("--json", action="store_true", help="attacks as a line of JSON each")
    given = options.parse_args()
    if given.attacks:
        return _show(attacks(given.size, given.only), given.json)
    began = time.monotonic()
    ends, failures, grew = fuzz(given.seed, given.count)
    print(f"{given.count} bodies in {time.monotonic() - began:.0f} s: {dict(ends)}")
    print(f"largest growth of a process with {BODIES_A_CHILD} bodies: {grew / 1e6:.0f} MB")
    for seed, text in failures[:50]:
        print(f"seed {seed}: {text}")
    print(f"{len(failures)} failed")
    return min(len(failures), 1)


if __name__ == "__main__":
    sys.exit(main())
