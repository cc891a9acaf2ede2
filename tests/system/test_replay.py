"""`rayotel replay`: recorded requests posted to a real server as the real client did."""

from __future__ import annotations

import gzip
import json
import lzma
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from rayotel import replay
from rayotel.lake.storage.opening import open_storage
from rayotel.replay import MAX_RETRIES
from support.command import rayotel
from support.harness import (
    PROTOBUF,
    RAYOTEL,
    WAIT_SECONDS,
    Server,
    ask,
    environment,
    gauge_request,
    rayotel_process,
)

T0_NANO = 1_795_186_800 * 10**9
PASSWORD = "hunter2-SWORDFISH"


def recording(directory: Path, *bodies: bytes, headers: Any = PROTOBUF, pause: float = 0.0) -> str:
    """Write a recording of metrics requests, `pause` seconds between them; its directory."""
    lines, offset = [], 0
    for number, body in enumerate(bodies):
        line = {"n": number, "t": number * pause, "path": "/v1/metrics", "offset": offset}
        lines.append({**line, "length": len(body), "headers": list(headers.items())})
        offset += len(body)
    directory.mkdir(exist_ok=True)
    (directory / "bodies.bin.xz").write_bytes(lzma.compress(b"".join(bodies)))
    (directory / "requests.ndjson").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return str(directory)


def replayed(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `rayotel replay` without pauses."""
    return rayotel_process("replay", *arguments, "--speed", "max", env=env)


def stored(server: Server, columns: str) -> list[dict[str, Any]]:
    """Rows of the server's lake after it stopped."""
    assert server.stop() == 0
    lake = open_storage(str(server.data_dir / "lake"))
    return ask(lake, f"SELECT {columns} FROM raymetrics ORDER BY data_point_value")


def test_a_recording_arrives_as_it_was_sent(server: Server, tmp_path: Path) -> None:
    """Bodies, headers and order; the counts of answers are on standard error."""
    headers = {**PROTOBUF, "Content-Encoding": "gzip", "X-P-Cluster-Id": "c1"}
    bodies = [gzip.compress(gauge_request(n, time_unix_nano=T0_NANO)) for n in range(3)]
    done = replayed(recording(tmp_path / "r", *bodies, headers=headers), "--url", server.url)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "/v1/metrics: 3 answered 200" in done.stderr
    assert "0 tries again" in done.stderr
    rows = stored(server, "data_point_value AS v, cluster_id AS c, epoch_ns(time_unix_nano) AS t")
    assert rows == [{"v": n, "c": "c1", "t": T0_NANO} for n in range(3)]


def test_times_can_be_moved_to_now(server: Server, tmp_path: Path) -> None:
    """--shift-to now: the last point is of now, the distances stay."""
    bodies = [gauge_request(n, time_unix_nano=T0_NANO + n * 10**9 + 7) for n in range(2)]
    path = recording(tmp_path / "r", *bodies)
    before = time.time()
    done = replayed(path, "--url", server.url, "--shift-to", "now")
    assert done.returncode == 0, done.stderr
    first, last = stored(server, "epoch(time_unix_nano) AS t")
    assert before - 2 < last["t"] < time.time() + 1
    assert last["t"] - first["t"] == pytest.approx(1, abs=1e-5)


def test_a_recording_keeps_its_pace(
    busy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--speed 2: each request waits until half of its recorded time is over."""
    clock, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    path = recording(tmp_path / "r", *[b""] * 3, pause=0.5)
    with monkeypatch.context() as patched:
        patched.setattr(replay, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock[0]))
        replay.post(replay.load(Path(path)), busy.url, speed=2)
    assert (waits, busy.seen) == ([0, 0.25, 0.25], 3)


def test_credentials_are_those_of_the_settings(tmp_path: Path) -> None:
    """Without them the server refuses: exit code 1, and no password in any word."""
    path = recording(tmp_path / "r", gauge_request(1, time_unix_nano=T0_NANO))
    settings = {"RAYOTEL_USERNAME": "fluent", "RAYOTEL_PASSWORD": PASSWORD}
    with Server(tmp_path / "data", env=settings) as server:
        refused = replayed(path, "--url", server.url)
        wrong = replayed(path, "--url", server.url, **{**settings, "RAYOTEL_PASSWORD": "wrong"})
        right = replayed(path, "--url", server.url, **settings)
        log = server.log()
    assert [one.returncode for one in (refused, wrong, right)] == [1, 1, 0]
    assert "answered 401" in refused.stderr
    assert "refused" in refused.stderr
    assert PASSWORD not in refused.stderr + wrong.stderr + right.stderr + log


class _Busy(BaseHTTPRequestHandler):
    """Answers 503, to be retried at once; 200 after as many as the server wants to refuse."""

    def do_POST(self) -> None:
        """Count and answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        server.seen += 1
        self.send_response(503 if server.seen <= server.refusals else 200)
        self.send_header("Retry-After", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def busy() -> Iterator[Any]:
    """A server that refuses for a while."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Busy)
    server.seen = server.refusals = 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_busy_server_is_tried_again(busy: Any, tmp_path: Path) -> None:
    """503 is not the end, and every try is counted."""
    busy.refusals = 3
    done = replayed(recording(tmp_path / "r", b"", b""), "--url", busy.url)
    assert done.returncode == 0, done.stderr
    assert (busy.seen, "3 tries again" in done.stderr) == (5, True)


def test_a_server_that_never_takes_it_is_given_up(busy: Any, tmp_path: Path) -> None:
    """Tries are bounded: exit code 1, the reason and a hint."""
    busy.refusals = 10**6
    done = replayed(recording(tmp_path / "r", b""), "--url", busy.url)
    assert (done.returncode, done.stdout, busy.seen) == (1, "", MAX_RETRIES)
    assert "status 503" in done.stderr
    assert "hint: is the server at --url running?" in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://[::1"])
def test_a_url_that_is_none_is_wrong_usage(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No retry can mend it: exit code 2 at once."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it was tried again"))
    done = rayotel("replay", recording(tmp_path / "r", b""), "--url", url)
    assert done.returncode == 2
    assert "--url" in done.stderr


@pytest.mark.parametrize("damage", ["no bodies", "no requests", "not xz", "cut", "no JSON", "key"])
def test_a_damaged_recording_is_wrong_usage(damage: str, tmp_path: Path) -> None:
    """Nothing of it is posted: exit code 2 and what a recording is."""
    directory = Path(recording(tmp_path / "r", b"one", b"two"))
    bodies, requests = directory / "bodies.bin.xz", directory / "requests.ndjson"
    change: dict[str, Any] = {
        "no bodies": bodies.unlink,
        "no requests": requests.unlink,
        "not xz": lambda: bodies.write_bytes(b"no xz"),
        "cut": lambda: bodies.write_bytes(lzma.compress(b"one")),
        "no JSON": lambda: requests.write_text("{"),
        "key": lambda: requests.write_text("{}"),
    }
    change[damage]()
    done = replayed(str(directory), "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "requests.ndjson and bodies.bin.xz" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_may_come_late(tmp_path: Path) -> None:
    """A refused connection is tried again: a replay that starts first loses nothing."""
    path = recording(tmp_path / "r", gauge_request(5, time_unix_nano=T0_NANO))
    server = Server(tmp_path / "data")
    command = [*RAYOTEL, "replay", path, "--url", server.url, "--speed", "max"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment()) as process, server:
        assert process.wait(WAIT_SECONDS) == 0
        assert [row["v"] for row in stored(server, "data_point_value AS v")] == [5]
