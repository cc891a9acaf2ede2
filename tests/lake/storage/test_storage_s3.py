"""Storage in a bucket of S3: what can go wrong, and which error says so without secrets."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rayotel.errors import (
    StorageDenied,
    StorageError,
    StorageMissing,
    StorageUnavailable,
    UsageError,
)
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from support.harness import S3_KEY_ID, S3_SECRET, free_port, s3_server

OPERATIONS: tuple[Callable[[Storage], object], ...] = (
    lambda storage: storage.put("a/b", memoryview(b"x")),
    lambda storage: storage.read("a/b"),
    lambda storage: list(storage.objects("a/")),
    lambda storage: storage.folders(""),
    lambda storage: storage.delete("a/b"),
)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real S3 server with the bucket `shared`: its URL and the directory of its buckets."""
    directory = tmp_path_factory.mktemp("s3")
    (directory / "shared").mkdir()
    with s3_server(directory) as url:
        yield url, directory


def keys(storage: Storage) -> list[str]:
    """The keys of all objects, sorted."""
    return sorted(item.key for item in storage.objects(""))


def errors_of_all(storage: Storage) -> Iterator[StorageError]:
    """The error of every operation; fails for one that does not fail."""
    for operate in OPERATIONS:
        with pytest.raises(StorageError) as raised:
            operate(storage)
        yield raised.value


def test_lakes_in_one_bucket_do_not_see_each_other(s3: tuple[str, Path]) -> None:
    """A lake at `s3://bucket/p` is no part of one at `s3://bucket/p2`."""
    lakes = ("s3://shared", "s3://shared/p", "s3://shared/p2/")
    whole, one, other = (open_storage(lake, s3_endpoint=s3[0]) for lake in lakes)
    one.put("s/a", memoryview(b"x"))
    other.put("s/b", memoryview(b"x"))
    assert (keys(one), keys(other)) == (["s/a"], ["s/b"])
    assert (keys(whole), whole.folders("p/")) == (["p/s/a", "p2/s/b"], ["s"])
    assert (whole.url, one.url) == ("s3://shared", "s3://shared/p")


def test_a_bucket_that_is_not_there_is_missing(s3: tuple[str, Path]) -> None:
    """Every operation says so; none makes a bucket."""
    url, directory = s3
    for error in errors_of_all(open_storage("s3://no-such-bucket/p", s3_endpoint=url)):
        assert type(error) is StorageMissing
        assert "NoSuchBucket" in error.message
    assert not (directory / "no-such-bucket").exists()


def assert_no_secrets(error: StorageError, *secrets: str) -> None:
    """Neither the words, nor the hint, nor what Python prints of it and its causes."""
    printed = "".join(traceback.format_exception(error)) + repr(error) + str(error.hint)
    for secret in secrets:
        assert secret not in printed


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_denied_and_never_shown(
    s3: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """StorageDenied says to mend them; neither key is in the error or its causes."""
    monkeypatch.setenv(variable, "WRONG7SWORDFISH7WRONG")
    for error in errors_of_all(open_storage("s3://b/p", s3_endpoint=s3[0])):
        assert type(error) is StorageDenied
        assert_no_secrets(error, "SWORDFISH", S3_SECRET)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    """StorageUnavailable says to retry, and names the address without a secret."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    for error in errors_of_all(open_storage("s3://b/p", s3_endpoint=endpoint)):
        assert type(error) is StorageUnavailable
        assert endpoint in error.message
        assert_no_secrets(error, S3_SECRET, S3_KEY_ID)


def test_no_credentials_at_all_are_denied_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint names the variables to set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    for error in errors_of_all(open_storage("s3://b/p", s3_endpoint="http://127.0.0.1:9")):
        assert type(error) is StorageDenied
        assert "AWS_ACCESS_KEY_ID" in str(error.hint)


@pytest.mark.parametrize(
    "given", [{"AWS_ACCESS_KEY_ID": S3_KEY_ID}, {"AWS_PROFILE": "nobody"}], ids=str
)
def test_half_credentials_are_denied(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    """Whatever boto3 finds wrong with credentials is a matter of credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageDenied):
        open_storage("s3://b/p", s3_endpoint="http://127.0.0.1:9").folders("")


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEYID:SWORDFISH@bucket/p",
        "s3://bucket/p?secret=SWORDFISH",
        "gs://SWORDFISH/p",
        "s3:///SWORDFISH",
        "http://user:SWORDFISH@host/p",
        "s3://[SWORDFISH/p",
        "s3://SWORD FISH/SWORDFISH",
    ],
)
def test_an_address_that_is_none_is_wrong_usage_and_not_repeated(url: str) -> None:
    """A value that cannot be used may hold a secret: it is not in the error."""
    with pytest.raises(UsageError, match="setting 'storage'") as raised:
        open_storage(url).folders("")
    assert "SWORDFISH" not in f"{raised.value}{raised.value.hint}"


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "not a url", "http://"])
def test_an_endpoint_that_is_no_url_is_wrong_usage(endpoint: str) -> None:
    """It is said at once, not at the first request."""
    with pytest.raises(UsageError, match="setting 's3_endpoint'"):
        open_storage("s3://b/p", s3_endpoint=endpoint)


def test_a_region_that_is_none_is_wrong_usage_of_the_region() -> None:
    """An error names the setting that is wrong."""
    with pytest.raises(UsageError, match="s3_region"):
        open_storage("s3://b/p", s3_endpoint="http://127.0.0.1:9", s3_region="no region!")


def test_credentials_in_the_endpoint_are_not_shown() -> None:
    """An endpoint may hold a user and a password; an error shows neither."""
    with pytest.raises((UsageError, StorageUnavailable)) as raised:
        open_storage("s3://b/p", s3_endpoint="http://u:SWORDFISH@127.0.0.1:9").folders("")
    assert "SWORDFISH" not in str(raised.value)


def test_access_for_another_client_hides_its_secret(s3: tuple[str, Path]) -> None:
    """What DuckDB gets to read the bucket can be printed without harm."""
    access = open_storage("s3://b/p", s3_endpoint=s3[0]).access()
    assert access is not None
    assert (access.key_id, access.secret, access.endpoint) == (S3_KEY_ID, S3_SECRET, s3[0])
    assert S3_SECRET not in f"{access} {access!r} {[access]}"
    assert S3_KEY_ID not in f"{access} {access!r} {[access]}"


# -- a table of S3's errors -----------------------------------------------------------------------

MISSING = "404 NoSuchKey NoSuchBucket"
DENIED = """401 403 AccessDenied InvalidAccessKeyId SignatureDoesNotMatch AccountProblem
    AllAccessDisabled ExpiredToken InvalidToken TokenRefreshRequired AuthorizationHeaderMalformed"""
UNAVAILABLE = "409 507 SlowDown QuotaExceeded OperationAborted XMinioStorageFull AnythingElse"
BY_CODE: dict[str, type[StorageError]] = {
    **dict.fromkeys(MISSING.split(), StorageMissing),
    **dict.fromkeys(DENIED.split(), StorageDenied),
    **dict.fromkeys(UNAVAILABLE.split(), StorageUnavailable),
}


XML = b"<Error><Code>%s</Code><Message>none</Message></Error>"


class _Faulty(BaseHTTPRequestHandler):
    """Answers as the last part of the key says: an error of S3, or a bare status."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """One error."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code = self.path.partition("?")[0].rpartition("/")[2]
        status, body = (int(code), b"") if code.isdigit() else (400, XML % code.encode())
        if code in ("b", ""):  # the key of operations at large, and listings
            status, body = 403, XML % b"AccessDenied"
        elif code == "PageOfAProxy":
            status, body = 403, b"<html><body>forbidden<br></body></html>"
        elif code == "CutShort":
            status = 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + 100 * (code == "CutShort")))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    do_GET = do_PUT = do_DELETE = answer  # noqa: N815 - names that http.server wants

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture(scope="module")
def faulty() -> Iterator[Storage]:
    """Storage on a server that fails as it is told."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Faulty)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", S3_KEY_ID)
        environment.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
        yield open_storage("s3://b/p", s3_endpoint=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("code", BY_CODE)
def test_every_answer_of_s3_says_whether_to_retry(faulty: Storage, code: str) -> None:
    """Each code, or status without one, has one class; an unknown one may be retried."""
    with pytest.raises(StorageError, match=code) as raised:
        faulty.read(code)
    assert type(raised.value) is BY_CODE[code]


def test_all_operations_share_one_table(faulty: Storage) -> None:
    """The same answer means the same to each of them."""
    assert {type(error) for error in errors_of_all(faulty)} == {StorageDenied}


def test_a_proxys_page_is_taken_by_its_status(faulty: Storage) -> None:
    """HTML in place of S3's XML does not confuse: 403 is denied."""
    with pytest.raises(StorageDenied, match="403"):
        faulty.read("PageOfAProxy")


def test_an_object_cut_short_is_no_object(faulty: Storage) -> None:
    """Bytes that end before the length that was promised are an error, to be retried."""
    with pytest.raises(StorageUnavailable):
        faulty.read("CutShort")
