"""A request ends in one place for every reader; what is doubtful ends its connection.

Behind each refused request comes a whole one on the same connection, which must not be answered: a
server before this one may have taken it for a part of the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.connections import LIVENESS, POST, connect, statuses, until_end
from support.harness import PROTOBUF, Server, gauge_request, wait_until
from support.receiver_answers import counted

CHUNKED = b"Transfer-Encoding: chunked\r\n"
EMPTY_CHUNKS = b"\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all of them."""
    with Server(tmp_path_factory.mktemp("framing") / "data") as running:
        yield running
        assert running.post(gauge_request(1), PROTOBUF).status_code == 200
        assert running.stop() == 0


DOUBTFUL = {
    # CL.TE, TE.CL and their disguises
    "both": POST + b"Content-Length: 5\r\n" + CHUNKED + EMPTY_CHUNKS,
    "both, other order": POST + CHUNKED + b"Content-Length: 5\r\n" + EMPTY_CHUNKS,
    "both, length of 0": POST + b"Content-Length: 0\r\n" + CHUNKED + EMPTY_CHUNKS,
    "both, in other cases": POST + b"CONTENT-LENGTH:5\r\n" + CHUNKED.swapcase() + EMPTY_CHUNKS,
    "two codings": POST + CHUNKED + b"Transfer-Encoding: identity\r\n" + EMPTY_CHUNKS,
    "chunked twice": POST + CHUNKED + CHUNKED + EMPTY_CHUNKS,
    "chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n" + EMPTY_CHUNKS,
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n" + EMPTY_CHUNKS,
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n" + EMPTY_CHUNKS,
    "identity": POST + b"Transfer-Encoding: identity\r\n" + EMPTY_CHUNKS,
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n" + EMPTY_CHUNKS,
    "quoted": POST + b'Transfer-Encoding: "chunked"\r\n' + EMPTY_CHUNKS,
    "no coding": POST + b"Transfer-Encoding:\r\n" + EMPTY_CHUNKS,
    "vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n" + EMPTY_CHUNKS,
    "blank before the colon": POST + b"Transfer-Encoding : chunked\r\n" + EMPTY_CHUNKS,
    "tab before the colon": POST + b"Transfer-Encoding\t: chunked\r\n" + EMPTY_CHUNKS,
    "blank before the name": POST + b" Transfer-Encoding: chunked\r\n" + EMPTY_CHUNKS,
    "folded": POST + b"Transfer-Encoding:\r\n chunked\r\n" + EMPTY_CHUNKS,
    "folded later": POST + b"X: y\r\n\tTransfer-Encoding: chunked\r\n" + EMPTY_CHUNKS,
    "hidden behind CR": POST + b"X: y\rTransfer-Encoding: chunked\r\n" + EMPTY_CHUNKS,
    "hidden behind LF": POST + b"X: y\nTransfer-Encoding: chunked\r\n" + EMPTY_CHUNKS,
    "in HTTP/1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + EMPTY_CHUNKS,
    # lengths
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "one length twice": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "a list of lengths": POST + b"Content-Length: 1, 2\r\n\r\nxx",
    "a list of one length": POST + b"Content-Length: 1, 1\r\n\r\nx",
    "plus": POST + b"Content-Length: +1\r\n\r\nx",
    "minus": POST + b"Content-Length: -1\r\n\r\nx",
    "hexadecimal": POST + b"Content-Length: 0x1\r\n\r\nx",
    "underscores": POST + b"Content-Length: 1_0\r\n\r\n0123456789",
    "blank inside": POST + b"Content-Length: 1 0\r\n\r\n0123456789",
    "fraction": POST + b"Content-Length: 1.0\r\n\r\nx",
    "empty": POST + b"Content-Length:\r\n\r\n",
    "other digits": POST + b"Content-Length: \xd9\xa1\r\n\r\nx",
    "huge": POST + b"Content-Length: %d\r\n\r\nx" % 2**64,
    "endless": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx",
    # lines and fields
    "line ends of LF": POST.replace(b"\r\n", b"\n") + b"\n",
    "line ends of CR": POST.replace(b"\r\n", b"\r") + b"\r\r\n\r\n",
    "empty line before": b"\n" + POST + b"\r\n",
    "NUL in a value": POST + b"X: a\x00b\r\n\r\n",
    "NUL in a name": POST + b"X\x00: a\r\n\r\n",
    "no colon": POST + b"Content-Length\r\n\r\n",
    "no name": POST + b": 5\r\n\r\n",
    "brackets in a name": POST + b"X(a): b\r\n\r\n",
    "non-ASCII name": POST + b"Content-Length\xa0: 1\r\n\r\nx",
    "no host": b"GET /api/v1/liveness HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /api/v1/liveness HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "a host with a path": b"GET /api/v1/liveness HTTP/1.1\r\nHost: x/y\r\n\r\n",
    # request lines
    "no version": b"GET /api/v1/liveness\r\nHost: x\r\n\r\n",
    "two blanks": b"GET  /api/v1/liveness HTTP/1.1\r\nHost: x\r\n\r\n",
    "a blank in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a blank at the end": b"GET /api/v1/liveness HTTP/1.1 \r\nHost: x\r\n\r\n",
    "a tab": b"GET\t/api/v1/liveness\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "lower case": b"GET /api/v1/liveness http/1.1\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /api/v1/liveness HTTP/0.9\r\nHost: x\r\n\r\n",
    "HTTP/1.10": b"GET /api/v1/liveness HTTP/1.10\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "non-ASCII target": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "no method": b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    # chunks
    "a chunk that is too long": POST + CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n",
    "a chunk without a size": POST + CHUNKED + b"\r\n\r\nabc\r\n0\r\n\r\n",
    "a size with a sign": POST + CHUNKED + b"\r\n+3\r\nabc\r\n0\r\n\r\n",
    "a size in 0x": POST + CHUNKED + b"\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "a size with an underscore": POST + CHUNKED + b"\r\n0_3\r\nabc\r\n0\r\n\r\n",
    "a size of 2^64": POST + CHUNKED + b"\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
    "a blank behind a size": POST + CHUNKED + b"\r\n3 \r\nabc\r\n0\r\n\r\n",
    "a chunk line of LF": POST + CHUNKED + b"\r\n3\nabc\r\n0\r\n\r\n",
    "a chunk ended by LF": POST + CHUNKED + b"\r\n3\r\nabc\n0\r\n\r\n",
    "CR in an extension": POST + CHUNKED + b"\r\n3;a\rb\r\nabc\r\n0\r\n\r\n",
    "LF in an extension": POST + CHUNKED + b"\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
    "a long extension": POST + CHUNKED + b"\r\n3;" + b"a" * 1000 + b"\r\nabc\r\n0\r\n\r\n",
    "many extensions": POST + CHUNKED + b"\r\n" + (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 100,
    "many trailers": POST + CHUNKED + b"\r\n0\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    "a long trailer": POST + CHUNKED + b"\r\n0\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
    "a folded trailer": POST + CHUNKED + b"\r\n0\r\nX: y\r\n z\r\n\r\n",
    "a trailer of LF": POST + CHUNKED + b"\r\n0\r\nX: y\n\r\n",
    # floods, and what speaks something else
    "many fields": POST + b"X: y\r\n" * 1000 + b"\r\n",
    "a long field": POST + b"X: " + b"y" * 20_000 + b"\r\n\r\n",
    "a long target": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long method": b"G" * 20_000 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an endless line": b"G" * 20_000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("request_", DOUBTFUL.values(), ids=list(DOUBTFUL))
def test_what_is_doubtful_ends_the_connection(receiver: Server, request_: bytes) -> None:
    """It is answered once, by 400, and nothing behind it is read."""
    with connect(receiver.port) as sock:
        sock.sendall(request_ + LIVENESS)
        answers = until_end(sock)
    assert statuses(answers) == [400]
    assert b"connection: close" in answers


@pytest.mark.parametrize(
    "start",
    [b"\x16", b"GET /x\n", b"GET / HTTP/1.1\r\nX: a\x00", b" GET", b"GET / HTTP/1.1\r\nX: a\rb"],
)
def test_what_is_no_head_is_told_before_its_end(receiver: Server, start: bytes) -> None:
    """A client that speaks something else does not wait for a deadline."""
    with connect(receiver.port) as sock:
        sock.sendall(start)
        assert statuses(until_end(sock)) == [400]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (LIVENESS.replace(b"1.1", b"1.0"), [200]),  # and the connection ends
        (LIVENESS.replace(b"1.1", b"1.0").replace(b"Host: x\r\n", b""), [200]),
        (LIVENESS.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive, Close\r\n\r\n"), [200]),
        (LIVENESS.replace(b"GET", b"BREW"), [405, 200]),
        (LIVENESS.replace(b"GET", b"M" * 5000), [405, 200]),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", [404, 200]),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404, 200]),
        (b"GET /%00%ff/../..//;a=b?%zz#x HTTP/1.1\r\nHost: x\r\n\r\n", [404, 200]),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", [404, 200]),
        (POST + b"Content-Length: 1\r\n\r\nx", [400, 200]),
        (POST + CHUNKED + b"\r\n1;a=b\r\nx\r\n0\r\nX: y\r\n\r\n", [400, 200]),
        (POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx", [400, 200]),
        (LIVENESS.replace(b"GET", b"HEAD"), [405, 200]),
        *(
            (LIVENESS[:-2] + b"Connection: Upgrade\r\nUpgrade: " + what + b"\r\n\r\n", [200, 200])
            for what in (b"h2c\r\nHTTP2-Settings: AAMAAABk", b"websocket", b"TLS/1.3")
        ),
    ],
)
def test_what_is_unusual_is_answered(
    receiver: Server, request_: bytes, expected: list[int]
) -> None:
    """And the next request on the connection too, where there may be one."""
    with connect(receiver.port) as sock:
        sock.sendall(request_ + LIVENESS)
        sock.shutdown(1)
        assert statuses(until_end(sock)) == expected


def test_who_has_sent_all_and_still_reads_is_answered(receiver: Server) -> None:
    """A client may end its side behind a request; behind half of one nothing is stored."""
    body = gauge_request(1)
    with connect(receiver.port) as sock:
        sock.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        sock.shutdown(1)
        assert statuses(until_end(sock)) == [200]
    with connect(receiver.port) as sock:
        sock.sendall(POST + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body)
        sock.shutdown(1)
        assert statuses(until_end(sock)) == [503]


def test_who_waits_for_100_gets_it(receiver: Server) -> None:
    """Before it has sent a byte of the body, and only then."""
    body = gauge_request(1)
    head = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(receiver.port) as sock:
        sock.sendall(head)
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        sock.shutdown(1)
        assert statuses(until_end(sock)) == [200]


def test_what_is_refused_is_counted_and_told_once(receiver: Server) -> None:
    """Each by its reason; the log has a line a minute."""
    for _ in range(3):
        with connect(receiver.port) as sock:
            sock.sendall(DOUBTFUL["both"])
            until_end(sock)
    name = 'reason="both content-length and transfer-encoding"'
    wait_until(lambda: counted(receiver, "rayotel_requests_malformed_total").get(name, 0) >= 3)
    assert 0 < receiver.log().count("Invalid HTTP request") < 10
