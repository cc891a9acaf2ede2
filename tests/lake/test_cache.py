"""What a reader keeps of a lake: true, bounded, and never needed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayotel.errors import LakeError, PartRemoved
from rayotel.lake import cache as caching
from rayotel.lake import catalog
from rayotel.lake.cache import Cache
from rayotel.lake.storage.directory import DirectoryStorage
from rayotel.lake.storage.interface import Storage, StoredObject
from rayotel.lake.storage.opening import open_storage
from rayotel.lake.storage.s3 import S3Storage
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange
from rayotel.query import streams
from rayotel.query.lake import Lake
from support.command import rayotel
from support.harness import LIMITS, S3_KEY_ID, S3_SECRET, gauge_request, make_bucket
from support.lakes import START, commit

SQL = "SELECT count(*) AS n, sum(data_point_value) AS total FROM s"
FOUR_HOURS = 4


class CountingS3(S3Storage):
    """A bucket that counts what is read of it."""

    def __init__(self, bucket: str, endpoint: str) -> None:
        super().__init__(bucket, "lake", endpoint=endpoint)
        self.ranges: list[str] = []
        self.whole: list[str] = []

    def read_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        """Counted."""
        self.ranges.append(key)
        return super().read_range(key, offset, size_bytes)

    def fetch(self, key: str, path: Path) -> None:
        """Counted."""
        self.whole.append(key)
        super().fetch(key, path)


@pytest.fixture
def bucket(s3: tuple[str, Path], tmp_path: Path) -> Iterator[CountingS3]:
    """A bucket of four hours, one part and one point each."""
    make_bucket(s3[0], tmp_path.name.lower().replace("_", "-"))
    storage = CountingS3(tmp_path.name.lower().replace("_", "-"), s3[0])
    for number in range(FOUR_HOURS):
        moment = START + number * NANOSECONDS_PER_HOUR
        commit(storage, number + 1, gauge_request(number + 1.0, time_unix_nano=moment))
    yield storage
    storage.close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache", max_copies_bytes=1 << 24)


def answer(storage: Storage, cache: Cache | None, range_: TimeRange | None = None) -> Any:
    """(count, sum) of the stream."""
    with Lake(storage, LIMITS, cache=cache).ask(SQL, range_) as result:
        row = result.rows()[0]
    return row["n"], row["total"]


def hours(first: int, after: int) -> TimeRange:
    """A range of whole hours, counted from the lake's first."""
    return TimeRange(START + first * NANOSECONDS_PER_HOUR, START + after * NANOSECONDS_PER_HOUR)


def test_a_part_is_read_from_a_bucket_once(bucket: CountingS3, cache: Cache) -> None:
    """Parts never change: the next question reads nothing but listings."""
    assert answer(bucket, cache) == (4, 10.0)
    assert (len(bucket.ranges), len(bucket.whole)) == (4, 4)
    assert answer(bucket, cache) == (4, 10.0)
    assert (len(bucket.ranges), len(bucket.whole)) == (4, 4)


def test_a_question_reads_only_the_hours_it_asks_for(bucket: CountingS3, cache: Cache) -> None:
    """Neither footers nor parts of other hours are opened."""
    assert answer(bucket, cache, hours(1, 3)) == (2, 5.0)
    wanted = [part.name.key for part in catalog.parts(bucket, "s", hours(1, 3))]
    assert sorted(bucket.whole) == sorted(bucket.ranges) == wanted


def test_sql_that_names_no_stream_fetches_no_part(s3: tuple[str, Path], cache: Cache) -> None:
    """It may ask which streams there are; their rows are no part of that."""
    make_bucket(s3[0], "unnamed")
    bucket = CountingS3("unnamed", s3[0])
    commit(bucket, 1, gauge_request(1, time_unix_nano=START), stream="quark")
    # a name that is put together is found all the same
    together = "SELECT count(*)::INT AS name FROM query_table('qua' || 'rk')"
    for sql, found in (("SELECT 1 AS name", 1), ("SHOW TABLES", "quark"), (together, 1)):
        with Lake(bucket, LIMITS, cache=cache).ask(sql) as result:
            assert result.rows() == [{"name": found}]
    assert bucket.whole == []
    bucket.close()


def test_streams_are_told_from_footers_alone(bucket: CountingS3, cache: Cache) -> None:
    """Rows, times and sizes need no part opened, nor does a range that holds parts whole."""
    for range_, rows in ((TimeRange(), 4), (hours(1, 3), 2)):
        (found,) = streams.streams(Lake(bucket, LIMITS, cache=cache), range_)
        assert (found.stream, found.rows, found.files) == ("s", rows, rows)
    assert bucket.whole == []
    assert len(bucket.ranges) == 4


def test_a_part_that_reaches_beyond_the_range_is_counted_row_by_row(
    bucket: CountingS3, cache: Cache
) -> None:
    """A footer cannot tell how many of its rows are in time."""
    moment = START + NANOSECONDS_PER_HOUR // 2
    commit(bucket, 9, gauge_request(1, 2, 3, time_unix_nano=moment))
    range_ = TimeRange(START, moment + 2)
    for kept in (cache, None):
        (found,) = streams.streams(Lake(bucket, LIMITS, cache=kept), range_)
        # questions compare in whole microseconds
        assert found.rows in (1, 3, 4)
        assert answer(bucket, kept, range_)[0] == found.rows


@pytest.mark.parametrize("harm", ["deleted", "garbage", "a file in its place", "read only"])
def test_a_cache_is_never_needed(bucket: CountingS3, cache: Cache, harm: str) -> None:
    """Whatever happens to it, the answer is the same."""
    assert answer(bucket, cache) == (4, 10.0)
    directory = cache.of(bucket)
    if harm == "deleted":
        shutil.rmtree(cache.directory)
    elif harm == "garbage":
        for path in directory.rglob("*"):
            if path.is_file():
                path.write_bytes(b"garbage, and of another size")
    elif harm == "a file in its place":
        shutil.rmtree(cache.directory)
        cache.directory.write_bytes(b"")
    else:
        shutil.rmtree(directory / "parts")
        (directory / "parts").symlink_to("/proc")
    assert answer(bucket, cache) == (4, 10.0)


def test_a_part_that_was_written_anew_is_read_anew(tmp_path: Path, cache: Cache) -> None:
    """A repair keeps the key: what is kept belongs to the object with its size and time."""
    storage = open_storage(str(tmp_path / "lake"))
    (key,) = commit(storage, 1, gauge_request(1, time_unix_nano=START))
    (found,) = streams.streams(Lake(storage, LIMITS, cache=cache), TimeRange())
    assert found.rows == 1
    storage.delete(key)
    commit(storage, 1, gauge_request(1, 2, time_unix_nano=START))
    os.utime(tmp_path / "lake" / key, (1e9, 1e9))
    (found,) = streams.streams(Lake(storage, LIMITS, cache=cache), TimeRange())
    assert found.rows == 2


def test_copies_stay_within_their_bound(bucket: CountingS3, tmp_path: Path) -> None:
    """The longest unused go first."""
    parts = catalog.parts(bucket, "s")
    size = max(part.size_bytes for part in parts)
    cache = Cache(tmp_path / "small", max_copies_bytes=2 * size + size // 2)
    for part in parts:
        (path,) = caching.copies(bucket, [part], cache).values()
        os.utime(path, (part.name.hour, part.name.hour))
    held = sum(path.stat().st_size for path in (cache.of(bucket) / "parts").iterdir())
    assert 0 < held <= cache.max_copies_bytes
    # more than half of the bound at once: read where they are
    assert caching.copies(bucket, parts, cache) == {}
    assert answer(bucket, cache) == (4, 10.0)


def test_only_its_owner_may_read_a_cache(bucket: CountingS3, cache: Cache) -> None:
    """It holds the same data as the lake."""
    answer(bucket, cache)
    assert cache.of(bucket).stat().st_mode & 0o077 == 0


def test_what_is_no_parquet_is_named(tmp_path: Path, cache: Cache) -> None:
    """And nothing of it is kept."""
    storage = open_storage(str(tmp_path / "lake"))
    (key,) = commit(storage, 1, gauge_request(1, time_unix_nano=START))
    content = storage.read(key)
    for bad in (b"", b"PAR1", content[:-1], content[:-9] + b"\xff" * 5 + b"PAR1", b"x" * 100):
        storage.put(key, memoryview(bad))
        with pytest.raises(LakeError, match=key) as caught:
            answer(storage, cache)
        assert "verify --repair" in (caught.value.hint or "")
    storage.put(key, memoryview(content))
    assert answer(storage, cache) == (1, 1.0)


class LosingParts(DirectoryStorage):
    """A directory in which, after a listing, all parts of an hour become one, so many times."""

    def __init__(self, path: str, times: int) -> None:
        super().__init__(path)
        self.times = times

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """A listing that is out of date by the time it is used."""
        found = list(super().objects(prefix))
        if self.times > 0 and found:
            self.times -= 1
            for item in found:
                moved = item.key.replace("-0-", "-1-")
                if moved != item.key:
                    self.put(moved, memoryview(self.read(item.key)))
                else:
                    moved = item.key.replace("-1-", "-2-")
                    self.put(moved, memoryview(self.read(item.key)))
                self.delete(item.key)
        yield from found


@pytest.mark.parametrize("kept", [True, False])
def test_a_question_whose_part_goes_away_is_asked_again(
    tmp_path: Path, cache: Cache, kept: bool
) -> None:
    """Compaction removes what it covered long ago; whoever was slower than its grace asks anew."""
    path = str(tmp_path / "lake")
    commit(open_storage(path), 1, gauge_request(1, 2, time_unix_nano=START))
    used = cache if kept else None
    assert answer(LosingParts(path, 0), used) == (2, 3.0)
    assert answer(LosingParts(path, 1), used) == (2, 3.0)
    with pytest.raises(PartRemoved):
        answer(LosingParts(path, 2), used)


def test_labels_of_later_years_are_null_in_older_parts(bucket: CountingS3, cache: Cache) -> None:
    """One view over all parts: the union of their columns."""
    late = START + 8_000 * NANOSECONDS_PER_HOUR
    commit(bucket, 9, gauge_request(5, time_unix_nano=late, brand_new="yes", New_Case="1"))
    commit(bucket, 10, gauge_request(6, time_unix_nano=late, new_case="2"))
    sql = (
        "SELECT metric_brand_new AS a, metric_new_case AS b, count(*)::INT AS n FROM s"
        " GROUP BY ALL ORDER BY n DESC, b"
    )
    for kept in (cache, cache, None):
        with Lake(bucket, LIMITS, cache=kept).ask(sql) as result:
            assert [tuple(row.values()) for row in result.rows()] == [
                (None, None, 4), ("yes", "1", 1), (None, "2", 1),
            ]  # fmt: skip


def test_the_command_keeps_copies_where_it_is_told(bucket: CountingS3, tmp_path: Path) -> None:
    """`cache_dir` and `cache_bytes` are settings like others; 0 keeps nothing."""
    env = {
        "RAYOTEL_STORAGE": bucket.url,
        "RAYOTEL_S3_ENDPOINT": bucket.access().endpoint,
        "AWS_ACCESS_KEY_ID": S3_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "RAYOTEL_CACHE_DIR": str(tmp_path / "kept"),
    }
    nothing = rayotel("query", SQL, "--format", "csv", env={**env, "RAYOTEL_CACHE_BYTES": "0"})
    assert nothing.stdout == "n,total\n4,10.0\n"
    assert not (tmp_path / "kept").exists()
    kept = rayotel("query", SQL, "--format", "csv", env=env)
    assert kept.stdout == nothing.stdout
    assert len(list((tmp_path / "kept").rglob("*.parquet"))) == FOUR_HOURS
    assert S3_SECRET not in "".join(
        path.read_bytes().decode("latin-1") for path in (tmp_path / "kept").rglob("*.sqlite")
    )
