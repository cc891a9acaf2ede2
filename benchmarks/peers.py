"""Compare rayotel with VictoriaMetrics and Prometheus on the same points, in one run.

    peers.py [--clusters N] [--hours N] [--runs N]

The recorded cluster of three nodes is tiled to so many clusters and hours (`peer_traffic.py`), and
each request is posted to each server, one after the other, on one connection to 127.0.0.1. Then
each server merges what it has, and the same questions are asked of all (`peer_questions.py`). The
peers come from Debian's packages, unpacked into a temporary directory. Prints a Markdown table each
for ingest, storage and questions.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

import peer_traffic
from peer_questions import Question, questions
from peer_servers import (
    COMMAND_SECONDS,
    Packages,
    Peer,
    Prometheus,
    Rayotel,
    Server,
    VictoriaMetrics,
    install,
    samples_in_blocks,
    size_of,
)
from peer_traffic import MAX_CLUSTERS, Samples, Spool, Traffic, address

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from rayotel import replay
from rayotel.errors import RayotelError
from rayotel.lake.storage.opening import open_storage
from rayotel.model import NANOSECONDS_PER_HOUR, NANOSECONDS_PER_SECOND, TimeRange
from rayotel.query.process.limits import Limits
from rayotel.query.session import Session
from support.harness import RAYOTEL, RECORDING, environment

NODES = 3  # of the recorded cluster
PARSER_RUNS = 5
COLD = 3  # processes that ask a question
OVER_SECONDS = 1200  # so long after an hour `rayotel compact` takes it for over
LIMITS = Limits(memory_bytes=4 << 30, threads=0, timeout_seconds=300)
MIB = 1 << 20
WAYS = {
    "otlp": "OTLP, gzip",
    "write": "remote write",
    "text": "Prometheus text",
    "json": "JSON lines",
}


@dataclass(slots=True)
class Ingested:
    """What one server took in one way. `first`, `later`: CPU seconds."""

    server: Server
    kind: str
    requests: int = 0
    points_first: int = 0
    points: int = 0
    samples: int = 0
    first: float = 0.0
    later: float = 0.0
    peak_bytes: int = 0

    def take(self, spool: Spool) -> None:
        """Post a piece and wait until it is where it stays; the first one counts for itself."""
        if not len(spool):
            return
        before = self.server.cpu_seconds
        self.server.post(spool, self.kind)
        self.server.flush()
        used = self.server.cpu_seconds - before
        if self.points:
            self.later += used
        else:
            self.first, self.points_first = used, spool.points
        self.requests += len(spool)
        self.points += spool.points
        self.samples += spool.samples
        self.peak_bytes = self.server.peak_bytes

    @property
    def first_micros(self) -> float:
        """CPU microseconds per point while everything is new."""
        return self.first / self.points_first * 1e6

    @property
    def later_micros(self) -> float:
        """CPU microseconds per point after that."""
        return self.later / (self.points - self.points_first) * 1e6


@dataclass(frozen=True, slots=True)
class Stored:
    """What one server keeps, what of it is an index, and what making it small took."""

    name: str
    bytes_: int
    compaction_seconds: float
    index_bytes: int = 0


@dataclass(slots=True)
class Loaded:
    """All servers' data and figures."""

    ingested: list[Ingested]
    stored: list[Stored]
    lake: Path
    victoria: Path
    blocks: Path


def say(text: str) -> None:
    """To whoever waits."""
    print(text, file=sys.stderr, flush=True)


def load(top: Path, packages: Packages, traffic: Traffic) -> Loaded:
    """Post everything to every server, then let each make it small."""
    ours = Rayotel(top / "rayotel")
    victoria, of_text, of_json = (
        VictoriaMetrics(top / f"victoria-{kind}", packages.programs)
        for kind in ("write", "text", "json")
    )
    prometheus = Prometheus(top / "prometheus", packages.programs)
    ingested = [
        Ingested(ours, "otlp"),
        Ingested(of_json, "json"),
        Ingested(of_text, "text"),
        Ingested(victoria, "write"),
        Ingested(prometheus, "write"),
    ]
    with contextlib.ExitStack() as stack:
        for one in ingested:
            stack.enter_context(one.server)
        for piece in traffic.pieces(top):
            for one in ingested:
                one.take(piece[one.kind])
            say(f"posted {ingested[0].points:,} points")
        stored = [
            small_rayotel(ours, ingested[0].points),
            small_victoria(victoria, ingested[3].samples),
        ]
        of_prometheus, blocks = small_prometheus(prometheus, ingested[4].samples)
    return Loaded(ingested, [*stored, of_prometheus], ours.lake, victoria.directory, blocks)


def small_rayotel(server: Rayotel, points: int) -> Stored:
    """Stop it, and merge each hour into one part."""
    server.stop()
    used = server.compact()
    with Session(open_storage(str(server.lake)), TimeRange(), LIMITS) as session:
        (row,) = session.run("SELECT count(*) AS n FROM raymetrics").rows()
    check_count(server, row["n"], points)
    return Stored(server.name, size_of(server.lake), used)


def small_victoria(server: VictoriaMetrics, samples: int) -> Stored:
    """Merge all parts, and stop it, so that what was merged is removed."""
    before = server.cpu_seconds
    server.compact()
    used = server.cpu_seconds - before
    check_count(server, server.samples, samples)
    server.stop()
    index = server.directory / "indexdb"
    return Stored(server.name, size_of(server.directory / "data", index), used, size_of(index))


def small_prometheus(server: Prometheus, samples: int) -> tuple[Stored, Path]:
    """Write a block, and stop it; also where the block is."""
    before = server.cpu_seconds
    blocks = server.snapshot()
    used = server.cpu_seconds - before
    check_count(server, samples_in_blocks(blocks), samples)
    server.stop()
    index = sum(path.stat().st_size for path in blocks.glob("*/index"))
    return Stored(server.name, size_of(blocks), used, index), blocks


def check_count(server: Server, found: int, expected: int) -> None:
    """Nobody may be small or fast by having less."""
    if found != expected:
        raise RayotelError(f"{server.name} holds {found:,} of {expected:,}")


@dataclass(slots=True)
class Asked:
    """Times of a question in milliseconds, and where the others disagree."""

    name: str
    warm: float
    cold: float
    peers: list[float]
    differences: list[str]


def milliseconds(work: Callable[[], object]) -> float:
    """Wall time."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def ask(
    question: Question, lake: Path, peers: list[Peer], span: tuple[int, int], runs: int
) -> Asked:
    """Ask all in turns, so many times; once before that to compare the answers."""
    start, end = span
    range_ = TimeRange(start * NANOSECONDS_PER_SECOND, end * NANOSECONDS_PER_SECOND)
    taken: list[list[float]] = [[] for _ in ("rayotel", *peers)]
    with Session(open_storage(str(lake)), range_, LIMITS, mentioned_in=question.text) as session:
        right = question.values_of_rows(question.of_session(session))
        if not right:
            raise RayotelError(f"'{question.name}' has no answer")
        differences = [
            question.differences(right, question.values_of_series(answer))
            for answer in (question.of_peer(peer, start, end) for peer in peers)
        ]
        work: list[Callable[[], object]] = [partial(question.of_session, session)]
        work += [partial(question.of_peer, peer, start, end) for peer in peers]
        for _ in range(runs):
            for one, times in zip(work, taken, strict=True):
                times.append(milliseconds(one))
    cold = [milliseconds(partial(ask_cold, question, lake, span)) for _ in range(min(runs, COLD))]
    warm, *others = map(statistics.median, taken)
    return Asked(question.name, warm, statistics.median(cold), others, differences)


def ask_cold(question: Question, lake: Path, span: tuple[int, int]) -> None:
    """`rayotel query` as a process of its own."""
    start, end = (datetime.fromtimestamp(one, UTC).isoformat() for one in span)
    what = ["--name", question.name] if not question.sql else [question.sql]
    subprocess.run(
        [*RAYOTEL, "query", *what, "--storage", str(lake), "--data-dir", str(lake.parent),
         "--from", start, "--to", end, "--format", "ndjson"],
        env=environment(), stdout=subprocess.PIPE, check=True, timeout=COMMAND_SECONDS,
    )  # fmt: skip


def ask_all(
    packages: Packages, loaded: Loaded, samples: Samples, traffic: Traffic, runs: int
) -> Iterator[tuple[int, list[Asked]]]:
    """All questions over the last hour, and over all hours; (hours, answers)."""
    end = traffic.end_nano // NANOSECONDS_PER_SECOND
    whole = (traffic.end_nano - traffic.start_nano) // NANOSECONDS_PER_HOUR
    asked = questions(f"{address(0)}:28180", samples.histograms)
    with (
        VictoriaMetrics(loaded.victoria, packages.programs) as victoria,
        Prometheus(loaded.blocks, packages.programs) as prometheus,
    ):
        for hours in sorted({1, whole}):
            found = []
            for question in asked:
                span = (end - hours * 3600, end)
                found.append(ask(question, loaded.lake, [victoria, prometheus], span, runs))
                say(f"asked {question.name}, {hours} h")
            yield hours, found


def parser_micros(samples: Samples) -> float:
    """CPU microseconds per point of the official parser alone, which nobody goes below."""
    taken = []
    for _ in range(PARSER_RUNS):
        started = time.process_time()
        for body in samples.bodies:
            ExportMetricsServiceRequest.FromString(body)
        taken.append(time.process_time() - started)
    return min(taken) / sum(samples.points) * 1e6


def table(head: str, rows: list[list[str]]) -> None:
    """Print a Markdown table; the first column is text."""
    titles = head.split(", ")
    print(f"| {' | '.join(titles)} |\n| --- |{' ---: |' * (len(titles) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def ratio(ours: float, theirs: float) -> str:
    """rayotel's figure as a multiple of another's."""
    return f"{ours / theirs:.2f}" if theirs else ""


def print_ingest(ingested: list[Ingested], parser: float) -> None:
    """CPU per OTLP point, from the first byte until all is where it stays."""
    ours = ingested[0]
    rows = [
        [
            f"{one.server.name}, {WAYS[one.kind]}",
            f"{one.requests:,}", f"{one.points:,}", f"{one.samples:,}",
            f"{one.first_micros:.2f}", f"{one.later_micros:.2f}",
            ratio(ours.first_micros, one.first_micros), ratio(ours.later_micros, one.later_micros),
            f"{one.peak_bytes / MIB:,.0f}",
        ]
        for one in ingested
    ]  # fmt: skip
    rows[0][3] = ""
    rows.append(["official `FromString` alone, not inflated", *[""] * 3, "", f"{parser:.2f}", ""])
    rows[-1] += [ratio(ours.later_micros, parser), ""]
    print("## Ingest: CPU of the server, µs per OTLP point\n")
    table(
        "server and way, requests, points, samples, first quarter of an hour, after it,"
        " rayotel / it first, rayotel / it after, peak memory MB",
        rows,
    )


def print_storage(loaded: Loaded) -> None:
    """Bytes on disk."""
    ours, points = loaded.stored[0], loaded.ingested[0].points
    samples = loaded.ingested[-1].samples
    rows = [
        [
            one.name, f"{one.bytes_:,}", f"{one.index_bytes:,}" if one.index_bytes else "",
            f"{one.bytes_ / points:.2f}",
            f"{one.bytes_ / samples:.2f}" if one is not ours else "",
            ratio(ours.bytes_, one.bytes_), f"{one.compaction_seconds / points * 1e6:.2f}",
        ]
        for one in loaded.stored
    ]  # fmt: skip
    print("## Storage: bytes on disk of the same traffic, merged\n")
    table(
        "server, bytes, of them index, per OTLP point, per sample, rayotel / it,"
        " CPU of merging µs per point",
        rows,
    )


def print_questions(hours: int, asked: list[Asked]) -> None:
    """Milliseconds of each question."""
    rows = [
        [
            one.name, f"{one.warm:.1f}", f"{one.cold:.0f}",
            *(f"{peer:.1f}" for peer in one.peers), *(ratio(one.warm, peer) for peer in one.peers),
            *(f"no: {text}" if text else "yes" for text in one.differences),
        ]
        for one in asked
    ]  # fmt: skip
    print(f"## Questions over {hours} h, ms\n")
    table(
        "question, rayotel warm, rayotel cold, VictoriaMetrics, Prometheus, rayotel / Victoria,"
        " rayotel / Prometheus, Victoria agrees, Prometheus agrees",
        rows,
    )


def print_machine(packages: Packages, clusters: int, hours: int) -> None:
    """What all this was measured on."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    version = platform.python_version()
    peers = ", ".join(f"{name} {version}" for name, version in packages.versions.items())
    print(f"{os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[1]:.1f}; {peers};")
    print(f"Python {version}, pyarrow {pa.__version__}, DuckDB {duckdb.__version__};")
    print(f"{NODES * clusters} nodes, hours: {hours}, a scrape every 10 s\n", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clusters", type=int, default=2, help="recorded clusters of 3 nodes")
    parser.add_argument("--hours", type=int, default=4, help="hours of traffic")
    parser.add_argument("--runs", type=int, default=5, help="times that each question is asked")
    given = parser.parse_args()
    if not 1 <= given.clusters <= MAX_CLUSTERS or given.hours < 1 or given.runs < 1:
        parser.error(f"1 to {MAX_CLUSTERS} clusters, and at least an hour and a run")
    return given


def measure(top: Path, given: argparse.Namespace) -> None:
    """All of it."""
    (top / "packages").mkdir()
    packages = install(top / "packages")
    samples = peer_traffic.read(replay.load(RECORDING))
    end_hour = int(time.time() - OVER_SECONDS) * NANOSECONDS_PER_SECOND // NANOSECONDS_PER_HOUR
    traffic = Traffic(samples, given.clusters, given.hours, end_hour * NANOSECONDS_PER_HOUR)
    parser = parser_micros(samples)
    loaded = load(top, packages, traffic)
    print_machine(packages, given.clusters, given.hours)
    print_ingest(loaded.ingested, parser)
    print_storage(loaded)
    for hours, asked in ask_all(packages, loaded, samples, traffic, given.runs):
        print_questions(hours, asked)


def main() -> int:
    """Measure and print; whatever ends it, no process and no file stays."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory(prefix="rayotel-peers-") as name:
            measure(Path(name), given)
    except RayotelError as error:
        say(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
