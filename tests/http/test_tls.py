"""HTTPS: certificates are proven before the port is, and crowds are bounded as without TLS."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from rayotel.errors import UsageError
from rayotel.http.certificate import Certificate
from support.connections import LIVENESS, POST, answer, connect, crowd, statuses, until_end
from support.harness import (
    PROTOBUF,
    RECORDING,
    Server,
    gauge_request,
    rayotel_process,
    wait_until,
)

PAIRS = Path(__file__).parent.parent / "support" / "tls"
LOCALHOST = PAIRS / "localhost.pem"
TRUSTING = ssl.create_default_context(cafile=str(LOCALHOST))


def settings_of(certificate: Path, key: Path) -> dict[str, str]:
    """The settings that name two files."""
    return {"RAYOTEL_TLS_CERTIFICATE": str(certificate), "RAYOTEL_TLS_KEY": str(key)}


OWN = settings_of(LOCALHOST, PAIRS / "localhost.key")


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a certificate, few connections and short deadlines."""
    env = {**OWN, "RAYOTEL_MAX_CONNECTIONS": "20", "RAYOTEL_HEAD_TIMEOUT_SECONDS": "2"}
    directory = tmp_path_factory.mktemp("tls")
    with Server(directory / "data", env=env, verify=TRUSTING) as running:
        yield running
        assert running.stop() == 0


def handshaken(server: Server, context: ssl.SSLContext = TRUSTING) -> ssl.SSLSocket:
    """A connection behind its handshake."""
    return context.wrap_socket(connect(server.port), server_hostname="localhost")


def test_requests_and_the_line_at_the_start(receiver: Server) -> None:
    """Whoever trusts the issuer reaches the server, at the address that it tells."""
    assert receiver.post(gauge_request(1), PROTOBUF).status_code == 200
    assert f"url={receiver.url} " in receiver.log()
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{receiver.url}/api/v1/liveness", trust_env=False)


def test_requests_on_one_connection_in_order(receiver: Server) -> None:
    """Kept, ahead of their turn and in pieces, as without TLS."""
    body = gauge_request(1)
    whole = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with handshaken(receiver) as sock:
        sock.sendall(LIVENESS + whole)
        assert statuses(answer(sock)) == [200]
        sock.sendall(whole[:50])
        sock.sendall(whole[50:])
        sock.sendall(POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert statuses(until_end(sock))[-1] == 400


def test_old_versions_are_refused(receiver: Server) -> None:
    """Below TLS 1.2 there is no handshake."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError, match=r"(?i)ssl|reset"), handshaken(receiver, old):
        pass


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"])
def test_a_handshake_that_does_not_end(receiver: Server, sent: bytes) -> None:
    """Has the deadline of a head."""
    with connect(receiver.port) as sock:
        sock.sendall(sent)
        until_end(sock)


def test_who_speaks_no_tls_is_cut_off(receiver: Server) -> None:
    """A plain request gets no plain answer."""
    with connect(receiver.port) as sock:
        sock.sendall(LIVENESS)
        assert b"HTTP/1.1 200" not in until_end(sock)


@pytest.mark.parametrize("sent", [(), (b"\x16\x03\x01",), (LIVENESS,)])
def test_a_crowd_before_its_handshake(receiver: Server, sent: tuple[bytes, ...]) -> None:
    """Whoever has done a handshake and asked is served, however many others have not."""
    with handshaken(receiver) as kept:
        kept.sendall(LIVENESS)
        assert statuses(answer(kept)) == [200]
        with crowd(receiver.port, 200, *sent):
            assert receiver.get("/api/v1/liveness").status_code == 200
            kept.sendall(LIVENESS)
            assert statuses(answer(kept)) == [200]


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("missing.pem", "localhost.key", "cannot read the file of 'tls_certificate'"),
        ("localhost.pem", "missing.key", "cannot read the file of 'tls_key'"),
        ("localhost.pem", "renewed.key", "is not that of"),
        ("localhost.pem", "encrypted.key", "is encrypted"),
        ("localhost.pem", "localhost.pem", "no certificate with its key"),
        ("localhost.key", "localhost.key", "no certificate with its key"),
        ("../harness.py", "localhost.key", "is not PEM"),
        (".", "localhost.key", "cannot read the file of 'tls_certificate'"),
    ],
)
def test_a_pair_that_is_none(certificate: str, key: str, words: str) -> None:
    """Is an error that names the setting, says what to do, and shows no path."""
    with pytest.raises(UsageError, match=words) as caught:
        Certificate(PAIRS / certificate, PAIRS / key)
    assert caught.value.hint
    assert str(PAIRS) not in caught.value.message


def test_certificates_are_proven_before_the_port(tmp_path: Path) -> None:
    """A wrong key is told where the port is taken too; one setting alone is none."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        arguments = ("serve", "--port", port, "--data-dir", str(tmp_path / "data"))
        wrong = settings_of(LOCALHOST, PAIRS / "renewed.key")
        for env, words in (
            (wrong, "is not that of"),
            ({"RAYOTEL_TLS_KEY": "x"}, "must be set together"),
            ({"RAYOTEL_TLS_CERTIFICATE": "x"}, "must be set together"),
        ):
            ended = rayotel_process(*arguments, env=env)
            assert (ended.returncode, words in ended.stderr) == (2, True), ended.stderr


def test_an_expired_certificate_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The clients decide; the server says it."""
    expired = Certificate(PAIRS / "expired.pem", PAIRS / "localhost.key")
    assert expired.expires == datetime(2020, 2, 1, tzinfo=UTC)
    assert "has expired" in caplog.text
    caplog.clear()
    assert Certificate(LOCALHOST, PAIRS / "localhost.key").expires is not None
    assert not caplog.text


def test_a_renewed_certificate_is_used(tmp_path: Path) -> None:
    """Files are looked at now and then, and at SIGHUP; half of a pair changes nothing."""
    shutil.copy(LOCALHOST, tmp_path / "c.pem")
    shutil.copy(PAIRS / "localhost.key", tmp_path / "c.key")
    found = Certificate(tmp_path / "c.pem", tmp_path / "c.key")
    first = found.context
    found.renew()
    assert found.context is first
    shutil.copy(PAIRS / "renewed.pem", tmp_path / "c.pem")
    for _ in range(2):
        found.renew()
        assert found.context is first
    shutil.copy(PAIRS / "renewed.key", tmp_path / "c.key")
    found.renew()
    assert found.context is not first
    assert found.expires == datetime(2049, 12, 31, tzinfo=UTC)


def test_a_running_server_takes_the_renewed_one(tmp_path: Path) -> None:
    """At SIGHUP, without a restart."""
    shutil.copy(LOCALHOST, tmp_path / "c.pem")
    shutil.copy(PAIRS / "localhost.key", tmp_path / "c.key")
    env = settings_of(tmp_path / "c.pem", tmp_path / "c.key")
    with Server(tmp_path / "data", env=env, verify=TRUSTING) as server:
        shutil.copy(PAIRS / "renewed.key", tmp_path / "c.key")
        shutil.copy(PAIRS / "renewed.pem", tmp_path / "c.pem")
        os.kill(server.pid, signal.SIGHUP)
        renewed = ssl.create_default_context(cafile=str(PAIRS / "renewed.pem"))

        def is_renewed() -> bool:
            try:
                handshaken(server, renewed).close()
            except ssl.SSLCertVerificationError:
                time.sleep(0.2)
                return False
            return True

        wait_until(is_renewed)
        assert "the TLS certificate was renewed" in server.log()


def test_replay_over_tls(tmp_path: Path) -> None:
    """`SSL_CERT_FILE` names the issuer's certificate."""
    with Server(tmp_path / "data", env=OWN, verify=TRUSTING) as server:
        arguments = ("replay", str(RECORDING), "--url", server.url, "--speed", "max")
        ended = rayotel_process(*arguments, env={"SSL_CERT_FILE": str(LOCALHOST)})
        assert ended.returncode == 0, ended.stderr
        assert "answered 200" in ended.stderr
