"""A name is never written twice: `put_new` on a directory, and on S3 servers of every kind."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayotel.errors import StorageMissing, StorageUnavailable
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from support.fault_proxy import Fault, FaultProxy, Kind
from support.small_s3 import Conditions, SmallS3, small_s3

KINDS = ["links", "no links", *Conditions]  # the last two cannot tell writers apart


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As file systems do that have none."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)


@pytest.fixture(params=KINDS, ids=str)
def any_storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Storage]:
    """Empty storage of each kind."""
    if isinstance(request.param, Conditions):
        with small_s3(request.param) as server:
            yield open_storage("s3://bucket/lake", s3_endpoint=server.url)
        return
    if request.param == "no links":
        refuse_links(monkeypatch)
    yield open_storage(str(tmp_path / "lake"))


def puts(storage: Storage, tmp_path: Path) -> list[Callable[[str, bytes], bool]]:
    """Both ways to put a new object."""

    def from_file(key: str, content: bytes) -> bool:
        (tmp_path / "content").write_bytes(content)
        return storage.put_new_file(key, tmp_path / "content")

    return [lambda key, content: storage.put_new(key, memoryview(content)), from_file]


def test_a_new_object_is_written_and_an_old_one_stays(any_storage: Storage, tmp_path: Path) -> None:
    """The answer tells which; the bytes of the first stay, whatever comes later."""
    for put in puts(any_storage, tmp_path):
        key = f"_rayotel/recent/s/{put.__name__}"
        assert put(key, b"the first")
        assert not put(key, b"another")
        assert not put(key, b"the first")
        assert any_storage.read(key) == b"the first"
        any_storage.delete(key)
        with pytest.raises(StorageMissing):
            any_storage.read(key)
        assert put(key, b"")
        assert any_storage.read(key) == b""


@pytest.mark.parametrize("any_storage", KINDS[:3], indirect=True, ids=str)
def test_of_many_writers_one_wins(any_storage: Storage) -> None:
    """Exactly one is told so, and its bytes are there, where the storage itself can tell."""
    for turn in range(5):
        contents = [bytes([writer]) * 50_000 for writer in range(8)]
        key = f"s/date=1/{turn}/part"
        with ThreadPoolExecutor(8) as pool:
            put = functools.partial(any_storage.put_new, key)
            won = list(pool.map(put, map(memoryview, contents)))
        assert won.count(True) == 1
        assert any_storage.read(key) == contents[won.index(True)]


def test_writers_and_an_empty_directory_that_goes(tmp_path: Path) -> None:
    """A delete takes the directories that it leaves empty, and no writer ever notices."""
    storage = open_storage(str(tmp_path / "lake"))

    def work(writer: int) -> None:
        for turn in range(100):
            key = f"s/date=1/hour=1/{writer}-{turn}"
            assert storage.put_new(key, memoryview(b"x"))
            assert storage.read(key) == b"x"
            storage.delete(key)

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(work, range(4)):
            pass
    assert storage.folders("") == []
    assert [path.name for path in (tmp_path / "lake").iterdir()] == [".tmp"]
    assert not list((tmp_path / "lake" / ".tmp").iterdir())


def test_the_lock_without_links_is_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that removes what crashes left must not take the lock from under a writer."""
    refuse_links(monkeypatch)
    storage = open_storage(str(tmp_path / "lake"))
    assert storage.put_new("s/a", memoryview(b"x"))
    assert not list(storage.unfinished())


def of(server: SmallS3) -> list[str]:
    """The methods of the requests for parts."""
    return [method for method, key in server.requests if "_rayotel" not in key]


@pytest.mark.parametrize("conditions", Conditions, ids=str)
def test_what_a_server_knows_is_found_out_once(conditions: Conditions) -> None:
    """One request for each part where the server compares; a look before it where it does not."""
    with small_s3(conditions) as server:
        storage = open_storage("s3://bucket/lake", s3_endpoint=server.url)
        for number in range(3):
            assert storage.put_new(f"s/{number}", memoryview(b"x"))
        looks = [] if conditions is Conditions.HONOURED else ["HEAD"]
        assert of(server) == [*looks, "PUT"] * 3
        probes = len(server.requests) - len(of(server))
        assert probes == 2


def test_an_answer_that_is_lost_makes_no_second_object() -> None:
    """The object landed and its writer does not know: it is told that the name is taken."""
    with small_s3() as server, FaultProxy(server.url) as proxy:
        storage = open_storage("s3://bucket/lake", s3_endpoint=proxy.url)
        storage.put_new("s/first", memoryview(b"x"))
        proxy.play(Fault(Kind.LOST_ANSWER, only="PUT .*s/second"))
        with pytest.raises(StorageUnavailable):
            storage.put_new("s/second", memoryview(b"x"))
        proxy.heal()
        assert not storage.put_new("s/second", memoryview(b"x"))
        assert storage.read("s/second") == b"x"


def test_an_error_is_not_taken_for_an_answer() -> None:
    """A server that fails says neither that the name is new nor that it is taken."""
    with small_s3() as server, FaultProxy(server.url) as proxy:
        storage = open_storage("s3://bucket/lake", s3_endpoint=proxy.url)
        storage.put_new("s/first", memoryview(b"x"))
        proxy.play(Fault(Kind.STATUS, status=503))
        with pytest.raises(StorageUnavailable):
            storage.put_new("s/second", memoryview(b"x"))
        proxy.heal()
        assert storage.put_new("s/second", memoryview(b"x"))
