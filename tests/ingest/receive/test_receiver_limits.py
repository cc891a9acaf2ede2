"""The receiver's limits: who may send, how slowly, how many at once, and what is counted."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from support.harness import JSON, PROTOBUF, WAIT_SECONDS, Server, gauge_request, wait_until
from support.otlp_reference import DAY, gauges
from support.receiver_answers import counted, refusal

MIB = 1024 * 1024
HEAD = b"POST /v1/metrics HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests that need none of their own."""
    with Server(tmp_path_factory.mktemp("limits") / "data") as running:
        yield running
        assert running.stop() == 0


# --- rejected points -----------------------------------------------------------------------------

MISSING = "time_unix_nano is missing"
TOO_EARLY = "time_unix_nano is before 2000"
TOO_LATE = "time_unix_nano is more than a day ahead"


def _mixed(now: int) -> dict[str, Any]:
    times = [0, 0, 0, 1, 2, now + 2 * DAY, now]
    points = [{"timeUnixNano": str(time), "asInt": 1} for time in times]
    metric = {"name": "mixed", "gauge": {"dataPoints": points}}
    return {"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}


def test_rejected_points_are_counted_with_their_reasons(server: Server) -> None:
    """The answer and the server's own metrics count each rejected point under its reason."""
    now = time.time_ns()
    by_json = server.post(json.dumps(_mixed(now)).encode(), JSON)
    assert by_json.status_code == 200
    partial = by_json.json()["partialSuccess"]
    assert partial["rejectedDataPoints"] == "6"
    times = [0, 0, 0, 1, 2, now + 2 * DAY, now]
    by_protobuf = server.post(gauges(*times).SerializeToString(), PROTOBUF)
    answer = ExportMetricsServiceResponse.FromString(by_protobuf.content)
    assert answer.partial_success.rejected_data_points == 6
    for message in (partial["errorMessage"], answer.partial_success.error_message):
        assert f"3 rejected: {MISSING}" in message
        assert f"2 rejected: {TOO_EARLY}" in message
        assert f"1 rejected: {TOO_LATE}" in message
    assert counted(server, "rayotel_points_rejected_total") == {
        f'reason="{MISSING}"': 6, f'reason="{TOO_EARLY}"': 4, f'reason="{TOO_LATE}"': 2,
    }  # fmt: skip
    assert counted(server, "rayotel_points_accepted_total") == {'stream="raymetrics"': 2}


def test_a_request_of_rejected_points_only(receiver: Server) -> None:
    """Where every point is rejected the answer is still 200: sending again would change nothing."""
    answer = receiver.post(gauges(0, 0).SerializeToString(), PROTOBUF)
    assert answer.status_code == 200
    found = ExportMetricsServiceResponse.FromString(answer.content)
    assert found.partial_success.rejected_data_points == 2


def test_a_request_sent_again_rejects_the_same_points(receiver: Server) -> None:
    """Every rejected point is named in the answer, also where the first answer was lost."""
    body = gauges(0, time.time_ns()).SerializeToString()
    first, again = (receiver.post(body, PROTOBUF) for _ in range(2))
    assert first.content == again.content


@pytest.mark.parametrize("body", [b"", b"\x0a\x00", b"\x0a\x02\x12\x00"])
def test_a_request_without_points(receiver: Server, body: bytes) -> None:
    """A request that holds no point is accepted."""
    answer = receiver.post(body, PROTOBUF)
    assert (answer.status_code, answer.content) == (200, b"")


# --- credentials ---------------------------------------------------------------------------------

USER, PASSWORD = "fluent", "s3cret:with:colons and ümlaut"


def basic(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants credentials."""
    env = {"RAYOTEL_USERNAME": USER, "RAYOTEL_PASSWORD": PASSWORD}
    with Server(tmp_path_factory.mktemp("closed") / "data", env=env) as running:
        yield running
        assert running.stop() == 0


WRONG = "a-wrong-passw0rd"
RIGHT = basic(USER, PASSWORD)
REFUSED_CREDENTIALS = [
    None,
    "",
    "Basic",
    "Basic !!!!",
    "Basic " + base64.b64encode(USER.encode()).decode(),
    basic(USER, WRONG),
    basic(USER, ""),
    basic("", PASSWORD),
    basic(USER.upper(), PASSWORD),
    basic(USER, PASSWORD + " "),
    basic(USER, PASSWORD[:-1]),
    RIGHT.replace("Basic", "Bearer"),
    RIGHT.removeprefix("Basic "),
    RIGHT + "AAAA",
]


@pytest.mark.parametrize("given", REFUSED_CREDENTIALS)
@pytest.mark.parametrize("kind", [PROTOBUF, JSON], ids=["protobuf", "json"])
def test_wrong_credentials(closed: Server, given: str | None, kind: Mapping[str, str]) -> None:
    """Whoever does not know user and password gets 401 and is told how to give them."""
    headers = {**kind, **({} if given is None else {"Authorization": given})}
    answer = closed.post(gauge_request(1), headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].lower().startswith("basic realm=")
    assert PASSWORD not in refusal(answer).message


@pytest.mark.parametrize("given", [RIGHT, RIGHT.replace("Basic", "basic"), RIGHT + "  "])
def test_right_credentials(closed: Server, given: str) -> None:
    """User and password as HTTP Basic says, whatever the case of the scheme."""
    headers = {**PROTOBUF, "Authorization": given.rstrip()}
    assert closed.post(gauge_request(1), headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "is_open"),
    [
        ("/api/v1/liveness", True),
        ("/api/v1/readiness", True),
        ("/api/v1/liveness/", False),
        ("/api/v1/about", False),
        ("/api/v1/openapi.json", False),
        ("/metrics", False),
        ("/v1/metrics", False),
        ("/nothing", False),
        ("/", False),
    ],
)
def test_what_is_open_without_credentials(closed: Server, path: str, is_open: bool) -> None:
    """Only liveness and readiness answer a stranger; with credentials everything does."""
    assert closed.get(path).status_code == (200 if is_open else 401)
    assert closed.get(path, headers={"Authorization": RIGHT}).status_code != 401


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
def test_a_large_body_of_a_stranger(closed: Server, connection: bytes) -> None:
    """A refused body is read away: who writes all of it before reading still gets the answer."""
    head = HEAD + b"Connection: " + connection + b"\r\nContent-Length: %d\r\n\r\n" % (20 * MIB)
    with socket.create_connection(("127.0.0.1", closed.port), WAIT_SECONDS) as client:
        client.sendall(head + bytes(20 * MIB))
        assert client.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_no_credentials_in_the_log(closed: Server) -> None:
    """Neither the password nor what anybody sent for it is ever in the server's log."""
    for given in (RIGHT, basic(USER, WRONG)):
        for body in (gauge_request(1), b"\xff", b"x" * (17 * MIB)):
            closed.post(body, {**PROTOBUF, "Authorization": given})
            closed.get("/metrics", headers={"Authorization": given})
    with socket.create_connection(("127.0.0.1", closed.port), WAIT_SECONDS) as connection:
        connection.sendall(f"BAD /metrics\r\nAuthorization: {RIGHT}\r\n\r\n".encode())
        assert connection.recv(65536)
    wait_until(lambda: "Invalid HTTP request" in closed.log())
    for secret in (PASSWORD, WRONG, RIGHT.split()[1], basic(USER, WRONG).split()[1]):
        assert secret not in closed.log()


# --- slow clients and many clients ---------------------------------------------------------------


@contextlib.contextmanager
def half_sent(server: Server) -> Iterator[socket.socket]:
    """A connection that has sent its headers and half a body, and then nothing."""
    body = gauge_request(1)
    with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        connection.sendall(body[: len(body) // 2])
        yield connection


@pytest.fixture(scope="module")
def slow_answer(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """What a slow client is answered, and after how many seconds."""
    env = {"RAYOTEL_BODY_TIMEOUT_SECONDS": "1"}
    with Server(tmp_path_factory.mktemp("slow") / "data", env=env) as running:
        started = time.monotonic()
        with half_sent(running) as connection:
            answer = connection.recv(65536)
        seconds = time.monotonic() - started
        assert running.post(gauge_request(1), PROTOBUF).status_code == 200
        return answer, seconds


def test_a_body_that_does_not_arrive(slow_answer: tuple[bytes, float]) -> None:
    """A client that stops in the middle of its body gets 503: a 4xx would lose its points."""
    head = slow_answer[0].partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 503 ")
    assert b"\r\nretry-after: " in head
    assert slow_answer[1] > 0.9


def test_more_connections_than_may_be_open(tmp_path: Path) -> None:
    """Beyond the bound on connections those make room that send nothing; every sender is served."""
    env = {"RAYOTEL_MAX_CONNECTIONS": "4"}
    with Server(tmp_path / "data", env=env) as running, contextlib.ExitStack() as stack:
        for _ in range(8):
            address = ("127.0.0.1", running.port)
            stack.enter_context(socket.create_connection(address, WAIT_SECONDS))
            assert running.post(gauge_request(1), PROTOBUF).status_code == 200
