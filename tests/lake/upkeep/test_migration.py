"""A lake of 0.1.0 becomes one of today, at any moment of which each row counts once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rayotel.errors import LakeError
from rayotel.lake import catalog, version
from rayotel.lake.layout import OLD_EPOCH, PartName, Span
from rayotel.lake.storage.directory import DirectoryStorage
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.lake.upkeep.compactor import Compactor, Schedule
from rayotel.lake.upkeep.migration import move_old_parts
from support.command import rayotel
from support.harness import PROTOBUF, Server, ask, gauge_request, rayotel_process, wait_until
from support.lakes import HOUR, OTHER, RECEIVER, START, commit, names

MakeStorage = Callable[[], tuple[Storage, dict[str, str]]]
NOW = Schedule(after_seconds=0, grace_seconds=0)


def old(first: int, last: int, level: int, hour: int = HOUR, receiver: str = RECEIVER) -> PartName:
    """A part's name of 0.1.0."""
    spans = (Span(OLD_EPOCH, first, last),)
    return PartName("s", hour, receiver, spans, level, is_settled=False, is_old=True)


def store(storage: Storage, name: PartName, *points: float) -> None:
    """A part of 0.1.0: what a commit gives, under the name of then."""
    body = gauge_request(*points, time_unix_nano=START + (name.hour - HOUR) * 3600 * 10**9)
    (key,) = commit(storage, 10**6, body, receiver=name.receiver)
    storage.put(name.key, memoryview(storage.read(key)))
    storage.delete(key)


def old_lake(storage: Storage) -> None:
    """Merged hours with and without what they cover, an hour that is not merged, two receivers."""
    store(storage, old(1, 3, 1), 1, 2, 3)
    store(storage, old(1, 1, 0), 1)
    store(storage, old(2, 3, 0), 2, 3)
    store(storage, old(1, 9, 2, HOUR + 1), 4, 5)
    store(storage, old(4, 4, 0, HOUR + 2), 6)
    store(storage, old(5, 5, 0, HOUR + 2), 7)
    store(storage, old(1, 2, 1, HOUR + 3), 8)
    store(storage, old(7, 7, 0, HOUR + 3), 9)
    store(storage, old(1, 2, 1, receiver=OTHER), 10)
    store(storage, old(1, 1, 0, HOUR + 1, receiver=OTHER), 11)


ROWS = [float(number) for number in range(1, 12)]


def values(storage: Storage) -> list[float]:
    """All values of the stream."""
    return [row["v"] for row in ask(storage, "SELECT data_point_value AS v FROM s ORDER BY v")]


def test_an_old_lake_is_read_as_it_is(storage: Storage) -> None:
    """Before it is moved, and by commands that move nothing."""
    old_lake(storage)
    assert values(storage) == ROWS
    assert version.read(storage) == 1


def test_a_lake_is_moved_and_then_settles(storage: Storage, tmp_path: Path) -> None:
    """Merged hours are settled, everything else is recent, old names go when the grace is over."""
    old_lake(storage)
    assert move_old_parts(storage, tmp_path, 0) == 8
    assert version.read(storage) == version.CURRENT
    assert values(storage) == ROWS
    settled = [part.name for part in catalog.parts(storage, "s") if part.name.is_settled]
    wanted = [old(1, 3, 1), old(1, 9, 2, HOUR + 1), old(1, 2, 1, receiver=OTHER)]
    assert sorted(settled) == sorted(
        replace(name, is_settled=True, is_old=False) for name in wanted
    )
    assert move_old_parts(storage, tmp_path, 0) == 0
    compactor = Compactor(storage, tmp_path / "work", NOW)
    for receiver in (RECEIVER, OTHER):
        compactor.run(receiver)
    wait_until(lambda: compactor.run(RECEIVER).removed == compactor.run(OTHER).removed == 0)
    assert values(storage) == ROWS
    parts = catalog.all_parts(storage, "s")
    assert all(part.name.is_settled for part in parts)
    assert len(parts) == 6
    assert not list(storage.objects("_rayotel/recent/"))


def test_hours_that_may_go_on_are_not_settled(tmp_path: Path) -> None:
    """A merged part of an hour that still gets points is recent."""
    storage = open_storage(str(tmp_path / "lake"))
    old_lake(storage)
    move_old_parts(storage, tmp_path, 1e12)
    assert not any(part.name.is_settled for part in catalog.parts(storage, "s"))
    assert values(storage) == ROWS


class Watched(DirectoryStorage):
    """A directory that is looked at by a reader, and may die, at each change."""

    def __init__(self, path: str, die_at: int) -> None:
        super().__init__(path)
        self.left = die_at
        self.seen: set[tuple[float, ...]] = set()

    def _changed(self) -> None:
        self.seen.add(tuple(values(open_storage(self.url))))
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def put_new_file(self, key: str, path: Path) -> bool:
        """Write and look."""
        done = super().put_new_file(key, path)
        self._changed()
        return done

    def put(self, key: str, content: memoryview) -> None:
        """Write and look."""
        super().put(key, content)
        self._changed()

    def delete(self, key: str) -> None:
        """Delete and look."""
        super().delete(key)
        self._changed()


def test_a_crash_at_any_step_changes_no_answer(tmp_path: Path) -> None:
    """Copying, settling and removing: each row once all the while, and the next start goes on."""
    for step in range(1, 60, 2):
        path = str(tmp_path / f"lake-{step}")
        old_lake(open_storage(path))
        storage = Watched(path, step)

        def move(storage: Storage) -> None:
            move_old_parts(storage, tmp_path / "moving", 0)
            for _ in range(3):
                Compactor(storage, tmp_path / "work", NOW).run(RECEIVER)

        try:
            move(storage)
        except KeyboardInterrupt:
            assert storage.seen == {tuple(ROWS)}
            move(open_storage(path))
            assert values(open_storage(path)) == ROWS
            assert not any(part.name.is_old for part in catalog.all_parts(storage, "s"))
        else:
            assert step > 20
            return
    raise AssertionError("it never ends")


def test_two_servers_may_move_it_at_once(tmp_path: Path) -> None:
    """Each meets the copies of the other in the middle of its own work."""
    path = str(tmp_path / "lake")
    old_lake(open_storage(path))

    class Interrupted(DirectoryStorage):
        """Another moves the lake while this one copies its third part."""

        puts = 0

        def put_new_file(self, key: str, path_: Path) -> bool:
            """Write, after the other."""
            self.puts += 1
            if self.puts == 3:
                move_old_parts(open_storage(path), tmp_path / "b", 0)
            return super().put_new_file(key, path_)

    move_old_parts(Interrupted(path), tmp_path / "a", 0)
    storage = open_storage(path)
    assert values(storage) == ROWS
    assert len([p for p in catalog.all_parts(storage, "s") if not p.name.is_old]) == 8


def test_a_server_moves_its_lake_at_its_first_start(tmp_path: Path) -> None:
    """And says so; a lake that is new gets its version too."""
    storage = open_storage(str(tmp_path / "data" / "lake"))
    old_lake(storage)
    env = {"RAYOTEL_COMPACTION_INTERVAL_SECONDS": "0.2", "RAYOTEL_COMPACTION_GRACE_SECONDS": "600"}
    with Server(tmp_path / "data", env=env) as server:
        wait_until(lambda: version.read(storage) == version.CURRENT)
        wait_until(lambda: "the lake of an older rayotel is moved" in server.log())
        assert values(storage) == ROWS
        assert server.stop() == 0
    assert (tmp_path / "data" / "lake" / "_rayotel" / "layout").read_text() == "2\n"
    with Server(tmp_path / "new", env=env) as server:
        server.post(gauge_request(1), PROTOBUF)
        wait_until((tmp_path / "new" / "lake" / "_rayotel" / "layout").exists)
        assert "older rayotel" not in server.log()


@pytest.mark.parametrize("text", ["3\n", "", "two", "-1"])
def test_a_lake_of_a_newer_rayotel_is_refused(make_storage: MakeStorage, text: str) -> None:
    """By every reader and writer, with a hint; and nothing in it changes."""
    storage, env = make_storage()
    commit(storage, 1, gauge_request(1, time_unix_nano=START), stream="raymetrics")
    storage.put("_rayotel/layout", memoryview(text.encode()))
    before = names(storage)
    data = ("--data-dir", "nowhere")
    for command in (
        ("query", "SELECT 1 FROM raymetrics"),
        ("streams",),
        ("verify",),
        ("retention",),
        ("compact", "--adopt", RECEIVER),
        ("delete", "raymetrics"),
        ("delete", "--cluster", "a"),
    ):
        run = rayotel(*command, *data, env=env)
        assert run.returncode == 1, command
        assert "of the layout" in run.stderr
        assert "hint: use the newest rayotel" in run.stderr
    assert names(storage) == before


def test_a_server_refuses_a_lake_of_a_newer_rayotel(tmp_path: Path) -> None:
    """It does not start."""
    storage = open_storage(str(tmp_path / "lake"))
    storage.put("_rayotel/layout", memoryview(b"3"))
    lake = ("--storage", str(tmp_path / "lake"), "--data-dir", str(tmp_path / "data"))
    run = rayotel_process("serve", "--port", "0", *lake)
    assert run.returncode == 1
    assert "hint: use the newest rayotel" in run.stderr


def test_what_is_known_is_looked_at_once(tmp_path: Path) -> None:
    """A question costs no request for it after the first; the error comes each time."""
    storage = open_storage(str(tmp_path / "lake"))
    version.check(storage)
    storage.put("_rayotel/layout", memoryview(b"9"))
    version.check(storage)
    other = open_storage(str(tmp_path / "lake"))
    for _ in range(2):
        with pytest.raises(LakeError, match="'9'"):
            version.check(other)
