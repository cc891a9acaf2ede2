"""Late rows beside a settled part: what the part has is left out, by the rule of repeats."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayotel.lake.merge import by_signal, process
from rayotel.lake.merge import events as event_merge
from rayotel.lake.merge import metrics as metric_merge
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.replay import Recording
from support import event_bodies
from support.examples import examples
from support.harness import gauge_request
from support.lakes import RECEIVED, START, commit, commit_events

Points = Sequence[tuple[int, float, str]]


def part(storage: Storage, number: int, points: Points) -> Path:
    """A part with points (moment in microseconds, value, label)."""
    bodies = [gauge_request(v, time_unix_nano=START + 1000 * t, k=k) for t, v, k in points]
    (key,) = commit(storage, number, *bodies)
    return Path(storage.url) / key


def merged(
    inputs: list[Path], against: list[Path], work: Path, *, apart: bool = False
) -> list[tuple[int, float, str]]:
    """What comes out, sorted."""
    work.mkdir(exist_ok=True)
    merge = process.merge_apart if apart else by_signal.merge
    rows = merge(inputs, work / "out", "s", work, against)
    table = pq.read_table(work / "out")
    assert table.num_rows == rows
    times = [moment.value - START // 1000 for moment in table.column("time_unix_nano")]
    columns = (table.column("data_point_value").to_pylist(), _labels(table))
    return sorted(zip(times, *columns, strict=True))


def _labels(table: pa.Table) -> list[str]:

    if "metric_k" not in table.column_names:
        return []
    return list(table.column("metric_k").to_pylist())


point = st.tuples(
    st.integers(0, 3), st.sampled_from([1.0, 2.0, float("inf")]), st.sampled_from("ab")
)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(point, min_size=1, max_size=8),
    st.lists(point, min_size=1, max_size=8),
    st.lists(point, min_size=1, max_size=8),
)
def test_each_point_that_is_not_there_comes_out_once(
    tmp_path_factory: pytest.TempPathFactory, one: Points, other: Points, there: Points
) -> None:
    """Whatever the order of points with one time: the inputs' points without those beside."""
    top = tmp_path_factory.mktemp("against")
    storage = open_storage(str(top / "lake"))
    inputs = [part(storage, 1, one), part(storage, 2, other)]
    beside = [part(storage, 3, there[:4]), part(storage, 4, there[-4:])]
    found = merged(inputs, beside, top / "work")
    assert found == sorted({*one, *other} - {*there})


def test_nothing_may_be_left(tmp_path: Path) -> None:
    """A part without rows is a part all the same, which can be merged and merged against."""
    storage = open_storage(str(tmp_path / "lake"))
    same = [(1, 1.0, "a"), (2, 2.0, "b")]
    first, again = part(storage, 1, same), part(storage, 2, same)
    assert merged([again], [first], tmp_path / "work") == []
    empty = tmp_path / "empty.parquet"
    (tmp_path / "work" / "out").rename(empty)
    assert merged([first, empty], [empty], tmp_path / "again") == same
    assert merged([empty], [empty], tmp_path / "none") == []


def test_columns_of_the_part_beside_are_not_taken_over(tmp_path: Path) -> None:
    """The output has the labels of its own rows only."""
    storage = open_storage(str(tmp_path / "lake"))
    inputs = [part(storage, 1, [(1, 1.0, "a")])]
    bodies = [
        gauge_request(1, time_unix_nano=START + 1000 * n, k="a", **{f"only{n}": "x"})
        for n in (1, 2)
    ]
    (key,) = commit(storage, 2, *bodies, gauge_request(3, time_unix_nano=START + 1000, k="a"))
    beside = [Path(storage.url) / key]
    assert merged(inputs, beside, tmp_path / "work") == [(1, 1.0, "a")]
    names = pq.read_schema(tmp_path / "work" / "out").names
    assert not [name for name in names if "only" in name]


def test_events_that_are_there_are_left_out(tmp_path: Path) -> None:
    """By their ids, also where the late one claims to have arrived earlier."""
    storage = open_storage(str(tmp_path / "lake"))
    keys = [
        commit_events(storage, number, event_bodies.of_numbers(numbers), received=received)[0]
        for number, (numbers, received) in enumerate(
            [(range(3), RECEIVED), (range(2, 6), RECEIVED - 10**12)]
        )
    ]
    first, late = (Path(storage.url) / key for key in keys)
    rows = by_signal.merge([late], tmp_path / "out", "e", tmp_path, [first])
    assert rows == 3
    ids = pq.read_table(tmp_path / "out").column("event_id").to_pylist()
    assert ids == sorted(event_bodies.event_id(number).hex() for number in range(3, 6))
    assert by_signal.merge([first], tmp_path / "out", "e", tmp_path, [first, late]) == 0


@pytest.mark.parametrize("bound", ["READ_ROWS", "RUN_ROWS", "ROW_GROUP_ROWS"])
def test_the_recording_against_half_of_it_is_the_other_half(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """With one run or many, with small row groups or large ones."""
    monkeypatch.setattr(metric_merge, bound, 700)
    storage = open_storage(str(tmp_path / "lake"))
    bodies = [request.plain_body() for request in recording.requests[:20]]
    (everything,) = commit(storage, 1, *bodies)
    (half,) = commit(storage, 2, *bodies[::2])
    (rest,) = commit(storage, 3, *bodies[1::2])
    whole, even, odd = (Path(storage.url) / key for key in (everything, half, rest))
    wanted = by_signal.merge([odd], tmp_path / "odd", "s", tmp_path, [even])
    assert by_signal.merge([whole], tmp_path / "out", "s", tmp_path, [even]) == wanted
    columns = ["metric_name", "time_unix_nano", "series_id", "data_point_value"]
    tables = [pq.read_table(tmp_path / name, columns=columns) for name in ("out", "odd")]
    order = [(name, "ascending") for name in columns]
    assert tables[0].sort_by(order).equals(tables[1].sort_by(order))


def test_many_ids_take_turns_against_others_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded by turns, and nothing is missed between them."""
    monkeypatch.setattr(event_merge, "IDS_AT_ONCE", 7)
    storage = open_storage(str(tmp_path / "lake"))
    keys = [
        commit_events(storage, number, event_bodies.of_numbers(numbers))[0]
        for number, numbers in enumerate([range(40), range(20, 60)])
    ]
    first, late = (Path(storage.url) / key for key in keys)
    assert by_signal.merge([late], tmp_path / "out", "e", tmp_path, [first]) == 20


@pytest.mark.system
def test_a_merge_apart_leaves_out_the_same(tmp_path: Path) -> None:
    """The process of its own is told of the parts beside."""
    storage = open_storage(str(tmp_path / "lake"))
    inputs = [part(storage, 1, [(1, 1.0, "a"), (2, 2.0, "b")])]
    beside = [part(storage, 2, [(2, 2.0, "b")])]
    assert merged(inputs, beside, tmp_path / "work", apart=True) == [(1, 1.0, "a")]


def test_a_few_late_rows_cost_little_beside_a_large_part(tmp_path: Path) -> None:
    """Of the part beside only the series of the late rows are sorted."""
    storage = open_storage(str(tmp_path / "lake"))
    many = [gauge_request(*range(2_000), time_unix_nano=START, k=str(n)) for n in range(100)]
    (key,) = commit(storage, 1, *many)
    inputs = [part(storage, 2, [(5, -1.0, "7")])]
    started = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert len(merged(inputs, [Path(storage.url) / key], tmp_path / "work")) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - started < 2.5  # some 0.5 s
