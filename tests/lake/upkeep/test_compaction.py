"""Hours that are over become one part, and no question ever notices."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayotel.errors import LakeError, PartRemoved
from rayotel.lake import catalog, layout
from rayotel.lake.layout import Part, PartName, Span
from rayotel.lake.merge import metrics as metric_merge
from rayotel.lake.merge import process
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.lake.upkeep import plan
from rayotel.lake.upkeep.compactor import Compactor, Pass, Schedule
from rayotel.replay import Recording
from support.command import rayotel
from support.examples import examples
from support.harness import PROTOBUF, Server, ask, gauge_request, wait_until
from support.lakes import EPOCH, HOUR, OTHER, RECEIVER, START, commit, names, part_name

NOW = Schedule(after_seconds=0, grace_seconds=0.001)
LINGER = Schedule(after_seconds=0, grace_seconds=3600)
EVERYTHING = "SELECT * EXCLUDE (p_timestamp) FROM s ORDER BY ALL"


def compact(storage: Storage, work: Path, schedule: Schedule = NOW) -> int:
    """One pass for RECEIVER; how many hours it merged."""
    return Compactor(storage, work, schedule).run(RECEIVER).hours


def test_an_hour_becomes_one_part_with_the_same_rows(storage: Storage, tmp_path: Path) -> None:
    """Rows stay what they were; the inputs go in a later pass; doing it again does nothing."""
    for number in range(1, 5):
        commit(storage, number, gauge_request(number, time_unix_nano=START + number, k=str(number)))
    before = ask(storage, EVERYTHING)
    assert compact(storage, tmp_path) == 1
    assert ask(storage, EVERYTHING) == before
    wait_until(lambda: compact(storage, tmp_path) == 0 and len(names(storage)) == 1)
    assert names(storage) == [f"{RECEIVER}-1-{EPOCH}.1.4.parquet"]
    assert ask(storage, EVERYTHING) == before


def test_late_points_join_their_hour(storage: Storage, tmp_path: Path) -> None:
    """An hour that gets a part after it was settled gets a second settled part beside the first."""
    for number in (1, 2):
        commit(storage, number, gauge_request(number, time_unix_nano=START + number))
    compact(storage, tmp_path, LINGER)
    commit(storage, 7, gauge_request(7, time_unix_nano=START + 7))
    assert len(ask(storage, EVERYTHING)) == 3
    compact(storage, tmp_path, LINGER)
    settled = [part.name.key for part in catalog.parts(storage, "s") if part.name.is_settled]
    ends = [f"/{RECEIVER}-1-{EPOCH}.{span}.parquet" for span in ("1.2", "7.7")]
    assert [key[key.rindex("/") :] for key in settled] == ends
    assert len(ask(storage, EVERYTHING)) == 3


def test_a_commit_repeated_after_the_merge_changes_nothing(
    storage: Storage, tmp_path: Path
) -> None:
    """A part that a crash makes the committer write again is covered by the part that has it."""
    for number in (1, 2):
        commit(storage, number, gauge_request(number, time_unix_nano=START + number))
    compact(storage, tmp_path)
    commit(storage, 2, gauge_request(2, time_unix_nano=START + 2))
    assert [row["data_point_value"] for row in ask(storage, EVERYTHING)] == [1, 2]


def test_other_receivers_and_the_running_hour_are_left_alone(
    storage: Storage, tmp_path: Path
) -> None:
    """A receiver merges its own parts, of hours that are over."""
    for number in (1, 2):
        commit(storage, number, gauge_request(number, time_unix_nano=START), receiver=OTHER)
        commit(storage, number, gauge_request(number))
    before = names(storage)
    assert compact(storage, tmp_path) == 0
    assert names(storage) == before


def test_parts_linger_for_questions_that_began_before(storage: Storage, tmp_path: Path) -> None:
    """Within the grace nothing is removed, so every listed part can still be opened."""
    for number in (1, 2):
        commit(storage, number, gauge_request(number, time_unix_nano=START + number))
    listed = catalog.parts(storage, "s")
    compact(storage, tmp_path, LINGER)
    compact(storage, tmp_path, LINGER)
    assert all(storage.read(part.name.key) for part in listed)


def test_a_point_sent_twice_is_one(storage: Storage, tmp_path: Path) -> None:
    """Same series, time and value collapse; another value or time does not. NaN equals NaN."""
    values = (1.0, 1.0, 2.0, float("nan"), float("nan"))
    for number, value in enumerate(values, 1):
        commit(storage, number, gauge_request(value, time_unix_nano=START, k="a"))
    commit(storage, 6, gauge_request(1.0, time_unix_nano=START + 1000, k="a"))
    commit(storage, 7, gauge_request(1.0, time_unix_nano=START, k="b"))
    compact(storage, tmp_path)
    found = ask(storage, "SELECT metric_k, data_point_value AS v FROM s ORDER BY ALL")
    assert [(row["metric_k"], repr(row["v"])) for row in found] == [
        ("a", "1.0"),
        ("a", "1.0"),
        ("a", "2.0"),
        ("a", "nan"),
        ("b", "1.0"),
    ]


def test_labels_that_differ_in_case_meet_in_one_column(storage: Storage, tmp_path: Path) -> None:
    """Parts that spell a label's column differently merge, and no spelling is forgotten."""
    commit(storage, 1, gauge_request(1, time_unix_nano=START, Version="upper"))
    commit(storage, 2, gauge_request(2, time_unix_nano=START, version="lower"))
    compact(storage, tmp_path)
    found = ask(
        storage,
        "SELECT metric_version AS v, labels_overflow AS o FROM s ORDER BY data_point_value",
    )
    assert found == [
        {"v": "upper", "o": None},
        {"v": "lower", "o": '{"metric_version": "lower"}'},
    ]


@pytest.mark.parametrize(("run", "group"), [(262_144, 131_072), (3_000, 700)])
def test_the_recording_merged_is_the_recording(
    recording: Recording,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: int,
    group: int,
) -> None:
    """With one run or many, all rows are there, and in order of series and time."""
    monkeypatch.setattr(metric_merge, "RUN_ROWS", run)
    monkeypatch.setattr(metric_merge, "READ_ROWS", run)
    monkeypatch.setattr(metric_merge, "ROW_GROUP_ROWS", group)
    storage = open_storage(str(tmp_path / "lake"))
    bodies = [request.plain_body() for request in recording.requests[:40]]
    for number in range(4):
        commit(storage, number + 1, *bodies[number::4])
    before = ask(storage, "SELECT COLUMNS(* EXCLUDE (p_timestamp))::VARCHAR FROM s ORDER BY ALL")
    assert compact(storage, tmp_path / "work") == 1
    after = ask(storage, "SELECT COLUMNS(* EXCLUDE (p_timestamp))::VARCHAR FROM s ORDER BY ALL")
    assert after == before
    (part,) = catalog.parts(storage, "s")
    table = pq.read_table(tmp_path / "lake" / part.name.key)
    metrics = table.column("metric_name").to_pylist()
    assert metrics == sorted(metrics)
    assert _one_stretch_per_series(table.column("series_id").to_pylist())


def _one_stretch_per_series(ids: list[int]) -> bool:
    starts = [b for a, b in pairwise([None, *ids]) if a != b]
    return len(starts) == len(set(ids))


EPOCHS = st.sampled_from(["a" * 10, "b" * 10])
spans = st.lists(
    st.builds(
        lambda e, n, more: Span(e, n, n + more), EPOCHS, st.integers(1, 9), st.integers(0, 2)
    ),
    min_size=1,
    max_size=3,
)
hour_names = st.builds(
    lambda of, level, is_settled: PartName(
        "s", HOUR, RECEIVER, layout.joined(of), level, is_settled
    ),
    spans,
    st.integers(0, 2),
    st.booleans(),
)
written_spans = st.none() | st.builds(
    lambda e, n, more: Span(e, n, n + more), EPOCHS, st.integers(0, 9), st.integers(0, 9)
)


@settings(max_examples=examples(300))
@given(st.lists(hour_names, unique=True, max_size=10), written_spans)
def test_settling_hides_what_it_read_and_nothing_else(
    listed: list[PartName], written: Span | None
) -> None:
    """Job after job an hour becomes parts that are settled and share no segment."""
    found = [Part(name, 1, 0.0) for name in listed]
    for _ in range(50):
        jobs = plan.jobs(found, RECEIVER, 1e12, 0, written)
        if not jobs:
            break
        (job,) = jobs
        before = {part.name for part in layout.visible(found)}
        assert {part.name for part in job.inputs} <= before
        assert all(job.output.covers(part.name) for part in job.inputs)
        assert all(not layout.overlap(job.output.spans, one.name.spans) for one in job.against)
        assert all(one.name.is_settled for one in job.against)
        assert job.output.is_settled
        assert len(job.output.spans) <= layout.MAX_SPANS
        found.append(Part(job.output, 1, 0.0))
        after = {part.name for part in layout.visible(found)}
        assert after == before - {part.name for part in job.inputs} | {job.output}
    left = [part.name for part in layout.visible(found)]
    assert all(name.is_settled for name in left)
    for number, name in enumerate(left):
        for other in left[:number]:
            both = layout.joined((*name.spans, *other.spans))
            is_too_wide = len(both) > layout.MAX_SPANS
            assert is_too_wide or not layout.overlap(name.spans, other.spans)


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), max_size=80))
def test_a_running_hour_merges_neighbours_and_hides_nothing_else(
    made: list[tuple[int, bool, bool]],
) -> None:
    """A merge hides its inputs and no other part, and few small parts are left of any level."""
    parts = {}
    for number, (level, is_large, is_there) in enumerate(made):
        name = part_name(number, number, level)
        if is_there:
            parts[name] = Part(name, plan.MAX_YOUNG_BYTES + is_large, 0.0)
    now = HOUR * 3600.0
    written = Span(EPOCH, 0, 60)
    while jobs := plan.jobs(parts.values(), RECEIVER, now, 900, written):
        for job in jobs:
            assert len(job.inputs) >= plan.FAN_IN
            seen = {part.name for part in layout.visible(parts.values())}
            parts[job.output] = Part(job.output, 1, 0.0)
            after = {part.name for part in layout.visible(parts.values())}
            assert after == seen - {part.name for part in job.inputs} | {job.output}
            (span,) = job.output.spans
            assert written.holds(span)
    assert not plan.jobs(parts.values(), RECEIVER, now, 900, None)
    assert not plan.jobs(parts.values(), RECEIVER, now, 900, Span("f" * 10, 0, 60))


def test_a_gap_is_closed_only_where_it_holds_nothing() -> None:
    """A segment that may still give a late part, or that gave one, is never hidden."""
    recent = [Part(part_name(number), 1, 0.0) for number in (2, 5, 9)]

    def spans_of(*settled: PartName, written: Span | None) -> list[str]:
        parts = [*recent, *(Part(name, 1, 0.0) for name in settled)]
        (job,) = plan.jobs(parts, RECEIVER, 1e12, 0, written)
        assert len(job.inputs) == 3
        return [f"{span.first}-{span.last}" for span in job.output.spans]

    assert spans_of(written=None) == ["2-2", "5-5", "9-9"]
    assert spans_of(written=Span("f" * 10, 0, 99)) == ["2-2", "5-5", "9-9"]
    assert spans_of(written=Span(EPOCH, 0, 99)) == ["2-9"]
    assert spans_of(written=Span(EPOCH, 0, 7)) == ["2-5", "9-9"]
    assert spans_of(part_name(7, is_settled=True), written=Span(EPOCH, 0, 99)) == ["2-5", "9-9"]
    assert spans_of(part_name(3, 4, is_settled=True), written=Span(EPOCH, 0, 99)) == ["2-2", "5-9"]


def test_a_running_hour_has_few_parts(tmp_path: Path) -> None:
    """Every commit is a part; a question opens few of them all the same, and sees every row."""
    storage = open_storage(str(tmp_path / "lake"))
    now = time.time_ns()
    compactor = Compactor(storage, tmp_path / "work", Schedule(3600, 3600))
    for number in range(1, 2 * plan.FAN_IN + 3):
        commit(storage, number, gauge_request(number, time_unix_nano=now), received=now)
        written = Span(EPOCH, 1, number)
        done = compactor.tidy_young(RECEIVER, Pass(lambda: written))  # noqa: B023
        assert done.error is None
    visible = [part.name for part in catalog.parts(storage, "s")]
    assert [name.level for name in visible] == [1, 1, 0, 0]
    rows = ask(storage, "SELECT data_point_value AS v FROM s ORDER BY v")
    assert [row["v"] for row in rows] == list(range(1, 2 * plan.FAN_IN + 3))
    # and when the hour is over and quiet, it is one
    later = Compactor(storage, tmp_path / "work", Schedule(-7200, 3600))
    assert later.run(RECEIVER).hours == 1
    assert len(catalog.parts(storage, "s")) == 1


def test_an_hour_that_still_gets_points_is_not_merged_whole() -> None:
    """Late data that trickle in must not have their hour rewritten with every pass."""
    parts = [Part(part_name(n, n, 0), 1, 1e9 + n) for n in range(3)]
    ended = (HOUR + 1) * 3600.0
    assert not plan.jobs([*parts[1:], Part(parts[0].name, 1, ended)], RECEIVER, ended + 9, 10)
    assert plan.jobs(parts, RECEIVER, ended + 11, 10)


def test_questions_during_compaction_see_every_row(storage: Storage, tmp_path: Path) -> None:
    """While parts are merged and removed over and over, every question gives the right count."""
    asked: list[int] = []
    wrong: list[int] = []
    stop = threading.Event()
    for number in range(1, 4):
        commit(storage, number, gauge_request(1, 2, 3, time_unix_nano=START + 10_000 * number))

    def question() -> None:
        while not stop.is_set():
            try:
                count = ask(storage, "SELECT count(*) AS n FROM s")[0]["n"]
            except PartRemoved:  # slower than the grace; a reader asks again
                continue
            asked.append(count)
            if count < 9 or count % 3:
                wrong.append(count)

    def was_asked(times: int) -> Callable[[], bool]:
        return lambda: len(asked) >= times

    thread = threading.Thread(target=question)
    thread.start()
    schedule = Schedule(after_seconds=0, grace_seconds=2)
    for number in range(4, 10):
        Compactor(storage, tmp_path, schedule).run(RECEIVER)
        commit(storage, number, gauge_request(1, 2, 3, time_unix_nano=START + 10_000 * number))
        wait_until(was_asked(number - 3))
    stop.set()
    thread.join()
    assert not wrong
    assert ask(storage, "SELECT count(*) AS n FROM s")[0]["n"] == 27


def test_the_command_and_adoption(
    make_storage: Callable[[], tuple[Storage, dict[str, str]]], tmp_path: Path
) -> None:
    """`rayotel compact` merges the own receiver's hours; --adopt takes over a dead one's."""
    storage, env = make_storage()
    with Server(tmp_path / "data", env=env) as server:
        for number in range(3):
            server.post(gauge_request(number, time_unix_nano=START), PROTOBUF)
            server.stop()
            server.start()
        assert server.stop() == 0
    commit(storage, 1, gauge_request(1, time_unix_nano=START), receiver=OTHER)
    commit(storage, 2, gauge_request(2, time_unix_nano=START), receiver=OTHER)
    command = ("compact", "--data-dir", str(tmp_path / "data"))
    run = rayotel(*command, env=env)
    assert (run.returncode, run.stdout) == (0, "")
    assert "1 hours compacted: 3 parts with 3 rows" in run.stderr
    run = rayotel(*command, "--adopt", OTHER, env=env)
    assert "1 hours compacted: 2 parts with 2 rows" in run.stderr
    assert rayotel(*command, "--adopt", "nobody", env=env).returncode == 2
    missing = rayotel("compact", "--data-dir", str(tmp_path / "none"), env=env)
    assert missing.returncode == 1
    assert "hint:" in missing.stderr


def test_a_server_compacts_by_itself(tmp_path: Path) -> None:
    """A running server merges old hours and removes what it covered."""
    env = {
        "RAYOTEL_COMPACTION_INTERVAL_SECONDS": "0.2",
        "RAYOTEL_COMPACTION_AFTER_SECONDS": "1",
        "RAYOTEL_COMPACTION_GRACE_SECONDS": "1",
        "RAYOTEL_QUERY_TIMEOUT_SECONDS": "1",
    }
    storage = open_storage(str(tmp_path / "data" / "lake"))
    with Server(tmp_path / "data", env=env) as server:
        for number in range(3):
            body = gauge_request(number, time_unix_nano=START)
            assert server.post(body, PROTOBUF).status_code == 200
            wait_until(lambda: "timestamp_seconds 0.0" in server.get("/metrics").text)
        wait_until(
            lambda: (
                len(names(storage)) == 1
                and "/_rayotel/" not in catalog.parts(storage, "raymetrics")[0].name.key
            )
        )
        assert ask(storage, "SELECT count(*) AS n FROM raymetrics")[0]["n"] == 3
        assert server.stop() == 0


def test_a_damaged_part_stops_no_other_hour(tmp_path: Path) -> None:
    """A part that is none is told by name and left where it is; nothing is lost."""
    storage = open_storage(str(tmp_path / "lake"))
    commit(storage, 1, gauge_request(1, time_unix_nano=START))
    broken = part_name(2)
    storage.put(broken.key, memoryview(b"not parquet"))
    for number in (3, 4):
        commit(storage, number, gauge_request(1, time_unix_nano=START), stream="z")
    with pytest.raises(LakeError, match="cannot merge"):
        compact(storage, tmp_path / "work")
    assert len(catalog.all_parts(storage, "s")) == 2
    assert len(catalog.parts(storage, "z")) == 1


@pytest.mark.system
def test_a_merge_apart_is_the_same_merge(recorded_lake: Storage, tmp_path: Path) -> None:
    """A process of its own gives the same bytes, and names damage as such."""
    found = [part.name.key for part in catalog.parts(recorded_lake, "raymetrics")]
    paths = [Path(recorded_lake.url) / key for key in found]
    results = []
    for number, merging in enumerate((metric_merge.merge, process.merge_apart)):
        spill = tmp_path / str(number)
        spill.mkdir()
        rows = merging(paths, spill / "out", "raymetrics", spill)
        results.append((rows, (spill / "out").read_bytes()))
    assert results[0] == results[1]
    broken = tmp_path / "broken"
    broken.write_bytes(paths[0].read_bytes()[:-20] + b"x" * 20)
    with pytest.raises(ValueError, match="Parquet"):
        process.merge_apart([broken], tmp_path / "out", "raymetrics", tmp_path)
    with pytest.raises(OSError, match="ended with 4") as raised:
        process.merge_apart([tmp_path / "none"], tmp_path / "out", "raymetrics", tmp_path)
    assert not process.is_damage(raised.value)


def test_a_part_damaged_in_its_middle_is_named(tmp_path: Path) -> None:
    """Also where only the reading of its pages fails."""
    storage = open_storage(str(tmp_path / "lake"))
    keys = [
        commit(storage, number, gauge_request(*range(500), time_unix_nano=START))[0]
        for number in (1, 2)
    ]
    content = bytearray(storage.read(keys[0]))
    for place in range(200, len(content) // 2):
        content[place] ^= 0x55
    storage.put(keys[0], memoryview(content))
    with pytest.raises(LakeError, match="cannot merge"):
        compact(storage, tmp_path / "work")


def test_what_a_crash_left_half_written_goes_in_time(tmp_path: Path) -> None:
    """A file that never got its name is mentioned by verify, and goes when a day is over."""
    storage = open_storage(str(tmp_path / "lake"))
    commit(storage, 1, gauge_request(1, time_unix_nano=START))
    old, new = (tmp_path / "lake" / ".tmp" / name for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half of a part")
    os.utime(old, (1e9, 1e9))
    told = rayotel("verify", "--storage", str(tmp_path / "lake"))
    assert told.returncode == 0
    assert told.stdout.count("a write that has not ended") == 2
    compact(storage, tmp_path / "work")
    assert (old.exists(), new.exists()) == (False, True)
    assert len(ask(storage, EVERYTHING)) == 1


def test_one_series_may_change_its_description(tmp_path: Path) -> None:
    """What is no part of a series' id stays with its own rows, and the series in one stretch."""
    paths = []
    for number, told in enumerate(("old", "new", "old"), 1):
        table = pa.table(
            {
                "metric_name": ["m"] * 2,
                "series_id": pa.array([7, 7], pa.int64()),
                "time_unix_nano": pa.array(
                    [START + 1000 * number, START + 1000 * (10 + number)]
                ).cast(pa.timestamp("ns", "UTC")),
                "p_timestamp": pa.array([START, START]).cast(pa.timestamp("ns", "UTC")),
                "metric_description": [told] * 2,
                "data_point_value": [float(number), float(number)],
            }
        )
        paths.append(tmp_path / f"{number}.parquet")
        pq.write_table(table, paths[-1])
    metric_merge.merge(paths, tmp_path / "out", "s", tmp_path)
    table = pq.read_table(tmp_path / "out")
    assert table.column("data_point_value").to_pylist() == [1, 2, 3, 1, 2, 3]
    assert table.column("metric_description").to_pylist() == ["old", "new", "old"] * 2


def test_a_hash_is_no_identity(tmp_path: Path) -> None:
    """Two series whose ids are equal by accident keep their labels and both their points."""
    table = pa.table(
        {
            "metric_name": ["m"] * 4,
            "series_id": pa.array([7] * 4, pa.int64()),
            "time_unix_nano": pa.array([START] * 4).cast(pa.timestamp("ns", "UTC")),
            "p_timestamp": pa.array([START] * 4).cast(pa.timestamp("ns", "UTC")),
            "metric_k": ["b", "a", None, "a"],
            "data_point_value": [1.0] * 4,
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    assert metric_merge.merge([tmp_path / "in.parquet"], tmp_path / "out", "s", tmp_path) == 3
    assert sorted(map(str, pq.read_table(tmp_path / "out").column("metric_k").to_pylist())) == [
        "None",
        "a",
        "b",
    ]


@pytest.mark.parametrize("bound", ["RUN_SERIES_BYTES", "RUN_POINT_BYTES", "BLOCK_SERIES_BYTES"])
def test_bounds_by_bytes_change_no_row(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Runs and row groups that end early, for their series are large, hold the same rows."""
    monkeypatch.setattr(metric_merge, "READ_ROWS", 500)
    monkeypatch.setattr(metric_merge, bound, 100_000)
    storage = open_storage(str(tmp_path / "lake"))
    for number in range(2):
        commit(storage, number + 1, *(r.plain_body() for r in recording.requests[number:20:2]))
    everything = "SELECT COLUMNS(* EXCLUDE (p_timestamp))::VARCHAR FROM s ORDER BY ALL"
    before = ask(storage, everything)
    assert compact(storage, tmp_path / "work") == 1
    assert ask(storage, everything) == before


def test_a_merged_part_is_one_row_group_per_block(recording: Recording, tmp_path: Path) -> None:
    """No splinter of a row group, and statistics of what rows are sorted by."""
    storage = open_storage(str(tmp_path / "lake"))
    for number in range(2):
        commit(storage, number + 1, *(r.plain_body() for r in recording.requests[number:20:2]))
    compact(storage, tmp_path / "work")
    (part,) = catalog.parts(storage, "s")
    metadata = pq.read_metadata(tmp_path / "lake" / part.name.key)
    assert metadata.num_row_groups == 1
    places = [metadata.schema.names.index(name) for name in ("metric_name", "time_unix_nano")]
    assert all(metadata.row_group(0).column(at).statistics.has_min_max for at in places)
