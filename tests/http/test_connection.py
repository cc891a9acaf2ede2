"""What a connection reads is what h11 reads; requests on one connection are answered in order."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayotel.http.bodies import framing_of
from rayotel.http.heads import CHUNKED, MAX_HEAD_BYTES, Malformed, read_head
from rayotel.lake.storage.opening import open_storage
from support.harness import Server, ask, gauge_request

FLUENT_BIT = (
    b"POST /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Length: %d\r\n"
    b"User-Agent: Fluent-Bit\r\nContent-Type: application/x-protobuf\r\n"
    b"X-P-Stream: short\r\n\r\n"
)
WAIT_SECONDS = 60
Read = tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]], bytes]


def by_h11(data: bytes) -> Read | None:
    """Method, target, version, headers and body of the one request that bytes are, or None."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    body = b""
    try:
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            return None
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.EndOfMessage) or connection.trailing_data[0]:
        return None
    return request.method, request.target, request.http_version, list(request.headers), body


def by_us(data: bytes, step: int | None = None) -> Read | None:
    """The same by the connection's own readers; the body comes in pieces of `step` bytes."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end or len(head) + 4 > MAX_HEAD_BYTES:
        return None
    try:
        read = read_head(head)
        framing, body = framing_of(read.body_bytes), bytearray()
        step = step or len(rest) or 1
        for at in range(0, len(rest), step):
            if framing.is_whole or framing.feed(rest[at : at + step], body):
                return None
    except Malformed:
        return None
    if not framing.is_whole:
        return None
    return read.method, read.target, read.version, read.headers, bytes(body)


def agrees(data: bytes, step: int | None = None) -> bool:
    """Whether bytes are one whole request; if so, h11 must read the same in them."""
    found = by_us(data)
    assert by_us(data, step) == found
    if found is None:
        return False
    assert by_h11(data) == found
    return True


def test_what_fluent_bit_sends_is_read() -> None:
    """Also with a body that looks like a request, and one that is empty."""
    for body in (b"", b"x" * 5000, b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert agrees(FLUENT_BIT % len(body) + body, 7)


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked", b"Host: other", b"Content-Length: 3", b"Content-Length: 4",
        b" folded: line", b"\tfolded: line", b"no colon", b"na me: x", b"Name : x", b": x",
        b"X-A: a\x00b", b"X-A: a\rb", b"X-A: a\nb", b"", b"\xff: x", b"X-A: \x0b", b"X-A: \x7f",
        b"X-A: a\r\n b", b"Transfer-Encoding: identity", b"Transfer-Encoding:",
    ],
)  # fmt: skip
def test_what_could_be_read_in_two_ways_is_refused(line: bytes) -> None:
    """Whatever makes the end of a request doubtful, repeats or is malformed."""
    head = FLUENT_BIT.removesuffix(b"\r\n\r\n") % 3
    assert agrees(head + b"\r\n\r\nabc")
    assert not agrees(head + b"\r\n" + line + b"\r\n\r\nabc")


@pytest.mark.parametrize(
    "line",
    [
        b"Expect: 100-continue", b"Connection: close", b"Connection: keep-alive, x", b"X-A:",
        b"Upgrade: websocket", b"X-A:\t \xe9\tb  ", b"Content_Length: 99", b"X-A: 1\r\nX-A: 2",
    ],
)  # fmt: skip
def test_what_changes_no_framing_is_read(line: bytes) -> None:
    """Valid headers, also unusual ones."""
    head = FLUENT_BIT.removesuffix(b"\r\n\r\n") % 3
    assert agrees(head + b"\r\n" + line + b"\r\n\r\nabc", 1)


@pytest.mark.parametrize("cut", [-1, 1, 40])
def test_what_is_not_one_whole_request(cut: int) -> None:
    """A piece of a request, or more than one, is none."""
    data = FLUENT_BIT % 3 + b"abc"
    assert not agrees(data[:cut] if cut < 0 else data + data[:cut])


tokens = st.sampled_from(
    [b"Host", b"host", b"Content-Length", b"Transfer-Encoding", b"Accept", b"Connection", b"a b"]
) | st.binary(max_size=8)
values = st.sampled_from(
    [b"x", b"0", b"3", b"03", b"+3", b"3, 3", b" 3 ", b"\xe9", b"a\tb", b"", b"chunked", b"cHunked"]
)
fields = st.lists(st.tuples(tokens, values | st.binary(max_size=8)), max_size=6)
chunks = st.lists(
    st.sampled_from([b"3\r\nabc\r\n", b"0\r\n\r\n", b"03;a=b\r\nabc\r\n", b"0\r\nx: y\r\n\r\n"])
    | st.binary(max_size=5),
    max_size=4,
).map(b"".join)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([b"POST", b"post", b"GET"]),
    st.sampled_from([b"/v1/metrics", b"/v1/events?stream=%41", b"/\xff", b"/a b", b"*", b"//"]),
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"HTTP/1.2"]),
    fields,
    st.binary(max_size=5) | chunks,
    st.sampled_from([b"", b"Content-Length", b"Transfer-Encoding"]),
    st.integers(1, 9),
)
def test_h11_reads_the_same(
    method: bytes,
    target: bytes,
    version: bytes,
    pairs: list[tuple[bytes, bytes]],
    body: bytes,
    framed_by: bytes,
    step: int,
) -> None:
    """Whatever a request is made of: what is taken h11 takes too, and so."""
    if framed_by:
        length = b"%d" % len(body) if framed_by == b"Content-Length" else b"chunked"
        pairs = [*pairs, (b"Host", b"h"), (framed_by, length)]
    lines = [method + b" " + target + b" " + version, *(n + b":" + v for n, v in pairs)]
    agrees(b"\r\n".join(lines) + b"\r\n\r\n" + body, step)


CHUNKED_POST = (
    b"POST /v1/metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4\r\nbody\r\nA;x=y\r\n0123456789\r\n0\r\nX-T: a\r\n\r\n"
)


@settings(max_examples=1000, deadline=None)
@given(
    st.booleans(), st.integers(0, 300), st.binary(max_size=3), st.integers(0, 3), st.integers(1, 9)
)
def test_h11_reads_the_same_in_what_was_changed(
    is_chunked: bool, at: int, put: bytes, cut: int, step: int
) -> None:
    """Bytes of a real request replaced anywhere."""
    data = CHUNKED_POST if is_chunked else FLUENT_BIT % 4 + b"body"
    at %= len(data)
    agrees(data[:at] + put + data[at + cut :], step)


def test_a_request_in_chunks_is_read() -> None:
    """With extensions and trailers, whatever the pieces."""
    assert read_head(CHUNKED_POST.partition(b"\r\n\r\n")[0]).body_bytes == CHUNKED
    for step in range(1, 40):
        assert agrees(CHUNKED_POST, step)


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
