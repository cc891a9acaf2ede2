"""Parts of events: merged, sorted, each event once; and the memory of what was stored."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayotel.errors import LakeError, WalError
from rayotel.ingest.wal.recent_events import StoredEvents, key_of
from rayotel.lake import catalog
from rayotel.lake.merge import by_signal, process
from rayotel.lake.merge import events as event_merge
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.lake.upkeep.compactor import Compactor, Schedule, Tidied
from support import event_bodies as made
from support.examples import examples
from support.harness import ask, gauge_request
from support.lakes import RECEIVER, START, commit, commit_events, names

NOW = Schedule(0, 0)


def compact(storage: Storage, work: Path) -> Tidied:
    """One pass over hours that are over."""
    return Compactor(storage, work, NOW).run(RECEIVER)


def everything(storage: Storage, stream: str = "e") -> list[dict[str, Any]]:
    """All rows of a stream."""
    return ask(storage, f'SELECT * FROM "{stream}" ORDER BY event_id, p_timestamp')


def test_an_hour_becomes_one_part_with_the_same_rows(storage: Storage, tmp_path: Path) -> None:
    """Merged, a stream answers as before; labels and the unreadable included."""
    columns: list[tuple[tuple[str, str], ...]] = [(), (("cluster_id", "a"),), (("team", "ml"),)]
    for number in range(6):
        content = [made.event(10 * number + k, eventType="BA"[k % 2] + "_EVENT") for k in range(5)]
        body = made.body(*content, "bad", made.event(0, timestamp="never"))
        received = made.TIME_UNIX_NANO + 1000 * number
        commit_events(storage, number, body, received=received, columns=columns[number % 3])
    before = everything(storage)
    done = compact(storage, tmp_path / "work")
    # the unreadable are the same in every request: the first of them stays
    assert (done.inputs, done.rows, done.repeated) == (6, 32, 10)
    assert len(catalog.parts(storage, "e")) == 1
    after = everything(storage)
    firsts = {row["event_id"]: row for row in reversed(before)}
    assert after == [firsts[event_id] for event_id in sorted(firsts)]


@pytest.mark.system
def test_the_recording_merged_is_the_recording(events_lake: Storage, tmp_path: Path) -> None:
    """The recorded events are the same rows, sorted, in a process of its own as in this one."""
    paths = paths_of(events_lake, "rayevents")
    outputs = []
    for number, merge in enumerate((by_signal.merge, process.merge_apart)):
        spill = tmp_path / str(number)
        spill.mkdir()
        assert merge(paths, spill / "out", "rayevents", spill) == 23_781
        outputs.append((spill / "out").read_bytes())
    assert outputs[0] == outputs[1]
    merged = pq.read_table(pa.BufferReader(outputs[0]))
    assert merged.sort_by("event_id").equals(
        pa.concat_tables([pq.read_table(path) for path in paths]).sort_by("event_id")
    )
    order = [(name, "ascending") for name in ("event_type", "time_unix_nano", "event_id")]
    assert merged.equals(merged.sort_by(order))
    assert len(outputs[0]) / len(merged) < 80
    marks = pq.read_metadata(tmp_path / "0" / "out").metadata
    assert marks[b"rayotel.signal"] == b"events"


def paths_of(storage: Storage, stream: str) -> list[Path]:
    """The parts of a stream in a directory."""
    return [Path(storage.url) / part.name.key for part in catalog.parts(storage, stream)]


def test_of_repeated_events_the_first_to_arrive_stays(storage: Storage, tmp_path: Path) -> None:
    """Also where the repetition says another type or another time of the same hour."""
    later = "2026-01-02T03:59:00Z"
    first = made.event(1, message="first", timestamp=later)
    commit_events(storage, 5, made.body(made.event(1, message="third", eventType="A")))
    commit_events(storage, 6, made.body(made.event(1, message="second")), received=1_796 * 10**15)
    commit_events(storage, 7, made.body(first, made.event(2)), received=1_795 * 10**15)
    assert compact(storage, tmp_path / "work").repeated == 2
    assert {row["message"] for row in everything(storage)} == {"first", None}


@given(
    segments=st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=2, max_size=8),
    bounds=st.tuples(
        st.integers(1, 20), st.integers(1, 50), st.integers(1, 3000), st.integers(2, 9)
    ),
)
@settings(max_examples=examples(60), deadline=None)
def test_bounds_change_no_row(
    tmp_path_factory: pytest.TempPathFactory,
    segments: list[list[int]],
    bounds: tuple[int, int, int, int],
) -> None:
    """However little is held at once, a merge gives each event once, in order."""
    directory = tmp_path_factory.mktemp("merge")
    storage = open_storage(str(directory / "lake"))
    for number, events in enumerate(segments):
        content = [
            made.event(one, eventType=f"T{one % 3}", timestamp=f"2026-01-02T03:{one:02}:00Z")
            for one in events
        ]
        commit_events(storage, number, made.body(*content))
    paths = paths_of(storage, "e") if any(segments) else []
    if not paths:
        return
    with pytest.MonkeyPatch.context() as patch:
        named = ("MAX_BATCH_ROWS", "IDS_AT_ONCE", "GROUP_BYTES", "MAX_OPEN_INPUTS")
        for name, bound in zip(named, bounds, strict=True):
            patch.setattr(event_merge, name, bound)
        patch.setattr(event_merge, "MIN_BATCH_ROWS", 1)
        rows = event_merge.merge(paths, directory / "out", "e", directory)
    found = pq.read_table(directory / "out")
    numbers = sorted({one for events in segments for one in events})
    assert rows == len(found) == len(numbers)
    keys = sorted((f"T{one % 3}", one, made.event_id(one).hex()) for one in numbers)
    assert found.column("event_id").to_pylist() == [key[2] for key in keys]


def test_parts_of_two_signals_are_not_merged(tmp_path: Path) -> None:
    """What should never stand in one stream is named as damage, and stays as it is."""
    storage = open_storage(str(tmp_path / "lake"))
    commit(storage, 1, gauge_request(1, time_unix_nano=made.TIME_UNIX_NANO))
    commit_events(storage, 2, made.of_numbers([1]), stream="s")
    with pytest.raises(LakeError, match="events and metrics in one stream"):
        compact(storage, tmp_path / "work")
    assert len(names(storage)) == 2


def test_events_beside_metrics(storage: Storage, tmp_path: Path) -> None:
    """A pass merges streams of both signals, each in its way."""
    for number in range(2):
        commit(storage, number, gauge_request(number, time_unix_nano=START + number))
        commit_events(storage, number, made.of_numbers([number]))
    assert compact(storage, tmp_path / "work").rows == 4
    assert len(everything(storage)) == 2
    assert len(ask(storage, "SELECT * FROM s")) == 2


def ids(numbers: Iterable[int]) -> list[str]:
    """Ids of events."""
    return [made.event_id(number).hex() for number in numbers]


def known(stored: StoredEvents, stream: str = "s") -> set[int]:
    """Which of the first events are remembered."""
    return {one for one in range(400) if stored.has(stream, made.event_id(one).hex())}


def opened(directory: Path, first_segment: int, max_events: int = 100) -> StoredEvents:
    """What a start remembers."""
    stored = StoredEvents(directory / "events", max_events=max_events)
    stored.open(range(first_segment, 1000))
    return stored


def release(stored: StoredEvents, segment: int, numbers: Iterable[int]) -> None:
    """What a commit does in the end."""
    events = {"s": ids(numbers)}
    stored.persist(segment, events)
    stored.add(segment, events)


def test_events_are_remembered_by_stream_and_within_the_bound(tmp_path: Path) -> None:
    """The newest segments that fit are known, each stream's own."""
    stored = opened(tmp_path, 1, 10)
    for segment in range(1, 6):
        release(stored, segment, range(4 * segment, 4 * segment + 4))
    assert known(stored) == set(range(16, 24))
    assert known(stored, "other") == set()


def test_a_segment_that_comes_again_finds_what_it_found_before(tmp_path: Path) -> None:
    """Whatever was made durable of a segment and those after it, its own ids are not known."""
    stored = opened(tmp_path, 1)
    for segment in range(1, 6):
        release(stored, segment, [segment])
    for first in (6, 4, 4, 1):
        assert known(opened(tmp_path, first)) == set(range(1, first))


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    restarts=st.sets(st.integers(0, 39)),
    bound=st.integers(1, 30),
)
@settings(max_examples=examples(60), deadline=None)
def test_a_restart_forgets_nothing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], restarts: set[int], bound: int
) -> None:
    """With restarts anywhere, the same is remembered as without any, in few files."""
    directory = tmp_path_factory.mktemp("ids")
    one, other = opened(directory, 0, bound), opened(tmp_path_factory.mktemp("ids"), 0, bound)
    first = 0
    for segment, size in enumerate(sizes):
        if segment in restarts:
            one = opened(directory, segment, bound)
        for stored in (one, other):
            release(stored, segment, range(first, first + size))
        first += size
        assert known(one) == known(other)
    assert len(list((directory / "events").iterdir())) <= 3 * max(8, bound) + 2


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:-1], lambda raw: raw + b"RYE1", lambda raw: raw[:-10] + b"x" + raw[-9:]],
    ids=["cut", "torn", "flipped"],
)
def test_a_file_ends_where_it_does_not_check(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """A crash in the middle of a write costs that block, which was of no released segment."""
    stored = opened(tmp_path, 1)
    for segment in (1, 2):
        release(stored, segment, [segment])
    (path,) = (tmp_path / "events").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert {1} <= known(opened(tmp_path, 3)) <= {1, 2}


def test_a_disk_that_fails_is_tried_again(tmp_path: Path) -> None:
    """An error in persisting is a WalError; the next try begins a file of its own."""
    stored = opened(tmp_path, 1)
    release(stored, 1, [1])
    (path,) = (tmp_path / "events").iterdir()
    path.chmod(0o400)
    moved = path.rename(tmp_path / "aside")
    path.mkdir()
    with pytest.raises(WalError, match="cannot keep ids"):
        stored.persist(2, {"s": ids([2])})
    path.rmdir()
    moved.rename(path)
    release(stored, 2, [2])
    assert known(opened(tmp_path, 3)) == {1, 2}


def test_ids_of_other_lengths_are_told_apart() -> None:
    """An id of 28 bytes is itself, any other a digest of as many."""
    rng = random.Random(1)
    raws = [rng.randbytes(size) for size in (1, 16, 28, 64)]
    assert key_of(raws[2].hex()) == raws[2]
    assert len({key_of(raw.hex()) for raw in raws}) == 4
    assert {len(key_of(raw.hex())) for raw in raws} == {28}
