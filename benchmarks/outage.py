"""Take S3 away from a server under a cluster's traffic, give it back, and count what arrived.

    outage.py [--minutes N] [--clusters N] [--real]

The recorded quarter of an hour is tiled to so many minutes and clusters: every copy is moved in
time, so that no two requests are alike. It is posted as fast as it is acknowledged, or with
`--real` when it is due by the clock. All that while S3 is away: in the first half nobody listens,
then every request is answered 503, and in the last quarter connections are taken and stay silent.
Then S3 is back, and the table is printed when the log is empty. A request carries its number in a
header, which becomes a column: so each is looked for by itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from rayotel import replay
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.replay import RecordedRequest, Recording
from support.fault_proxy import Fault, FaultProxy, Kind
from support.harness import RECORDING, S3_KEY_ID, S3_SECRET, Server, ask, make_bucket, s3_server
from support.receiver_answers import counted, rss_bytes

# what is played from which share of the outage on
OUTAGE = (
    (0.0, Fault(Kind.REFUSED)),
    (0.5, Fault(Kind.STATUS, status=503)),
    (0.75, Fault(Kind.SILENT)),
)
QUARTER_SECONDS = 900
CLIENT_SECONDS = 60.0
SAMPLE_SECONDS = 0.25
MIB = 1024 * 1024
OLDEST = "rayotel_oldest_uncommitted_timestamp_seconds"


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A request, when it is due, and what its points' times are moved by."""

    due_seconds: float
    request: RecordedRequest
    shift_nano: int

    def body(self) -> bytes:
        """As it is sent."""
        return self.request.sent_body(self.shift_nano)


def schedule(
    recording: Recording, minutes: float, clusters: int, starts_unix_nano: int
) -> Iterator[Scheduled]:
    """So many minutes of traffic, in order; the first request is of `starts_unix_nano`."""
    first = recording.requests[0].at
    begins = recording.last_event_unix_nano - int((recording.requests[-1].at - first) * 1e9)
    for quarter in range(int(minutes * 60 // QUARTER_SECONDS) + 1):
        for request in recording.requests:
            due = quarter * QUARTER_SECONDS + request.at - first
            if due >= minutes * 60 or request.at - first >= QUARTER_SECONDS:
                break
            for cluster in range(clusters):
                shift = starts_unix_nano - begins + quarter * QUARTER_SECONDS * 10**9 + cluster
                yield Scheduled(due, request, shift)


class Watch(threading.Thread):
    """Looks at the log's size all the time."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._stopping = threading.Event()
        self.most_bytes = 0

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping.wait(SAMPLE_SECONDS):
            self.most_bytes = max(self.most_bytes, self.now_bytes())

    def now_bytes(self) -> int:
        """What the segments take; one may be removed while they are looked at."""
        total = 0
        for path in self._directory.glob("*.wal"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
        return total

    def stop(self) -> None:
        """After the sample at hand."""
        self._stopping.set()
        self.join()


@dataclass(slots=True)
class Figures:
    """What came of it. `expected`: points of each acknowledged request, by its number."""

    expected: dict[int, int] = field(default_factory=dict)
    refused: int = 0
    sent_bytes: int = 0
    outage_seconds: float = 0.0
    slowest_answer_seconds: float = 0.0
    rss_before: int = 0
    peak_outage: int = 0
    peak_drain: int = 0
    log_bytes: int = 0
    failed_commits: float = 0.0
    drain_seconds: float = 0.0
    lost: int = 0
    doubled: int = 0


def points_of(body: bytes) -> int:
    """Data points of an OTLP request, by the official parser."""
    return sum(
        len(getattr(metric, kind).data_points)
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if (kind := metric.WhichOneof("data"))
    )


def play_outage(
    server: Server, proxy: FaultProxy, requests: list[Scheduled], figures: Figures, *, real: bool
) -> None:
    """Post everything while S3 is away, one fault after the other; each of them is met."""
    bodies = [] if real else [one.body() for one in requests]
    ends = [int(share * len(requests)) for share, _ in OUTAGE[1:]] + [len(requests)]
    started = time.monotonic()
    number = 0
    with httpx.Client(base_url=server.url, trust_env=False, timeout=CLIENT_SECONDS) as client:
        for (_, fault), end in zip(OUTAGE, ends, strict=True):
            failed_before = failed_commits(server)
            proxy.play(fault)
            while number < end:
                one = requests[number]
                if real:
                    time.sleep(max(0.0, started + one.due_seconds - time.monotonic()))
                post(client, number, one, one.body() if real else bodies[number], figures)
                number += 1
            while not (proxy.met or failed_commits(server) > failed_before):
                time.sleep(SAMPLE_SECONDS)
    figures.outage_seconds = time.monotonic() - started


def failed_commits(server: Server) -> float:
    """Commits that the server tried in vain."""
    return counted(server, "rayotel_commits_total").get('outcome="failed"', 0)


def post(client: httpx.Client, number: int, one: Scheduled, body: bytes, figures: Figures) -> None:
    """Post one request and note what was acknowledged."""
    headers = [*one.request.headers, ("X-P-Number", str(number))]
    begun = time.monotonic()
    answer = client.post(one.request.path, content=body, headers=headers)
    taken = time.monotonic() - begun
    figures.slowest_answer_seconds = max(figures.slowest_answer_seconds, taken)
    if answer.status_code != 200:
        figures.refused += 1
        return
    rejected = ExportMetricsServiceResponse.FromString(answer.content).partial_success
    points = points_of(one.request.plain_body())
    figures.expected[number] = points - rejected.rejected_data_points
    figures.sent_bytes += len(body)


def drain(server: Server, proxy: FaultProxy, figures: Figures) -> None:
    """Give S3 back and wait until the log is empty."""
    proxy.heal()
    started = time.monotonic()
    while counted(server, OLDEST)[""]:
        time.sleep(SAMPLE_SECONDS)
    figures.drain_seconds = time.monotonic() - started


def forget_peak(server: Server) -> None:
    """Let the kernel count the process's peak memory anew."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5", "ascii")


def compare(storage: Storage, figures: Figures) -> None:
    """Every acknowledged request's rows against its points."""
    rows = ask(storage, "SELECT number::BIGINT AS number, count(*) AS n FROM raymetrics GROUP BY 1")
    found: dict[int, int] = {row["number"]: row["n"] for row in rows}
    for number in found.keys() | figures.expected.keys():
        more = found.get(number, 0) - figures.expected.get(number, 0)
        figures.doubled += max(0, more)
        figures.lost += max(0, -more)


def measure(top: Path, minutes: float, clusters: int, *, real: bool) -> Figures:
    """The whole outage."""
    figures = Figures()
    recording = replay.load(RECORDING)
    os.environ.update(AWS_ACCESS_KEY_ID=S3_KEY_ID, AWS_SECRET_ACCESS_KEY=S3_SECRET)
    (top / "s3").mkdir()
    with s3_server(top / "s3") as url, FaultProxy(url) as proxy:
        make_bucket(url, "bucket")
        env = {
            "RAYOTEL_STORAGE": "s3://bucket/lake",
            "RAYOTEL_S3_ENDPOINT": proxy.url,
            "AWS_ACCESS_KEY_ID": S3_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        }
        began = time.time_ns() - (0 if real else int(minutes * 60 * 1e9))
        requests = list(schedule(recording, minutes, clusters, began))
        with Server(top / "data", "--commit-interval-seconds", "5", env=env) as server:
            watch = Watch(top / "data" / "wal")
            watch.start()
            figures.rss_before = rss_bytes(server)
            play_outage(server, proxy, requests, figures, real=real)
            figures.log_bytes = max(watch.most_bytes, watch.now_bytes())
            figures.failed_commits = failed_commits(server)
            figures.peak_outage = rss_bytes(server, peak=True)
            forget_peak(server)
            drain(server, proxy, figures)
            figures.peak_drain = rss_bytes(server, peak=True)
            watch.stop()
            server.stop()
        compare(open_storage("s3://bucket/lake", s3_endpoint=url), figures)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the outage")
    parser.add_argument("--clusters", type=int, default=1, help="recorded clusters at once")
    parser.add_argument("--real", action="store_true", help="post at the recorded rate")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rayotel-outage-") as name:
        one = measure(Path(name), given.minutes, given.clusters, real=given.real)
    rate = "at real rates" if given.real else "compressed"
    table = [
        (f"traffic, minutes x clusters, {rate}", f"{given.minutes:g} x {given.clusters}"),
        ("the outage lasted, seconds", f"{one.outage_seconds:,.0f}"),
        ("requests acknowledged, refused", f"{len(one.expected):,}, {one.refused:,}"),
        ("points acknowledged", f"{sum(one.expected.values()):,}"),
        ("slowest answer, ms", f"{one.slowest_answer_seconds * 1000:,.0f}"),
        ("commits that failed", f"{one.failed_commits:,.0f}"),
        ("bodies as sent, MB", f"{one.sent_bytes / MIB:,.1f}"),
        ("log at its largest, MB", f"{one.log_bytes / MIB:,.1f}"),
        ("memory before, MB", f"{one.rss_before / MIB:,.0f}"),
        ("peak memory while S3 was away, MB", f"{one.peak_outage / MIB:,.0f}"),
        ("peak memory while the log drained, MB", f"{one.peak_drain / MIB:,.0f}"),
        ("from S3 back to an empty log, seconds", f"{one.drain_seconds:,.1f}"),
        ("points lost, doubled", f"{one.lost}, {one.doubled}"),
    ]
    print("| what | figure |\n| --- | ---: |")
    for what, figure in table:
        print(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
