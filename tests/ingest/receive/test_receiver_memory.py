"""What a request may cost: memory and time stay within bounds, whatever a body is made of."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
from backports import zstd

from support.harness import JSON, PROTOBUF, Server, gauge_request, wait_until
from support.otlp_reference import gauges
from support.receiver_answers import counted, rss_bytes

MIB = 1024 * 1024
GZIPPED = {**PROTOBUF, "Content-Encoding": "gzip"}
MAX_RSS_BYTES = 300 * MIB


@pytest.mark.parametrize("size", [17, 40])
def test_memory_of_bodies_larger_than_the_bound(server: Server, size: int) -> None:
    """A body beyond the bound is read away without being kept."""
    for _ in range(10):
        pieces = iter([bytes(MIB)] * size)
        answer = server.post(pieces, PROTOBUF)
        assert answer.status_code == 413
    assert rss_bytes(server, peak=True) < MAX_RSS_BYTES


def test_memory_of_bombs(server: Server) -> None:
    """Bodies that inflate beyond the bound cost no more memory than the bound, however many."""
    bomb = zstd.compress(bytes(65 * MIB))
    for _ in range(25):
        answer = server.post(bomb, {**PROTOBUF, "Content-Encoding": "zstd"})
        assert answer.status_code == 413
    assert rss_bytes(server, peak=True) < MAX_RSS_BYTES


def test_memory_of_malformed_bodies(server: Server) -> None:
    """What was inflated of a body that is then refused is let go with the answer."""
    body = gzip.compress(b"\xff" * (15 * MIB))
    for _ in range(20):
        assert server.post(body, GZIPPED).status_code == 400
    assert rss_bytes(server, peak=True) < MAX_RSS_BYTES


def _nested(*fields: bytes) -> bytes:
    """12 MiB of an empty last field, within a message of each of the others."""
    body = fields[-1] + b"\x00"
    body *= 12 * MIB // len(body)
    for field in reversed(fields[:-1]):
        body = field + _varint(len(body)) + body
    return body


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (PROTOBUF, _nested(b"\x0a")),
        (PROTOBUF, _nested(b"\x0a", b"\x12", b"\x12")),
        (JSON, b'{"x":[' + b"[]," * (4 * MIB) + b"0]}"),
    ],
    ids=["resources", "metrics", "json"],
)
def test_memory_of_empty_messages(server: Server, kind: dict[str, str], body: bytes) -> None:
    """A body within its bound costs a bounded multiple of its size, whatever it is made of."""
    answer = server.post(gzip.compress(body), {**kind, "Content-Encoding": "gzip"})
    assert answer.status_code in (200, 400, 413)
    assert rss_bytes(server, peak=True) < MAX_RSS_BYTES


def test_memory_of_series_with_large_labels(server: Server) -> None:
    """What is remembered of series is bounded, however large their labels are."""
    for number in range(40):
        large = f"{number}" + "x" * (4 * MIB)
        body = gauges(time.time_ns(), large=large).SerializeToString()
        assert server.post(gzip.compress(body, 1), GZIPPED).status_code == 200
    assert rss_bytes(server) < MAX_RSS_BYTES + 100 * MIB


def test_memory_of_a_commit(tmp_path: Path) -> None:
    """What a segment inflates to does not come into memory all at once."""
    with Server(tmp_path / "data", "--commit-interval-seconds", "4") as server:
        for number in range(24):
            body = b"".join(
                gauge_request(1, large=f"{number}-{series}" + "x" * 60_000) for series in range(200)
            )
            assert server.post(gzip.compress(body, 1), GZIPPED).status_code == 200
        wait_until(lambda: 'outcome="done"' in str(counted(server, "rayotel_commits_total")))
        wait_until(lambda: counted(server, "rayotel_oldest_uncommitted_timestamp_seconds")[""] == 0)
        # series, waiting columns and a segment have their bounds; twice the bodies cost no more
        assert rss_bytes(server, peak=True) < 4 * MAX_RSS_BYTES


def test_time_of_many_gzip_members(server: Server) -> None:
    """A body costs time in proportion to its size, also where it has many members."""
    answer = server.post(gzip.compress(b"") * 100_000, GZIPPED)
    assert answer.status_code == 200


def test_time_of_many_empty_messages(server: Server) -> None:
    """A body of a few kilobytes that inflates to nothing but empty messages is soon answered."""
    answer = server.post(gzip.compress(b"\x0a\x00" * 1_500_000), GZIPPED)
    assert answer.status_code in (200, 400, 413)
