"""`rayotel verify` finds every kind of damage, names it, and repairs by moving aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rayotel.lake.storage.interface import Storage
from support.command import rayotel
from support.harness import ask, gauge_request
from support.lakes import HOUR, START, commit, names, part_name

MakeStorage = Callable[[], tuple[Storage, dict[str, str]]]
COMMAND = ("verify", "--data-dir", "nowhere")


def two_parts(storage: Storage) -> str:
    """A lake of two good parts; the key of the second."""
    commit(storage, 1, gauge_request(1, time_unix_nano=START))
    return commit(storage, 2, gauge_request(*range(500), time_unix_nano=START))[0]


def test_a_good_lake_is_good(make_storage: MakeStorage) -> None:
    """Nothing is wrong: exit code 0, and what was read is told."""
    storage, env = make_storage()
    two_parts(storage)
    run = rayotel(*COMMAND, env=env)
    assert (run.returncode, run.stdout) == (0, "")
    assert "2 parts with 501 rows" in run.stderr


def flipped(content: bytes) -> bytes:
    """One bit of the values is wrong, which only a checksum tells."""
    broken = bytearray(content)
    broken[len(broken) // 4] ^= 1
    return bytes(broken)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"", "cannot be read"),
        (lambda content: b"nonsense", "cannot be read"),
        (lambda content: content[: len(content) // 2], "cannot be read"),
        (flipped, "cannot be read"),
    ],
    ids=["empty", "nonsense", "cut", "bit flipped"],
)
def test_damage_is_found_and_moved_aside(
    make_storage: MakeStorage, damage: Callable[[bytes], bytes], words: str
) -> None:
    """A damaged part is named, with exit code 1; after --repair its bytes stand aside."""
    storage, env = make_storage()
    key = two_parts(storage)
    content = damage(storage.read(key))
    storage.put(key, memoryview(content))
    run = rayotel(*COMMAND, env=env)
    assert run.returncode == 1
    assert run.stdout.startswith(f"{key}: {words}")
    assert "hint:" in run.stderr
    assert rayotel(*COMMAND, "--repair", env=env).returncode == 0
    assert rayotel(*COMMAND, env=env).returncode == 0
    assert storage.read(f"_rayotel/damaged/{key}") == content
    assert ask(storage, "SELECT count(*) AS n FROM s") == [{"n": 1}]


def test_a_part_under_a_wrong_name_is_found(make_storage: MakeStorage) -> None:
    """A part of another hour or stream would be missed or mistaken by questions."""
    storage, env = make_storage()
    content = memoryview(two_parts_content(storage))
    storage.put(part_name(9, 9, 0, hour=HOUR + 1).key, content)
    storage.put(part_name(9, 9, 0, stream="t").key, content)
    run = rayotel(*COMMAND, env=env)
    assert run.returncode == 1
    assert "has points of another hour" in run.stdout
    assert "is of stream 's'" in run.stdout


def two_parts_content(storage: Storage) -> bytes:
    """The bytes of a good part of a lake of two."""
    return storage.read(two_parts(storage))


def test_overlapping_names_are_found(make_storage: MakeStorage) -> None:
    """Two parts that share segments without one covering the other count points twice."""
    storage, env = make_storage()
    content = memoryview(two_parts_content(storage))
    storage.put(part_name(1, 3).key, content)
    storage.put(part_name(3, 4).key, content)
    for command in (COMMAND, (*COMMAND, "--repair")):
        run = rayotel(*command, env=env)
        assert run.returncode == 1
        assert "neither covers the other" in run.stdout
    assert ask(storage, "SELECT count(*) AS n FROM s") == [{"n": 1000}]


def test_foreign_objects_are_mentioned_only(make_storage: MakeStorage) -> None:
    """What rayotel did not write is told, is no damage, and stays where it is."""
    storage, env = make_storage()
    two_parts(storage)
    storage.put("s/notes.txt", memoryview(b"mine"))
    run = rayotel(*COMMAND, "--repair", env=env)
    assert run.returncode == 0
    assert "s/notes.txt: is not an object of rayotel" in run.stdout
    assert "notes.txt" in names(storage)


def test_a_covered_part_may_be_damaged(make_storage: MakeStorage, tmp_path: Path) -> None:
    """What no question reads any more does no harm: it is told with exit code 0."""
    storage, env = make_storage()
    key = two_parts(storage)
    content = storage.read(key)
    storage.put(part_name(1, 2, 1).key, memoryview(content))
    storage.put(key, memoryview(b"nonsense"))
    run = rayotel(*COMMAND, env=env)
    assert run.returncode == 0
    assert "cannot be read" in run.stdout


def test_only_the_range_is_read(make_storage: MakeStorage) -> None:
    """A time range leaves out the hours that it does not touch; a stream's name the others."""
    storage, env = make_storage()
    two_parts(storage)
    commit(storage, 3, gauge_request(1, time_unix_nano=START + 48 * 3600 * 10**9), stream="t")
    assert "1 parts" in rayotel(*COMMAND, "t", env=env).stderr
    run = rayotel(*COMMAND, "--to", "2025-11-25", env=env)
    assert "2 parts with 501 rows" in run.stderr
    assert rayotel(*COMMAND, "nothing", env=env).returncode == 2
