"""A name never has two contents, and nothing is lost or stored twice, whatever is copied or cut."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayotel.lake import layout
from support.committing import Crash, Run, Watched, crashing, keys, values

NOW = int(time.time()) // 3600
OLD = 490_000


def crashed_before_the_release(data_dir: Path, lake: Watched) -> None:
    """The points 0, 1 and 2 are in parts, and their segment is in the WAL as well."""
    run = Run(data_dir, lake)
    run.numbers(range(3), NOW)
    run.journal.release = lambda some: (_ for _ in ()).throw(Crash())  # type: ignore[method-assign]
    with pytest.raises(Crash):
        run.step()
    run.end()


def test_a_segment_is_committed_again_under_the_same_names(tmp_path: Path) -> None:
    """What a crash after the last part left is done again, and is there already."""
    lake = Watched(str(tmp_path / "lake"))
    crashed_before_the_release(tmp_path / "data", lake)
    before = keys(lake)
    again = Run(tmp_path / "data", lake)
    assert again.finish()
    assert keys(lake) == before
    assert values(lake) == [0, 1, 2]


def test_parts_of_one_run_have_no_gaps(tmp_path: Path) -> None:
    """Segments without rows of an hour are spanned too: the hour's parts join to one span."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    for turn in range(6):
        run.numbers([turn], NOW, "one" if turn % 3 else "two")
        run.step()
    run.finish()
    for stream in ("one", "two"):
        names = [layout.parse_key(key) for key in keys(lake)]
        spans = [span for name in names if name and name.stream == stream for span in name.spans]
        assert len(layout.joined(spans)) == 1
    assert values(lake, "one") == [1, 2, 4, 5]


def test_a_copy_that_serves_beside_its_original(tmp_path: Path) -> None:
    """Two servers on copies of one directory lose nothing that either acknowledged."""
    lake = Watched(str(tmp_path / "lake"))
    one = Run(tmp_path / "one", lake)
    one.numbers(range(5), NOW)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one.numbers(range(5, 10), NOW)
    two = Run(tmp_path / "two", lake)
    two.numbers(range(10, 15), NOW)
    assert one.finish()
    assert two.finish()
    assert set(values(lake)) == set(range(15))
    assert sorted(values(lake)).count(7) == 1
    assert not lake.overwritten


def test_a_restored_directory(tmp_path: Path) -> None:
    """A backup that serves again overwrites nothing, and what it acknowledges is seen."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    run.numbers(range(4), NOW)
    shutil.copytree(tmp_path / "data", tmp_path / "backup")
    run.numbers(range(4, 8), NOW)
    assert run.finish()
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "backup").rename(tmp_path / "data")
    restored = Run(tmp_path / "data", lake)
    restored.numbers(range(8, 12), NOW)
    assert restored.finish()
    assert set(values(lake)) == set(range(12))
    assert not lake.overwritten


def test_a_taken_name_is_not_overwritten(tmp_path: Path) -> None:
    """If a name has other content, the part is written under this run's own epoch."""
    lake = Watched(str(tmp_path / "lake"))
    other = Watched(str(tmp_path / "other"))
    crashed_before_the_release(tmp_path / "data", other)
    (key,) = keys(other)
    stranger = Run(tmp_path / "stranger", lake)
    stranger.numbers([77], NOW)
    stranger.finish()
    (foreign,) = keys(lake)
    content = lake.read(foreign)
    lake.delete(foreign)
    lake.put_new(key, memoryview(content))
    assert Run(tmp_path / "data", lake).finish()
    assert lake.read(key) == content
    assert values(lake) == [0, 1, 2, 77]


hours = st.sampled_from([NOW, NOW - 1, OLD, OLD + 1, OLD + 7])
ALL_FRESH = 3e9
turns = st.lists(
    st.tuples(
        st.lists(hours, max_size=3),
        st.sampled_from(["go on", "flush", "crash", "restart"]),
        st.integers(0, 12),
        st.booleans(),
        st.sampled_from([0.0, 900.0, ALL_FRESH]),
    ),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(turns)
def test_whatever_happens_each_point_is_there_once(
    tmp_path_factory: pytest.TempPathFactory,
    life: list[tuple[list[int], str, int, bool, float]],
) -> None:
    """Points of fresh and late hours, over crashes at any write and clocks that go back and on."""
    top = tmp_path_factory.mktemp("life")
    lake = Watched(str(top / "lake"))
    run = Run(top / "data", lake)
    sent = 0
    for some, what, at, is_after, late_after in life:
        for hour in some:
            run.numbers([sent], hour)
            sent += 1
        if what == "crash":
            with crashing(lake, at, is_after=is_after):
                run.step(stopping=is_after)
        else:
            run.step(stopping=what == "flush")
        if what in ("crash", "restart"):
            run.end()
            run = Run(top / "data", lake, late_after_seconds=late_after)
    assert run.finish()
    assert (values(lake) if sent else []) == list(range(sent))
    assert not lake.overwritten
