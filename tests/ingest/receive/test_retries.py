"""A request sent again is acknowledged and stored once."""

from __future__ import annotations

import itertools
import re
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayotel.ingest.wal.recent_requests import SeenRequests, digest_of
from rayotel.lake.storage.opening import open_storage
from rayotel.model import Arrival, Record
from support.harness import PROTOBUF, Server, ask, gauge_request, wait_until

NEVER = ("--commit-interval-seconds", "3600")


def count(data_dir: Path, stream: str = "raymetrics") -> int:
    """Rows of a stream in the lake of a data directory."""
    storage = open_storage(str(data_dir / "lake"))
    rows = ask(storage, f'SELECT count(*) AS n FROM "{stream}"')
    found: int = rows[0]["n"]
    return found


def test_sent_twice_is_stored_once(server: Server) -> None:
    """The same bytes to the same stream are one request, and are counted as sent again."""
    body = gauge_request(1, 2)
    assert [server.post(body, PROTOBUF).status_code for _ in range(3)] == [200] * 3
    assert "rayotel_requests_duplicate_total 2.0" in server.get("/metrics").text
    assert 'rayotel_points_accepted_total{stream="raymetrics"} 2.0' in server.get("/metrics").text
    assert server.stop() == 0
    assert count(server.data_dir) == 2


def test_another_stream_is_another_request(server: Server) -> None:
    """Equality is of stream and body: what is meant for two streams reaches both."""
    body = gauge_request(1)
    for stream in ("one", "two"):
        assert server.post(body, {**PROTOBUF, "X-P-Stream": stream}).status_code == 200
    assert server.stop() == 0
    assert (count(server.data_dir, "one"), count(server.data_dir, "two")) == (1, 1)


def test_two_tries_in_flight_at_once(server: Server) -> None:
    """Tries that overlap are all acknowledged, and one of them is stored."""
    bodies = [gauge_request(number) for number in range(5)] * 6
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: server.post(body, PROTOBUF).status_code, bodies))
    assert set(answers) == {200}
    assert server.stop() == 0
    assert count(server.data_dir) == 5


def digest(body: bytes) -> bytes:
    """What a request with this body is known by."""
    return digest_of(Record(Arrival("metrics", "s", PROTOBUF["Content-Type"], "", 1, "", ""), body))


def test_another_header_is_another_request(server: Server) -> None:
    """A header becomes a column, so the same body with another value has other rows."""
    body = gauge_request(1)
    for cluster in ("one", "two", "two"):
        assert server.post(body, {**PROTOBUF, "X-P-Cluster": cluster}).status_code == 200
    assert server.stop() == 0
    storage = open_storage(str(server.data_dir / "lake"))
    rows = ask(storage, "SELECT cluster FROM raymetrics ORDER BY ALL")
    assert [row["cluster"] for row in rows] == ["one", "two"]


def duplicates(server: Server) -> float:
    """How many requests the server has recognised as sent again."""
    text = server.get("/metrics").text
    (value,) = re.findall(r"^rayotel_requests_duplicate_total (\S+)$", text, re.MULTILINE)
    return float(value)


@pytest.mark.parametrize("committed", [False, True], ids=["in the log", "in a part"])
def test_sent_again_after_a_crash(tmp_path: Path, committed: bool) -> None:
    """A crash between the two tries makes no difference, wherever the first one is by then."""
    body = gauge_request(1)
    with Server(tmp_path / "data", *(() if committed else NEVER)) as server:
        assert server.post(body, PROTOBUF).status_code == 200
        if committed:
            wait_until(lambda: 'outcome="done"} 1.0' in server.get("/metrics").text)
        server.kill()
        server.start()
        assert server.post(body, PROTOBUF).status_code == 200
        assert server.stop() == 0
    assert count(tmp_path / "data") == 1


def test_after_the_window_it_is_a_new_request(tmp_path: Path) -> None:
    """Memory ends: what is sent again later than the window is stored again."""
    env = {"RAYOTEL_DEDUPE_WINDOW_SECONDS": "1"}
    first, others = gauge_request(1), itertools.count(2)
    with Server(tmp_path / "data", env=env) as server:
        assert server.post(first, PROTOBUF).status_code == 200

        def stored_again() -> bool:
            server.post(gauge_request(next(others)), PROTOBUF)
            before = duplicates(server)
            assert server.post(first, PROTOBUF).status_code == 200
            return duplicates(server) == before

        wait_until(stored_again)
        assert server.stop() == 0
    rows = ask(
        open_storage(str(tmp_path / "data" / "lake")),
        "SELECT count(*) AS n FROM raymetrics WHERE data_point_value = 1",
    )
    assert rows[0]["n"] == 2


def test_a_refused_try_is_no_first_try(tmp_path: Path) -> None:
    """What was answered 503 is stored when it is sent again."""
    with Server(tmp_path / "data", *NEVER) as server:
        body = gauge_request(1)
        limit = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (20, limit[1]))
        assert server.post(body, PROTOBUF).status_code == 503
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, limit)
        assert server.post(body, PROTOBUF).status_code == 200
        assert server.post(body, PROTOBUF).status_code == 200
        assert server.stop() == 0
    assert count(tmp_path / "data") == 1


@given(st.lists(st.binary(max_size=8), max_size=20, unique=True), st.integers(0, 36))
def test_the_memory_survives_a_restart_and_a_torn_end(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[bytes], torn: int
) -> None:
    """Every segment's digests are known again, but for those that a crash cut."""
    directory = tmp_path_factory.mktemp("seen")
    digests = [digest(body) for body in bodies]
    memory = SeenRequests(directory, window_seconds=3600, max_requests=1000)
    memory.load(1000)
    for one in digests:
        memory.persist([one], 7, 1000)
    for path in directory.glob("*.ids"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - torn])
    after = SeenRequests(directory, window_seconds=3600, max_requests=1000)
    whole = len(digests) - (1 if torn and digests else 0)
    after.load(1001)
    assert [one in after for one in digests] == [place < whole for place in range(len(digests))]
    after.persist([digest(b"later one")], 8, 1002)
    third = SeenRequests(directory, window_seconds=3600, max_requests=1000)
    third.load(1003)
    assert [one in third for one in digests[:whole]] == [True] * whole
    assert digest(b"later one") in third


def test_the_memory_is_bounded(tmp_path: Path) -> None:
    """Beyond the bound the oldest requests are forgotten, never the newest."""
    memory = SeenRequests(tmp_path, window_seconds=3600, max_requests=70)
    digests = [digest(str(number).encode()) for number in range(1000)]
    for one in digests:
        memory.add(one, 1000)
    known = [one in memory for one in digests]
    assert sum(known) <= 70
    assert all(known[-50:])
