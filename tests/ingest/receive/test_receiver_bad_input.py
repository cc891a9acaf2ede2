"""Whatever is sent to the receiver gets a right answer, and the server goes on."""

from __future__ import annotations

import gzip
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from rayotel.replay import Recording
from support.harness import JSON, PROTOBUF, WAIT_SECONDS, Server, gauge_request
from support.otlp_reference import gauges
from support.receiver_answers import assert_judged, counted, few, refusal

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all; at the end it must have come to no surprise."""
    with Server(tmp_path_factory.mktemp("bad") / "data") as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log()


# --- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/protobuf", "application/grpc", "x-protobuf", "*/*", ";"],
)
def test_content_types_that_are_not_otlp(receiver: Server, content_type: str) -> None:
    """A body that is not said to be OTLP is refused with 415."""
    answer = receiver.post(gauge_request(1), {"Content-Type": content_type})
    assert answer.status_code == 415
    assert "application/x-protobuf" in refusal(answer).message


def test_no_content_type(receiver: Server) -> None:
    """A body without a content type is refused with 415."""
    assert receiver.post(gauge_request(1), {}).status_code == 415


@pytest.mark.parametrize("sent", ["Application/X-Protobuf", "application/x-protobuf; v=1"])
def test_content_types_are_read_as_http_says(receiver: Server, sent: str) -> None:
    """Case and parameters of a content type do not matter."""
    assert receiver.post(gauge_request(1), {"Content-Type": sent}).status_code == 200


@pytest.mark.parametrize("encoding", ["br", "snappy", "gzip, gzip", "gzip,zstd", "x", "gzip;q=1"])
@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
def test_encodings_that_are_not_known(
    receiver: Server, encoding: str, kind: Mapping[str, str]
) -> None:
    """A body in an encoding that is not known is refused with 415, which names those that are."""
    answer = receiver.post(gzip.compress(b""), {**kind, "Content-Encoding": encoding})
    assert answer.status_code == 415
    assert "zstd" in refusal(answer).message


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "a.b", "a%20b", "ä", "a\tb", "x" * 101])
def test_names_that_are_no_stream(receiver: Server, name: str) -> None:
    """A stream is named by 1 to 100 letters, digits, '_' and '-'; all else is refused."""
    headers = [(b"Content-Type", b"application/x-protobuf"), (b"X-P-Stream", name.encode())]
    answer = receiver.request("POST", content=gauge_request(1), headers=headers)
    assert answer.status_code == 400
    assert "X-P-Stream" in refusal(answer).message


@pytest.mark.parametrize("name", ["x", "x" * 100, "-", "A_z-09"])
def test_names_that_are_a_stream(receiver: Server, name: str) -> None:
    """The longest name, and every character that may be in one, is accepted."""
    answer = receiver.post(gauge_request(1), {**PROTOBUF, "X-P-Stream": name})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({f"X-P-{number}": "x" for number in range(10)}, 200),
        ({f"X-P-{number}": "x" for number in range(11)}, 400),
        ({"X-P-Env": "x" * 100}, 200),
        ({"X-P-Env": "x" * 101}, 400),
        ({"X-P-": "x"}, 400),
        ({"X-P-Log-Source": "x" * 101}, 200),
    ],
)
def test_bounds_of_header_columns(receiver: Server, headers: dict[str, str], status: int) -> None:
    """Ten X-P-* headers of 100 bytes are columns; beyond that a request is refused."""
    answer = receiver.post(gauge_request(1), {**PROTOBUF, **headers})
    assert answer.status_code == status
    if status != 200:
        refusal(answer)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_methods_that_are_not_post(receiver: Server, method: str) -> None:
    """Metrics are posted; any other method is refused with 405."""
    answer = receiver.request(method)
    assert answer.status_code == 405
    refusal(answer)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/metricsx", "//v1/metrics", "/v1/metrics%00"])
@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
def test_paths_that_are_not_there(receiver: Server, path: str, kind: Mapping[str, str]) -> None:
    """A path that is not served is refused with 404, whatever stands behind it."""
    answer = receiver.post(gauge_request(1), kind, path=path)
    assert answer.status_code == 404
    refusal(answer)


def test_a_refused_method_says_which_are_allowed(receiver: Server) -> None:
    """HTTP wants the allowed methods beside every 405."""
    assert receiver.get("/v1/metrics").headers.get("allow") == "POST"


HEAD = b"POST /v1/metrics HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/metrics HTTP/1.1\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: \xb2\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/metrics HTTP/1.1\r\n" + b"x" * 100_000,
    ],
)
def test_what_is_not_http(receiver: Server, sent: bytes) -> None:
    """A connection that does not speak HTTP is answered 400 and closed."""
    with socket.create_connection(("127.0.0.1", receiver.port), WAIT_SECONDS) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")


# --- bodies --------------------------------------------------------------------------------------


def deflated(body: bytes) -> bytes:
    """Deflate without the zlib header."""
    codec = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return codec.compress(body) + codec.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "deflate": zlib.compress,
    "deflate, raw": deflated,
}


def encoded(how: str) -> dict[str, str]:
    """Headers of an encoded protobuf body."""
    return {**PROTOBUF, "Content-Encoding": how.partition(",")[0]}


@pytest.fixture(scope="module")
def recorded(recording: Recording) -> bytes:
    """The smallest request of the recorded cluster, without encoding."""
    return min((one.plain_body() for one in recording.requests), key=len)


@few
@given(data=st.data())
def test_recorded_bodies_cut_short(receiver: Server, recorded: bytes, data: st.DataObject) -> None:
    """A body that ends too early is refused, or is a whole smaller message."""
    length = data.draw(st.integers(0, len(recorded) - 1))
    assert_judged(receiver.post(recorded[:length], PROTOBUF))
    how = data.draw(st.sampled_from(sorted(ENCODERS)))
    body = ENCODERS[how](recorded)
    cut = data.draw(st.integers(0, len(body) - 1))
    answer = receiver.post(body[:cut], encoded(how))
    assert answer.status_code == 400
    refusal(answer)


@few
@given(data=st.data())
def test_recorded_bodies_with_a_wrong_byte(
    receiver: Server, recorded: bytes, data: st.DataObject
) -> None:
    """A wrong byte anywhere, plain or encoded, never makes the server fail."""
    how = data.draw(st.sampled_from(["", *sorted(ENCODERS)]))
    body = bytearray(ENCODERS[how](recorded) if how else recorded)
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    assert_judged(receiver.post(bytes(body), encoded(how) if how else PROTOBUF))


@few
@given(body=st.binary(max_size=200), how=st.sampled_from(["", *sorted(ENCODERS)]))
@pytest.mark.parametrize("kind", [PROTOBUF, JSON], ids=["protobuf", "json"])
def test_random_bodies(receiver: Server, kind: Mapping[str, str], body: bytes, how: str) -> None:
    """Bytes without meaning are judged, said to be whatever they are."""
    headers = {**kind, "Content-Encoding": how.partition(",")[0]} if how else kind
    assert_judged(receiver.post(body, headers))
    if how:
        assert_judged(receiver.post(ENCODERS[how](body), headers))


@few
@given(suffix=st.binary(min_size=1, max_size=20), how=st.sampled_from(sorted(ENCODERS)))
def test_garbage_behind_an_encoded_body(receiver: Server, suffix: bytes, how: str) -> None:
    """What follows the end of an encoded body and is not more of it is refused."""
    answer = receiver.post(ENCODERS[how](gauge_request(1)) + b"\xff" + suffix, encoded(how))
    assert answer.status_code == 400
    assert how.partition(",")[0] in refusal(answer).message


@pytest.mark.parametrize("how", sorted(ENCODERS))
@pytest.mark.parametrize("kind", [PROTOBUF, JSON], ids=["protobuf", "json"])
def test_bombs(receiver: Server, how: str, kind: Mapping[str, str]) -> None:
    """A small body that inflates beyond the bound is refused with 413."""
    bomb = ENCODERS[how](bytes(65 * MIB))
    for content in (bomb, bomb * 2 if how in ("gzip", "zstd") else bomb):
        answer = receiver.post(content, {**kind, "Content-Encoding": how.partition(",")[0]})
        assert answer.status_code == 413
        assert "RAYOTEL_MAX_INFLATED_BODY_BYTES" in refusal(answer).message


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
@pytest.mark.parametrize("kind", [PROTOBUF, JSON], ids=["protobuf", "json"])
def test_bodies_larger_than_the_bound(
    receiver: Server, chunked: bool, kind: Mapping[str, str]
) -> None:
    """A body beyond the bound is refused with 413, whether or not its length was announced."""
    piece = bytes(MIB)
    content: Any = iter([piece] * 17) if chunked else piece * 17
    answer = receiver.post(content, kind)
    assert ("content-length" in answer.request.headers) != chunked
    assert answer.status_code == 413
    assert "RAYOTEL_MAX_COMPRESSED_BODY_BYTES" in refusal(answer).message


def test_after_all_of_it_the_server_is_well(receiver: Server) -> None:
    """Nothing that came before is still held, good points are taken and bad ones counted."""
    answer = receiver.post(gauges(0, time.time_ns()).SerializeToString(), PROTOBUF)
    assert answer.status_code == 200
    found = ExportMetricsServiceResponse.FromString(answer.content)
    assert found.partial_success.rejected_data_points == 1
    counts = counted(receiver, "rayotel_points_rejected_total")
    assert counts['reason="time_unix_nano is missing"'] >= 1
    assert counted(receiver, "rayotel_bytes_in_flight") == {"": 0}
    by_path: dict[str, set[int]] = {}
    for labels in counted(receiver, "rayotel_requests_total"):
        found_labels = re.fullmatch(r'path="(.*)",status="(\d+)"', labels)
        assert found_labels
        by_path.setdefault(found_labels[1], set()).add(int(found_labels[2]))
    assert by_path["/v1/metrics"] >= {200, 400, 405, 413, 415}
    assert by_path["/metrics"] == {200}
    assert by_path["other"] == {404}
    assert all(status != 500 for found in by_path.values() for status in found)
