"""`rayotel delete` forgets what it is told, all of it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayotel.errors import LakeError
from rayotel.lake import catalog, claims
from rayotel.lake.storage.directory import DirectoryStorage
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.lake.upkeep.compactor import Compactor, Schedule
from rayotel.lake.upkeep.deletion import Which, forget_rows, forget_stream
from support import event_bodies
from support.command import rayotel
from support.harness import ask, gauge_request
from support.lakes import OTHER, RECEIVER, START, commit, commit_events, part_name

MakeStorage = Callable[[], tuple[Storage, dict[str, str]]]
LINGER = Schedule(after_seconds=0, grace_seconds=3600)


def clusters(storage: Storage, work: Path, *, settled: bool) -> None:
    """Points 0 to 5 of cluster a, b, a, b, a, b, in two hours; as recent parts or settled ones."""
    for number in range(6):
        body = gauge_request(
            number,
            time_unix_nano=START + number % 2 * 3600 * 10**9 + number,
            cluster_id="ab"[number % 2],
            SessionName=f"session_{number % 3}",
        )
        commit(storage, number, body, gauge_request(100 + number, time_unix_nano=START + number))
    if settled:
        Compactor(storage, work, LINGER).run(RECEIVER)


def values(storage: Storage, stream: str = "s") -> list[float]:
    """All values of a stream."""
    found = ask(storage, f'SELECT data_point_value AS v FROM "{stream}" ORDER BY v')
    return [row["v"] for row in found]


def held(storage: Storage, needle: bytes) -> list[str]:
    """Keys of the parts that count or not whose bytes name something."""
    keys = [item.key for item in storage.objects("") if item.key.endswith(".parquet")]
    return [key for key in keys if needle in storage.read(key)]


OTHERS = [100.0 + number for number in range(6)]


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize(
    ("which", "left"),
    [
        (Which(cluster="a"), [1.0, 3.0, 5.0, *OTHERS]),
        (Which(session="session_1"), [0.0, 2.0, 3.0, 5.0, *OTHERS]),
        (Which(cluster="nobody"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, *OTHERS]),
    ],
    ids=["cluster", "session", "nobody"],
)
def test_rows_of_one_go_and_all_others_stay(
    storage: Storage, tmp_path: Path, which: Which, left: list[float], settled: bool
) -> None:
    """Of recent parts and of settled ones; their bytes are nowhere, covered parts included."""
    clusters(storage, tmp_path, settled=settled)
    before = {part.name.is_settled for part in catalog.parts(storage, "s")}
    counted = forget_rows(storage, tmp_path / "work", which, dry_run=True)
    assert len(values(storage)) == 12
    done = forget_rows(storage, tmp_path / "work", which)
    assert (done.rows, done.parts, done.bytes) == (counted.rows, counted.parts, counted.bytes)
    assert done.rows == 12 - len(left)
    assert values(storage) == left
    assert {part.name.is_settled for part in catalog.parts(storage, "s")} == before
    if which.session is not None:
        assert not held(storage, b"session_1")
    assert forget_rows(storage, tmp_path / "work", which).rows == 0
    # and merging brings nothing back
    Compactor(storage, tmp_path, LINGER).run(RECEIVER)
    assert values(storage) == left


def test_a_part_of_which_nothing_is_left_hides_what_it_hid(tmp_path: Path) -> None:
    """Covered parts still linger when their cover loses its last row: they must not count again."""
    storage = open_storage(str(tmp_path / "lake"))
    for number in (1, 2):
        body = gauge_request(number, time_unix_nano=START + number, cluster_id="a")
        commit(storage, number, body)
    Compactor(storage, tmp_path / "c", LINGER).run(RECEIVER)
    assert len(catalog.all_parts(storage, "s")) == 3
    assert forget_rows(storage, tmp_path / "work", Which(cluster="a")).rows == 2
    assert values(storage) == []
    assert len(catalog.all_parts(storage, "s")) == 1


def test_a_row_without_a_cluster_has_that_of_its_session(tmp_path: Path) -> None:
    """As questions do it; a session of two clusters tells nothing, and neither does none."""
    storage = open_storage(str(tmp_path / "lake"))
    rows = [
        {"cluster_id": "a", "SessionName": "one"},
        {"SessionName": "one"},
        {"SessionName": "two"},
        {"cluster_id": "a", "SessionName": "both"},
        {"cluster_id": "b", "SessionName": "both"},
        {"SessionName": "both"},
        {"cluster_id": ""},
        {"Cluster_ID": "a"},
    ]
    for number, labels in enumerate(rows):
        commit(storage, number, gauge_request(number, time_unix_nano=START, **labels))
    headers = (("cluster_id", "a"),)
    commit_events(storage, 50, event_bodies.of_numbers(range(3)), columns=headers)
    commit_events(storage, 51, event_bodies.of_numbers(range(3, 5)), columns=(("cluster_id", "b"),))
    done = forget_rows(storage, tmp_path / "work", Which(cluster="a"))
    assert values(storage) == [2, 4, 5, 6]
    assert ask(storage, "SELECT count(*) AS n FROM e") == [{"n": 2}]
    assert done.rows == 4 + 3


class Dying(DirectoryStorage):
    """A directory whose process ends at the n-th change."""

    left = 0

    def _change(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def put_new_file(self, key: str, path: Path) -> bool:
        """Write, and perhaps die."""
        done = super().put_new_file(key, path)
        self._change()
        return done

    def delete(self, key: str) -> None:
        """Delete, and perhaps die."""
        super().delete(key)
        self._change()


@pytest.mark.parametrize("settled", [False, True])
def test_a_crash_at_any_step_leaves_what_can_be_done_again(tmp_path: Path, settled: bool) -> None:
    """No row of others is lost or doubled at any moment, and doing it again ends the work."""
    for step in range(1, 30):
        storage = Dying(str(tmp_path / f"lake-{step}"))
        clusters(storage, tmp_path / "c", settled=settled)
        storage.left = step
        try:
            forget_rows(storage, tmp_path / "work", Which(cluster="a"))
        except KeyboardInterrupt:
            now = values(storage)
            assert sorted(set(now)) == now
            assert set(now) >= {1.0, 3.0, 5.0, *OTHERS}
            storage.left = 0
            forget_rows(storage, tmp_path / "work", Which(cluster="a"))
            assert values(storage) == [1.0, 3.0, 5.0, *OTHERS]
        else:
            assert step > 2
            return
    raise AssertionError("it never ends")


def test_a_damaged_part_stops_no_other(tmp_path: Path) -> None:
    """What can be forgotten is; then the damaged part is told by name."""
    storage = open_storage(str(tmp_path / "lake"))
    broken = part_name(9, stream="another").key
    storage.put(broken, memoryview(b"not parquet"))
    clusters(storage, tmp_path / "c", settled=False)
    with pytest.raises(LakeError, match=broken):
        forget_rows(storage, tmp_path / "work", Which(cluster="a"))
    assert values(storage) == [1.0, 3.0, 5.0, *OTHERS]


def test_a_stream_goes_with_all_receivers_and_its_name_is_free(
    storage: Storage, tmp_path: Path
) -> None:
    """Parts that count and parts that do not, and then its claims; its neighbours stay."""
    clusters(storage, tmp_path, settled=True)
    commit(storage, 1, gauge_request(9, time_unix_nano=START), receiver=OTHER)
    commit(storage, 2, gauge_request(7, time_unix_nano=START), stream="s2")
    claims.settle(storage, {"s": "metrics", "s2": "metrics"}, RECEIVER, pause=id)
    counted = forget_stream(storage, "s", dry_run=True)
    assert len(values(storage)) == 13
    done = forget_stream(storage, "s")
    assert (done.rows, done.parts) == (counted.rows, counted.parts) == (13, 3)
    assert catalog.streams(storage) == ["s2"]
    assert claims.holder(storage, "s") is None
    assert claims.holder(storage, "s2") == "metrics"
    assert claims.settle(storage, {"s": "events"}, OTHER, pause=id) == {"s": "events"}


def test_the_command(make_storage: MakeStorage, tmp_path: Path) -> None:
    """It counts, deletes, and says what it did; what it cannot know is wrong usage."""
    storage, env = make_storage()
    clusters(storage, tmp_path / "c", settled=True)

    def run(*arguments: str) -> Any:
        return rayotel("delete", *arguments, "--data-dir", str(tmp_path / "data"), env=env)

    dry = run("--cluster", "a", "--dry-run")
    assert (dry.returncode, len(values(storage))) == (0, 12)
    assert "cluster 'a': 3 rows in 1 parts" in dry.stderr
    assert "would go" in dry.stderr
    wet = run("--cluster", "a")
    assert wet.returncode == 0
    assert "3 rows in 1 parts" in wet.stderr
    assert "WAL" in wet.stderr
    assert run("--session", "session_1", "--yes").returncode == 0
    assert values(storage) == [3.0, 5.0, *OTHERS]
    assert run("nothing").returncode == 2
    assert run().returncode == 2
    assert run("s", "--cluster", "a").returncode == 2
    assert run("s").returncode == 0
    assert catalog.streams(storage) == []
