"""One specification of storage, run over a directory and a real S3 server; then directories."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayotel.errors import StorageDenied, StorageError, StorageMissing, StorageUnavailable
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from support.harness import wait_until

Operation = Callable[[Storage], object]
OPERATIONS: dict[str, Operation] = {
    "put": lambda storage: storage.put("a/b", memoryview(b"x")),
    "read": lambda storage: storage.read("a/b"),
    "objects": lambda storage: list(storage.objects("a/")),
    "folders": lambda storage: storage.folders(""),
    "delete": lambda storage: storage.delete("a/b"),
}


def put(storage: Storage, key: str, content: bytes = b"x") -> None:
    """Store an object."""
    storage.put(key, memoryview(content))


def keys(storage: Storage, prefix: str = "") -> list[str]:
    """The keys of a listing, sorted."""
    return sorted(item.key for item in storage.objects(prefix))


def is_there(storage: Storage) -> bool:
    """Whether the server knows the bucket: rclone sees one made behind its back within a second."""
    with contextlib.suppress(StorageMissing):
        storage.folders("")
        return True
    return False


@pytest.fixture
def storage(make_storage: Callable[[], tuple[Storage, dict[str, str]]]) -> Storage:
    """Empty storage of either kind."""
    made = make_storage()[0]
    wait_until(lambda: is_there(made))
    return made


# -- what every storage does ------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\0\xff\r\n", bytes(range(256)) * 4096])
def test_what_is_put_is_read(storage: Storage, content: bytes) -> None:
    """An object holds exactly the bytes that were put."""
    put(storage, "s/date=2026-11-20/hour=15/a.parquet", content)
    assert storage.read("s/date=2026-11-20/hour=15/a.parquet") == content


def test_an_object_is_replaced_whole(storage: Storage) -> None:
    """A write done again after a crash changes nothing; a shorter object leaves no rest."""
    for content in (b"the same", b"the same", b"short"):
        put(storage, "s/a", content)
        assert [(o.key, o.size_bytes) for o in storage.objects("")] == [("s/a", len(content))]
        assert storage.read("s/a") == content


def test_a_listing_shows_every_object_with_its_size(storage: Storage) -> None:
    """Keys are relative to the lake, sizes are in bytes."""
    wanted = {"s/a": 1, "s/t/b": 20, "u/c": 300}
    for key, size in wanted.items():
        put(storage, key, b"x" * size)
    assert {item.key: item.size_bytes for item in storage.objects("")} == wanted


def test_a_prefix_is_the_beginning_of_a_key(storage: Storage) -> None:
    """A prefix may end within a name; it is text, not a folder."""
    for key in ("s/date=1/a", "s/date=1/b", "s/date=10/a", "s2/date=1/a"):
        put(storage, key)
    assert keys(storage, "s/date=1") == ["s/date=1/a", "s/date=1/b", "s/date=10/a"]
    assert keys(storage, "s/date=1/") == ["s/date=1/a", "s/date=1/b"]
    assert keys(storage, "s/date=1/b") == ["s/date=1/b"]
    assert keys(storage, "s") == ["s/date=1/a", "s/date=1/b", "s/date=10/a", "s2/date=1/a"]
    assert keys(storage, "date=1") == []
    assert keys(storage, "nothing/like/it/") == []


def test_an_empty_lake_lists_nothing(storage: Storage) -> None:
    """Before the first part there is nothing, and that is no error."""
    assert keys(storage) == []
    assert storage.folders("") == []


def test_folders_are_the_next_names_of_keys(storage: Storage) -> None:
    """Names directly below a prefix: each once, no objects, nothing deeper."""
    for key in ("s/x/1", "s/x/2", "s/y/z/3", "t/1", "top"):
        put(storage, key)
    assert sorted(storage.folders("")) == ["s", "t"]
    assert sorted(storage.folders("s/")) == ["x", "y"]
    assert storage.folders("s/x/") == []
    assert storage.folders("nothing/") == []


def test_files_go_in_and_out_as_objects(storage: Storage, tmp_path: Path) -> None:
    """`put_new_file` and `fetch` do with files what `put_new` and `read` do with bytes."""
    content = bytes(range(256)) * 10_000
    (tmp_path / "in").write_bytes(content)
    assert storage.put_new_file("s/a", tmp_path / "in")
    storage.fetch("s/a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == storage.read("s/a") == content
    with pytest.raises(StorageMissing, match="'s/b'"):
        storage.fetch("s/b", tmp_path / "nothing")


def test_a_listing_says_when_an_object_was_written(storage: Storage) -> None:
    """By the storage's clock; the last writing counts."""
    put(storage, "s/a", b"old")
    before = time.time()
    put(storage, "s/a", b"new")
    (found,) = storage.objects("s/")
    assert before - 2 < found.written_unix < time.time() + 2


def test_more_than_one_page_of_s3_is_listed(storage: Storage) -> None:
    """S3 gives 1,000 objects or folders at a time; a listing has them all."""
    count = 50 if storage.access() is None else 1_050
    for number in range(count):
        put(storage, f"s/{number:04}/part")
    assert keys(storage, "s/") == [f"s/{number:04}/part" for number in range(count)]
    assert sorted(storage.folders("s/")) == [f"{number:04}" for number in range(count)]


def test_a_deleted_object_is_gone_and_its_neighbour_stays(storage: Storage) -> None:
    """Delete removes one object."""
    put(storage, "s/a")
    put(storage, "s/ab", b"other")
    storage.delete("s/a")
    assert keys(storage) == ["s/ab"]
    with pytest.raises(StorageMissing):
        storage.read("s/a")


def test_what_is_not_there_can_be_deleted_and_not_read(storage: Storage) -> None:
    """A deletion may be done again after a crash; a read says that a retry cannot help."""
    put(storage, "s/b")
    storage.delete("s/a")
    storage.delete("t/date=1/a")
    assert keys(storage) == ["s/b"]
    with pytest.raises(StorageMissing, match="'s/a'"):
        storage.read("s/a")


# -- a directory ----------------------------------------------------------------------------------


@pytest.fixture
def lake() -> Iterator[Path]:
    """A directory that other users can enter, for tests of permissions."""
    with tempfile.TemporaryDirectory(prefix="rayotel-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "lake"


@contextlib.contextmanager
def an_ordinary_user() -> Iterator[None]:
    """For a while not root, to whom permissions mean nothing."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def files(directory: Path) -> set[str]:
    """Every file below a directory."""
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def test_a_put_leaves_the_object_and_nothing_else(lake: Path) -> None:
    """No temporary file stays behind."""
    put(open_storage(str(lake)), "s/a")
    assert files(lake) == {"s/a"}


def test_a_put_that_fails_leaves_what_was_there(lake: Path) -> None:
    """A disk that takes only part of an object: the old one stays whole, nothing else remains."""
    storage = open_storage(str(lake))
    put(storage, "s/a", b"the old one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(StorageUnavailable):
            put(storage, "s/a", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert storage.read("s/a") == b"the old one"
    assert files(lake) == {"s/a"}


def test_a_directory_in_the_place_of_an_object_is_an_error(lake: Path) -> None:
    """The put fails, what is in the directory stays, and no temporary file remains."""
    storage = open_storage(str(lake))
    put(storage, "s/a/b", b"below")
    with pytest.raises(StorageError, match="'s/a'"):
        put(storage, "s/a", b"above")
    assert files(lake) == {"s/a/b"}
    assert storage.read("s/a/b") == b"below"


def test_what_is_being_written_is_not_listed(lake: Path) -> None:
    """Temporary files, also those that a crash left, are neither objects nor folders."""
    storage = open_storage(str(lake))
    put(storage, "s/a")
    (lake / ".tmp").mkdir(exist_ok=True)
    (lake / ".tmp" / "left").write_bytes(b"half")
    assert (keys(storage), storage.folders("")) == (["s/a"], ["s"])


@pytest.mark.parametrize("operation", ["put", "delete"])
def test_a_lake_that_is_only_readable_denies_writes(lake: Path, operation: str) -> None:
    """StorageDenied says to mend permissions; reading goes on."""
    storage = open_storage(str(lake))
    put(storage, "a/b", b"old")
    for directory in (lake / "a", lake):
        directory.chmod(0o555)
    with an_ordinary_user(), pytest.raises(StorageDenied, match="ermission denied"):
        OPERATIONS[operation](storage)
    with an_ordinary_user():
        assert (storage.read("a/b"), keys(storage)) == (b"old", ["a/b"])


@pytest.mark.parametrize("operation", ["read", "folders", "objects"])
def test_what_may_not_be_read_is_denied_not_absent(lake: Path, operation: str) -> None:
    """A listing that cannot see a directory is an error: parts left out are wrong answers."""
    storage = open_storage(str(lake))
    put(storage, "a/b")
    place = lake / "a" if operation != "folders" else lake
    place.chmod(0)
    try:
        with an_ordinary_user(), pytest.raises(StorageDenied):
            OPERATIONS[operation](storage)
    finally:
        place.chmod(0o755)
