"""A stream's folder holds each row at most once at every moment, for engines that know nothing."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pytest

from rayotel.errors import StorageDenied, StorageError, StorageUnavailable
from rayotel.lake import catalog
from rayotel.lake.layout import Span
from rayotel.lake.storage.directory import DirectoryStorage
from rayotel.lake.storage.interface import Storage, StoredObject
from rayotel.lake.storage.opening import open_storage
from rayotel.lake.upkeep import compactor as compacting
from rayotel.lake.upkeep import plan
from rayotel.lake.upkeep.compactor import Compactor, Pass, Schedule
from support.harness import ask, gauge_request, wait_until
from support.lakes import EPOCH, HOUR, RECEIVER, START, commit, names, part_name

HOUR_NANO = 3600 * 10**9
NOW = Schedule(after_seconds=0, grace_seconds=0)
OTHER_EPOCH = "f0f0f0f0f0"


def with_duckdb(lake: str, stream: str) -> Counter[float]:
    """Values as plain DuckDB sees them."""
    try:
        found = duckdb.sql(
            f"SELECT data_point_value FROM read_parquet('{lake}/{stream}/**/*.parquet',"
            " union_by_name = true, hive_partitioning = true)"
        ).fetchall()
    except duckdb.IOException:  # not one file yet
        return Counter()
    return Counter(value for (value,) in found)


def with_arrow(lake: str, stream: str) -> Counter[float]:
    """Values as pyarrow's datasets see them."""
    if not Path(lake, stream).is_dir():
        return Counter()
    table = ds.dataset(Path(lake, stream), partitioning="hive").to_table(["data_point_value"])
    return Counter(table.column(0).to_pylist())


def counted(storage: Storage) -> Counter[float]:
    """Values as a question sees them."""
    return Counter(row["v"] for row in ask(storage, "SELECT data_point_value AS v FROM s"))


class Mortal(DirectoryStorage):
    """A directory whose process ends before or after one of its changes, as told by `left`."""

    left = 10**9

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.left = 10**9
            raise KeyboardInterrupt

    def put_new_file(self, key: str, path: Path) -> bool:
        """Die, write, die."""
        self._step()
        done = super().put_new_file(key, path)
        self._step()
        return done

    def delete(self, key: str) -> None:
        """Die, delete, die."""
        self._step()
        super().delete(key)
        self._step()


@pytest.mark.parametrize("seed", range(3))
def test_any_engine_sees_each_row_once_all_the_while(tmp_path: Path, seed: int) -> None:
    """Commits, late and repeated rows, merges, kills: at most once; in the end exactly once."""
    chance = random.Random(seed)
    storage = Mortal(str(tmp_path / "lake"))
    values = itertools.count()
    sent: list[bytes] = []
    posted: set[float] = set()
    for number in range(1, 60):
        value = next(values)
        at = START + chance.randrange(3) * HOUR_NANO + value
        bodies = [gauge_request(value, time_unix_nano=at)]
        if sent and chance.random() < 0.3:
            bodies.append(chance.choice(sent))  # a repetition, perhaps long after it was settled
        sent.append(bodies[0])
        posted.add(value)
        epoch = EPOCH if number < 30 else OTHER_EPOCH
        commit(storage, number, *bodies, epoch=epoch)
        if chance.random() < 0.5:
            storage.left = chance.randrange(1, 8)
            written = Span(epoch, 0, number)
            try:
                compactor = Compactor(storage, tmp_path / "work", NOW)
                compactor.tidy(RECEIVER, Pass(lambda: written)).or_raise()  # noqa: B023
            except KeyboardInterrupt:
                pass
            storage.left = 10**9
            for seen in (with_duckdb(storage.url, "s"), with_arrow(storage.url, "s")):
                assert max(seen.values(), default=1) == 1
                assert set(seen) <= posted
            assert set(counted(storage)) == posted
    compactor = Compactor(storage, tmp_path / "work", NOW)
    wait_until(lambda: not (done := compactor.run(RECEIVER)).hours and not done.removed)
    once = Counter(dict.fromkeys(posted, 1))
    assert with_duckdb(storage.url, "s") == with_arrow(storage.url, "s") == once
    assert counted(storage) == once
    assert not list(storage.objects("_rayotel/recent/"))
    assert not (Path(storage.url) / "_rayotel" / "recent").exists()


def test_two_copies_of_a_data_directory_store_a_row_once_in_the_end(tmp_path: Path) -> None:
    """Parts of both that overlap become one that covers both; points of both are counted once."""
    storage = open_storage(str(tmp_path / "lake"))
    a, b = "aaaaaaaaaa", "bbbbbbbbbb"
    body = [gauge_request(number, time_unix_nano=START + number) for number in range(20)]
    compactor = Compactor(storage, tmp_path / "work", NOW)
    commit(storage, 1, body[1])
    commit(storage, 2, body[2])
    commit(storage, 3, body[3], epoch=a)
    compactor.run(RECEIVER)
    # the copy, which has segment 2 as well, writes late rows of three segments as one part
    late = part_name(2, 3)
    (key,) = commit(storage, 3, body[2], body[4], epoch=EPOCH)
    spans = (Span(b, 4, 4), Span(EPOCH, 2, 3))
    storage.put_new(replace(late, spans=spans).key, memoryview(storage.read(key)))
    storage.delete(key)
    assert counted(storage)[2.0] == 2
    compactor.run(RECEIVER)
    assert counted(storage) == Counter([1.0, 2.0, 3.0, 4.0])
    assert with_duckdb(storage.url, "s") == counted(storage)
    compactor.run(RECEIVER)
    assert len(names(storage)) == 1


def test_a_name_that_is_taken_is_not_written_again(tmp_path: Path) -> None:
    """The same bytes are done; other bytes stay, and the merge takes the next level."""
    storage = open_storage(str(tmp_path / "lake"))
    commit(storage, 1, gauge_request(1, time_unix_nano=START))
    wanted = part_name(1, level=1, is_settled=True)
    compactor = Compactor(storage, tmp_path / "work", Schedule(0, 3600))
    compactor.run(RECEIVER)
    content = storage.read(wanted.key)
    for _ in range(2):  # the same merge again, after a crash that nobody saw the end of
        assert compactor._done(
            plan.jobs(catalog.all_parts(storage, "s")[:1], RECEIVER, 1e12, 0)[0],
            compacting.Tidied(),
        )
    assert storage.read(wanted.key) == content
    assert len(catalog.all_parts(storage, "s")) == 2
    storage.delete(wanted.key)
    other = part_name(1, level=1, is_settled=True, hour=HOUR)
    commit(storage, 9, gauge_request(1, time_unix_nano=START))
    storage.put(other.key, memoryview(storage.read(part_name(9).key)))
    storage.delete(part_name(9).key)
    there = storage.read(other.key)
    job = plan.jobs(
        [part for part in catalog.all_parts(storage, "s") if not part.name.is_settled],
        RECEIVER, 1e12, 0,
    )[0]  # fmt: skip
    done = compactor._done(job, compacting.Tidied())
    assert done is not None
    assert done.name.level == 2
    assert storage.read(other.key) == there
    assert counted(storage) == Counter([1.0])


class Failing(DirectoryStorage):
    """A directory that refuses some operations on some keys."""

    def __init__(self, path: str, operation: str, word: str, error: type[StorageError]) -> None:
        super().__init__(path)
        self._refused, self._word, self._error = operation, word, error
        self.refusals = 0

    def _check(self, operation: str, key: str) -> None:
        if operation == self._refused and self._word in key:
            self.refusals += 1
            raise self._error(f"cannot {operation} '{key}'")

    def fetch(self, key: str, path: Path) -> None:
        """Read, or refuse."""
        self._check("fetch", key)
        super().fetch(key, path)

    def put_new_file(self, key: str, path: Path) -> bool:
        """Write, or refuse."""
        self._check("put", key)
        return super().put_new_file(key, path)

    def delete(self, key: str) -> None:
        """Delete, or refuse."""
        self._check("delete", key)
        super().delete(key)

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """List, or refuse."""
        self._check("list", prefix)
        yield from super().objects(prefix)


@pytest.mark.parametrize("error", [StorageDenied, StorageUnavailable], ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    ("operation", "word"),
    [("fetch", "hour=16"), ("put", "hour=16"), ("list", "recent/bad"), ("delete", "hour=16")],
)
def test_what_fails_for_one_hour_stops_no_other(
    tmp_path: Path, operation: str, word: str, error: type[StorageError]
) -> None:
    """Other hours and streams are settled all the same; the first error is told at the end."""
    path = str(tmp_path / "lake")
    storage = open_storage(path)
    for stream, hour, number in itertools.product(("bad", "good"), range(3), (1, 2)):
        at = START + hour * HOUR_NANO + number
        commit(storage, number, gauge_request(1, time_unix_nano=at), stream=stream)
    assert {part.name.key[-44:-42] for part in catalog.parts(storage, "bad")}
    refusing = Failing(path, operation, word, error)
    compactor = Compactor(refusing, tmp_path / "work", NOW)
    done = compactor.tidy(RECEIVER, Pass())
    for _ in range(3):
        assert done.error is None or isinstance(done.error, error)
        done = compactor.tidy(RECEIVER, Pass())
    assert isinstance(done.error, error)
    with pytest.raises(error):
        compactor.run(RECEIVER)
    failing = {"bad"} if operation == "list" else {"bad", "good"}
    for stream in ("bad", "good"):
        left = [part.name for part in catalog.all_parts(storage, stream)]
        hours = {name.hour for name in left if not name.is_settled}
        bad_hours = {HOUR + n for n in range(3)} if operation == "list" else {HOUR}
        assert hours == (bad_hours if stream in failing else set())
    compactor = Compactor(storage, tmp_path / "work", NOW)
    wait_until(lambda: not (done := compactor.run(RECEIVER)).hours and not done.removed)
    assert not list(storage.objects("_rayotel/recent/"))


def test_a_delete_that_is_denied_is_not_tried_for_every_part(tmp_path: Path) -> None:
    """Merging goes on, and the requests that are refused are bounded."""
    path = str(tmp_path / "lake")
    storage = open_storage(path)
    for hour, number in itertools.product(range(10), (1, 2, 3)):
        at = START + hour * HOUR_NANO + number
        commit(storage, number, gauge_request(1, time_unix_nano=at))
    refusing = Failing(path, "delete", "", StorageDenied)
    compactor = Compactor(refusing, tmp_path / "work", NOW)
    first = compactor.tidy(RECEIVER, Pass())
    assert (first.hours, first.error) == (10, None)
    second = compactor.tidy(RECEIVER, Pass())
    assert isinstance(second.error, StorageDenied)
    assert refusing.refusals == second.failures == compacting.MAX_FAILURES_IN_A_ROW


def test_a_storage_that_is_away_ends_the_pass_soon(tmp_path: Path) -> None:
    """The rest would only wait for it."""
    path = str(tmp_path / "lake")
    storage = open_storage(path)
    for hour, number in itertools.product(range(30), (1, 2)):
        commit(storage, number, gauge_request(1, time_unix_nano=START + hour * HOUR_NANO + number))
    refusing = Failing(path, "fetch", "", StorageUnavailable)
    done = Compactor(refusing, tmp_path / "work", NOW).tidy(RECEIVER, Pass())
    assert done.failures == compacting.MAX_FAILURES_IN_A_ROW
