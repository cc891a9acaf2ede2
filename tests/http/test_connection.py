"""The short way of a connection: what goes it is read as h11 reads it, and is answered in order."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayotel.http.connection import whole_post
from rayotel.lake.storage.opening import open_storage
from support.harness import Server, ask, gauge_request

FLUENT_BIT = (
    b"POST /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Length: %d\r\n"
    b"User-Agent: Fluent-Bit\r\nContent-Type: application/x-protobuf\r\n"
    b"X-P-Stream: short\r\n\r\n"
)
WAIT_SECONDS = 60


def by_h11(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes] | None:
    """Target, headers and body of the one request that bytes are; None for anything else."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        request = connection.next_event()
        if not isinstance(request, h11.Request) or request.method != b"POST":
            return None
        body = b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.EndOfMessage) or connection.trailing_data[0]:
        return None
    return request.target, list(request.headers), body


def agrees(data: bytes) -> bool:
    """Whether bytes go the short way; if so, h11 must read the same in them."""
    post = whole_post(data)
    if post is None:
        return False
    assert by_h11(data) == (post.target, post.headers, post.body)
    return True


def test_what_fluent_bit_sends_goes_the_short_way() -> None:
    """Also with a body that looks like a request, and one that is empty."""
    for body in (b"", b"x" * 5000, b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert agrees(FLUENT_BIT % len(body) + body)


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Connection: close",
        b"Connection: keep-alive", b"Upgrade: websocket", b"Host: other", b"Content-Length: 3",
        b" folded: line", b"no colon", b"na me: x", b"Name : x", b"X-A: a\x00b", b"X-A: a\rb",
        b"", b"\xff: x", b"X-A: \x0b",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_h11(line: bytes) -> None:
    """Whatever changes the framing, repeats or is malformed never goes the short way."""
    head = FLUENT_BIT.removesuffix(b"\r\n\r\n") % 3
    assert agrees(head + b"\r\n\r\nabc")
    assert not agrees(head + b"\r\n" + line + b"\r\n\r\nabc")


@pytest.mark.parametrize("cut", [-1, 1, 40])
def test_what_is_not_whole_is_left_to_h11(cut: int) -> None:
    """A piece of a request, or more than one, is none."""
    data = FLUENT_BIT % 3 + b"abc"
    assert not agrees(data[:cut] if cut < 0 else data + data[:cut])


tokens = st.sampled_from(
    [b"Host", b"host", b"Content-Length", b"X-P-Stream", b"Accept", b"Connection", b"TE", b"a b"]
) | st.binary(max_size=8)
values = st.sampled_from([b"x", b"0", b"3", b"03", b"+3", b"3, 3", b" 3 ", b"\xe9", b"a\tb", b""])
fields = st.lists(st.tuples(tokens, values | st.binary(max_size=8)), max_size=6)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([b"POST", b"post", b"GET"]),
    st.sampled_from([b"/v1/metrics", b"/v1/events?stream=%41", b"/\xff", b"/a b", b"*", b"//"]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2"]),
    fields,
    st.binary(max_size=5),
    st.booleans(),
)
def test_h11_reads_the_same(
    method: bytes,
    target: bytes,
    version: bytes,
    pairs: list[tuple[bytes, bytes]],
    body: bytes,
    is_sound: bool,
) -> None:
    """Whatever the head is made of, the short way takes only what h11 takes, and so."""
    if is_sound:
        pairs = [*pairs, (b"Host", b"h"), (b"Content-Length", b"%d" % len(body))]
    lines = [method + b" " + target + b" " + version, *(n + b":" + v for n, v in pairs)]
    agrees(b"\r\n".join(lines) + b"\r\n\r\n" + body)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 200), st.binary(max_size=3), st.integers(0, 3))
def test_h11_reads_the_same_in_what_was_changed(at: int, put: bytes, cut: int) -> None:
    """Bytes of a real request replaced anywhere."""
    data = FLUENT_BIT % 4 + b"body"
    at %= len(data)
    agrees(data[:at] + put + data[at + cut :])


@pytest.fixture
def connected(server: Server) -> Iterator[socket.socket]:
    """A connection to a server."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def statuses(sock: socket.socket, count: int) -> list[int]:
    """The statuses of the next answers, all of which are read to their end."""
    found: list[int] = []
    client = h11.Connection(h11.CLIENT)
    while len(found) < count:
        if client.our_state is h11.IDLE:
            client.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
            client.send(h11.EndOfMessage())
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(sock.recv(65536))
        elif isinstance(event, h11.Response):
            found.append(event.status_code)
        elif isinstance(event, h11.EndOfMessage):
            rest = client.trailing_data[0]
            client = h11.Connection(h11.CLIENT)
            client.receive_data(rest) if rest else None
    return found


def request(number: int) -> bytes:
    """A whole request of one point."""
    body = gauge_request(float(number), time_unix_nano=time.time_ns() + number)
    return FLUENT_BIT % len(body) + body


def test_requests_on_one_connection_are_answered_in_order(
    server: Server, connected: socket.socket
) -> None:
    """One after another, before the answer, many at once, in pieces and chunked: all are stored."""
    connected.sendall(request(0))
    assert statuses(connected, 1) == [200]
    for number in (1, 2, 3):  # each is a piece of its own, and none waits for an answer
        connected.sendall(request(number))
    assert statuses(connected, 3) == [200] * 3
    connected.sendall(b"".join(map(request, (4, 5, 6))))
    assert statuses(connected, 3) == [200] * 3
    whole = request(7)
    for piece in (whole[:30], whole[30:200], whole[200:]):
        connected.sendall(piece)
        time.sleep(0.05)
    body = gauge_request(8.0)
    chunked = re.sub(rb"Content-Length: %d", b"Transfer-Encoding: chunked", FLUENT_BIT)
    connected.sendall(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    bad = FLUENT_BIT % 3 + b"abc"
    connected.sendall(bad)
    connected.sendall(request(9))
    assert statuses(connected, 4) == [200, 200, 400, 200]
    assert server.stop() == 0
    lake = open_storage(str(server.data_dir / "lake"))
    (row,) = ask(lake, "SELECT list(data_point_value ORDER BY data_point_value) AS v FROM short")
    assert row["v"] == [float(number) for number in range(10)]


def test_an_answer_before_the_end_closes_the_connection(
    server: Server, connected: socket.socket
) -> None:
    """A server that stops answers what it has and says that it closes."""
    connected.sendall(request(0))
    assert statuses(connected, 1) == [200]
    assert server.stop() == 0
    assert connected.recv(10) == b""
