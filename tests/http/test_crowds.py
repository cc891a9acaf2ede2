"""Crowds, slow clients and short files cannot lock others out: real servers, real sockets."""

from __future__ import annotations

import base64
import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.connections import (
    LIVENESS,
    POST,
    answer,
    connect,
    crowd,
    drip,
    is_open,
    statuses,
    until_end,
)
from support.harness import PROTOBUF, Server, gauge_request, wait_until
from support.receiver_answers import counted, rss_bytes

MIB = 1024 * 1024
USER, PASSWORD = "fluent", "a-s3cret"
KNOWN = (USER, PASSWORD)
AUTHORIZATION = base64.b64encode(f"{USER}:{PASSWORD}".encode())
CLOSED = {"RAYOTEL_USERNAME": USER, "RAYOTEL_PASSWORD": PASSWORD}
KNOWN_POST = POST + b"Authorization: Basic " + AUTHORIZATION + b"\r\n"
SECONDS_OF_CPU = 5.0  # five times what each of these costs, and more


def whole_post(body: bytes, head: bytes = KNOWN_POST) -> bytes:
    """A request of a body."""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def everything_is_answered(server: Server) -> None:
    """Liveness, readiness, metrics and a sender, each on a new connection, at once."""
    for path in ("/api/v1/liveness", "/api/v1/readiness", "/metrics"):
        assert server.get(path, auth=KNOWN).status_code == 200
    assert server.post(gauge_request(1), PROTOBUF, auth=KNOWN).status_code == 200


def cpu_seconds(server: Server) -> float:
    """CPU that the server has used."""
    fields = Path(f"/proc/{server.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize(
    "sent",
    [
        (),
        (b"G",),
        (LIVENESS[:-2],),
        (POST + b"Content-Length: 1000000\r\n\r\n",),
        (POST + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n",),
        (LIVENESS,),
        (b"nonsense\r\n\r\n",),
        (POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",),
        (LIVENESS * 200,),
    ],
    ids=["nothing", "byte", "head", "no body", "body", "chunk", "whole", "bad", "100", "ahead"],
)
def test_a_crowd_without_credentials(tmp_path: Path, sent: tuple[bytes, ...]) -> None:
    """Ten times as many as may be open: all others are answered, also on kept connections."""
    env = {**CLOSED, "RAYOTEL_MAX_CONNECTIONS": "40"}
    with Server(tmp_path / "data", env=env) as server, connect(server.port) as kept:
        kept.sendall(whole_post(gauge_request(0)))
        assert statuses(answer(kept)) == [200]
        with connect(server.port) as busy:
            half = whole_post(gauge_request(1))
            busy.sendall(half[:-10])
            wait_until(lambda: counted(server, "rayotel_connections", KNOWN)[""] >= 2)
            with crowd(server.port, 400, *sent):
                everything_is_answered(server)
                kept.sendall(whole_post(gauge_request(2)))
                assert statuses(answer(kept)) == [200]
                busy.sendall(half[-10:])
                assert statuses(answer(busy)) == [200]
        assert counted(server, "rayotel_connections", KNOWN)[""] <= 40
        assert server.stop() == 0


def test_a_crowd_with_a_limit_of_files(tmp_path: Path) -> None:
    """The issue's case: more idle connections than the process may have files."""
    with Server(tmp_path / "data", env=CLOSED, max_files=512) as server:
        assert "fewer connections than max_connections fit" in server.log()
        with crowd(server.port, 900):
            for _ in range(3):
                everything_is_answered(server)
        assert server.stop() == 0
        assert "everything_is_stored=true" in server.log()
        assert "Too many open files" not in server.log()


def test_the_limit_of_files_is_raised(tmp_path: Path) -> None:
    """To the highest that the process may have."""
    with Server(tmp_path / "data") as server:
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        assert soft == hard


def test_no_file_left_to_take_a_connection_with(tmp_path: Path) -> None:
    """The server neither spins nor stops: it closes who is idle, waits, and comes back."""
    with Server(tmp_path / "data") as server, contextlib.ExitStack() as stack:
        stack.enter_context(crowd(server.port, 50))
        wait_until(lambda: counted(server, "rayotel_connections")[""] >= 50)
        open_files = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (open_files, hard))
        assert server.get("/api/v1/liveness").status_code == 200  # those who are idle made room
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (8, hard))
        before = cpu_seconds(server)
        waiting = [stack.enter_context(connect(server.port)) for _ in range(5)]
        for sock in waiting:
            sock.sendall(LIVENESS)
        time.sleep(3)
        assert cpu_seconds(server) - before < 1.5
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert [statuses(answer(sock)) for sock in waiting] == [[200]] * 5
        assert "connections cannot be accepted" in server.log()
        wait_until(lambda: "connections are accepted again" in server.log())
        assert server.stop() == 0


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits a second for a head, and two between requests."""
    env = {"RAYOTEL_HEAD_TIMEOUT_SECONDS": "1", "RAYOTEL_IDLE_TIMEOUT_SECONDS": "4"}
    with Server(tmp_path_factory.mktemp("hasty") / "data", env=env) as running:
        yield running
        assert running.stop() == 0


@pytest.mark.parametrize("before", [b"", LIVENESS], ids=["first", "second"])
@pytest.mark.parametrize("sent", [b"P", POST])
def test_a_head_that_does_not_arrive(hasty: Server, before: bytes, sent: bytes) -> None:
    """Half a head ends its connection, whether it is the first one or a later one."""
    with connect(hasty.port) as sock:
        if before:
            sock.sendall(before)
            assert statuses(answer(sock)) == [200]
        sock.sendall(sent)
        assert until_end(sock) == b""


def test_a_head_byte_by_byte(hasty: Server) -> None:
    """A byte now and then does not keep a connection open."""
    with connect(hasty.port) as sock:
        flood = POST + b"X: y\r\n" * 50
        assert drip(sock, flood, 0.05) < len(flood)


def test_who_sends_nothing_and_who_has_sent_something(hasty: Server) -> None:
    """Nothing at all: the deadline of a head. After a request: that between requests."""
    with connect(hasty.port) as stranger, connect(hasty.port) as known:
        known.sendall(LIVENESS)
        assert statuses(answer(known)) == [200]
        assert until_end(stranger) == b""
        assert is_open(known)
        assert until_end(known) == b""
    reasons = counted(hasty, "rayotel_connections_closed_total")
    assert reasons['reason="no whole head"'] >= 1
    assert reasons['reason="idle"'] >= 1


def test_kept_connections_are_kept(hasty: Server) -> None:
    """A sender that pauses for less than the bound between requests is never cut off."""
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(connect(hasty.port)) for _ in range(100)]
        for number in range(3):
            for node, sock in enumerate(kept):
                sock.sendall(whole_post(gauge_request(number, node=str(node)), POST))
            assert [statuses(answer(sock)) for sock in kept] == [[200]] * 100
            time.sleep(1.5)


@pytest.mark.parametrize("body", [b"", b"x"])
def test_requests_without_a_body_take_no_place(tmp_path: Path, body: bytes) -> None:
    """Announced bodies that never come keep nobody out, whoever announced them."""
    env = {"RAYOTEL_MAX_REQUESTS_IN_FLIGHT": "2"}
    with Server(tmp_path / "data", env=env) as server:
        announced = POST + b"Content-Length: 1000\r\n\r\n" + body
        with crowd(server.port, 50, announced) as slow:
            for number in range(5):
                assert server.post(gauge_request(number), PROTOBUF).status_code == 200
            assert all(map(is_open, slow))
            for sock in slow:
                sock.sendall(bytes(1000 - len(body)))
            found = {status for sock in slow for status in statuses(answer(sock))}
            assert found <= {400, 503}


def test_slow_bodies_make_room_for_others(tmp_path: Path) -> None:
    """Bodies that stop on their way hold bytes only until somebody else needs them."""
    env = {
        "RAYOTEL_MAX_COMPRESSED_BODY_BYTES": str(MIB),
        "RAYOTEL_MAX_INFLATED_BODY_BYTES": str(MIB),
        "RAYOTEL_MAX_BYTES_IN_FLIGHT": str(2 * MIB),
        "RAYOTEL_BODY_TIMEOUT_SECONDS": "600",
    }
    with Server(tmp_path / "data", env=env) as server:
        slow = POST + b"Content-Length: %d\r\n\r\n" % MIB + bytes(MIB - 1)
        with crowd(server.port, 2, slow) as sockets:
            body = gauge_request(*range(10_000))
            wait_until(lambda: server.post(body, PROTOBUF).status_code == 200)
            assert 503 in {status for sock in sockets[:1] for status in statuses(answer(sock))}


def test_who_never_reads_costs_little(tmp_path: Path) -> None:
    """Answers that nobody reads are bounded, and so is what is sent ahead of them."""
    with Server(tmp_path / "data") as server:
        before = rss_bytes(server)
        flood = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                sock = stack.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(("127.0.0.1", server.port))
                sock.settimeout(0.3)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    for _ in range(20):
                        sock.sendall(flood)
            assert server.get("/api/v1/liveness").status_code == 200
            assert rss_bytes(server) - before < 40 * MIB
        assert server.stop() == 0


def test_tiny_chunks_cost_little(tmp_path: Path) -> None:
    """A body in chunks of a byte each costs well below two seconds of CPU a MiB that is sent."""
    with Server(tmp_path / "data") as server, connect(server.port) as sock:
        before = cpu_seconds(server)
        chunks = b"1\r\n\x00\r\n" * (4 * MIB // 6)
        sock.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert statuses(answer(sock)) == [400]
        assert cpu_seconds(server) - before < SECONDS_OF_CPU


def test_a_slow_reader_gets_all_of_its_answer(tmp_path: Path) -> None:
    """Also where the connection ends with it, and it takes longer than the time to close."""
    with Server(tmp_path / "data") as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        sock.sendall(ask * 40 + ask[:-2] + b"Connection: close\r\n\r\n")
        found = b""
        for _ in range(40):
            found += sock.recv(4096)
            time.sleep(0.1)
        found += until_end(sock)
        assert statuses(found) == [200] * 41


def test_a_stopping_server_does_not_wait_for_idle_clients(tmp_path: Path) -> None:
    """Whoever is between requests, or in a head, is let go at once."""
    with Server(tmp_path / "data") as server, connect(server.port) as kept:
        kept.sendall(LIVENESS)
        assert statuses(answer(kept)) == [200]
        with crowd(server.port, 20, b"GET /"):
            assert server.stop() == 0
            assert until_end(kept) == b""
