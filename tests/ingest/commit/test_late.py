"""Rows of hours that are long over wait for others, and become few parts."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from pathlib import Path

import pytest

from rayotel.ingest.commit import late
from rayotel.lake import layout
from support.committing import Run, Watched, keys, values
from support.hostile_bodies import ATTACKS

NOW = int(time.time()) // 3600
OLD = 490_000
HOURS = range(OLD, OLD + 5)
HOURS_OF_A_YEAR, SECONDS_OF_A_YEAR = 8784, 60


def parts_by_hour(lake: Watched) -> Counter[int]:
    """How many parts each hour has."""
    return Counter(name.hour for key in keys(lake) if (name := layout.parse_key(key)) is not None)


def backfill(run: Run, number: int) -> None:
    """A request with a point in each of some old hours, and a commit of what there is."""
    for hour in HOURS:
        run.numbers([number], hour)
    run.step()


def test_a_backfill_in_many_requests_makes_one_part_an_hour(tmp_path: Path) -> None:
    """However many commits see it; the fresh points beside it do not wait."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    for number in range(12):
        run.numbers([1000 + number], NOW)
        backfill(run, number)
    assert parts_by_hour(lake) == {NOW: 12}
    assert run.finish()
    assert parts_by_hour(lake) == {NOW: 12, **dict.fromkeys(HOURS, 1)}
    assert len(values(lake)) == 12 * (1 + len(HOURS))


def test_late_points_are_written_soon_when_no_more_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few times an hour; a sender that goes on slowly makes few parts all the same."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    monkeypatch.setattr(run.committer, "_interval_seconds", 0.0)
    counts = []
    for number in range(8):
        backfill(run, number)
        counts.append(parts_by_hour(lake)[OLD])
    assert counts == [1, 2, 3, 3, 3, 3, 3, 3]
    assert run.finish()
    assert parts_by_hour(lake)[OLD] == 4


def test_nobody_waits_longer_than_the_setting(tmp_path: Path) -> None:
    """Also where more late points come all the time."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake, late_wait_seconds=0.001)
    for number in range(3):
        time.sleep(0.002)
        backfill(run, number)
    assert parts_by_hour(lake)[OLD] == 3
    run.end()


@pytest.mark.parametrize(
    ("bound", "value"), [("MAX_GROUP_COLUMNS_BYTES", 1), ("MAX_HOURS_PENDING", 3)]
)
def test_what_waits_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """Beyond a bound of bytes or hours it is written at once."""
    monkeypatch.setattr(late, bound, value)
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    backfill(run, 1)
    assert not run.journal.held
    assert parts_by_hour(lake)[OLD] == 1
    run.end()


def test_a_setting_of_zero_lets_nothing_wait(tmp_path: Path) -> None:
    """Late rows are then stored with the fresh ones."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake, late_wait_seconds=0.0)
    backfill(run, 1)
    assert not run.journal.held
    assert parts_by_hour(lake) == dict.fromkeys(HOURS, 1)
    run.end()


def test_hours_of_streams_that_alternate_have_short_names(tmp_path: Path) -> None:
    """Late parts of one run follow one another without gaps, too."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    for number in range(9):
        run.numbers([number], OLD, f"stream{number % 3}")
        run.numbers([number], NOW, "other")
        run.step(stopping=number % 4 == 3)
    assert run.finish()
    names = [layout.parse_key(key) for key in keys(lake)]
    for stream in ("stream0", "stream1", "stream2", "other"):
        spans = [span for name in names if name and name.stream == stream for span in name.spans]
        assert len(layout.joined(spans)) == 1


def test_a_clock_that_was_wrong_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points of now are late while the clock is years ahead, and fresh again after it."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    run.numbers([1], NOW)
    run.step()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: (NOW + 100_000) * 3600.0)
        run.numbers([2], NOW)
        run.step()
        run.step(stopping=True)
    run.numbers([3], NOW)
    run.step()
    assert values(lake) == [1, 2, 3]
    assert parts_by_hour(lake) == {NOW: 3}
    run.end()


@pytest.mark.thorough
def test_each_point_of_its_own_hour(tmp_path: Path) -> None:
    """An hour costs so little CPU that a year in one request is done within a minute."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    sent = ATTACKS["each point of its own hour"](time.time_ns(), 40_000)
    assert run.take(gzip.decompress(sent.body))
    before = time.process_time()
    assert run.finish()
    spent = time.process_time() - before
    hours = len(parts_by_hour(lake))
    assert hours > 300
    assert set(parts_by_hour(lake).values()) == {1}
    assert spent < 5 * hours * SECONDS_OF_A_YEAR / HOURS_OF_A_YEAR
