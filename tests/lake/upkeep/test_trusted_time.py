"""A clock that jumps ahead deletes nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayotel.lake.storage.opening import open_storage
from rayotel.lake.upkeep.compactor import Compactor, Schedule
from rayotel.lake.upkeep.trusted_time import JUMP_SECONDS, TrustedTime, is_believable
from rayotel.model import Policies, Policy
from support.command import rayotel
from support.harness import gauge_request
from support.lakes import RECEIVER, commit

DAY = 86_400.0
YEARS = 15 * 365 * DAY
NOW = 1_796_000_000.0
POLICIES = Policies(Policy(days=30))
HOUR_NANO = 3600 * 10**9


def test_a_clock_that_agrees_with_what_was_written_lately_is_believed() -> None:
    """A lake that is empty, new, or written to for days."""
    for same_clock in (False, True):
        assert is_believable(NOW, [], same_clock=same_clock)
        assert is_believable(NOW, [NOW - 60], same_clock=same_clock)
        assert is_believable(NOW, [NOW - day * DAY for day in range(90)], same_clock=same_clock)


def test_a_jump_is_not_believed_until_the_storage_says_so_too() -> None:
    """S3 has a clock of its own; a directory has that of the machine, and must show two days."""
    lake = [NOW - day * DAY for day in range(90)]
    assert not is_believable(NOW + YEARS, lake, same_clock=False)
    assert not is_believable(NOW + YEARS, lake, same_clock=True)
    one = [*lake, NOW + YEARS - 60]
    assert is_believable(NOW + YEARS, one, same_clock=False)
    assert not is_believable(NOW + YEARS, one, same_clock=True)
    days = [*lake, *(NOW + YEARS - hour * 3600 for hour in range(49))]
    assert is_believable(NOW + YEARS, days, same_clock=True)


@given(st.lists(st.floats(0, 100 * DAY), max_size=20), st.floats(JUMP_SECONDS + 1, YEARS))
def test_no_lake_of_the_past_is_deleted_by_a_jump(ages: list[float], jump: float) -> None:
    """Whatever was written before it, in a bucket as in a directory."""
    written = [NOW - age for age in ages]
    for same_clock in (False, True):
        assert not written or not is_believable(NOW + jump, written, same_clock=same_clock)


def lake(tmp_path: Path) -> str:
    """A lake with a point per day of ten days, written on these days."""
    path = tmp_path / "lake"
    storage = open_storage(str(path))
    for day in range(10):
        at = time.time() - day * DAY
        body = gauge_request(day, time_unix_nano=int(at) * 10**9)
        (key,) = commit(storage, day, body, stream="s")
        os.utime(path / key, (at, at))
    return str(path)


def days_left(path: str) -> int:
    """How many parts the lake has."""
    return len(list(open_storage(path).objects("_rayotel/recent/"))) + len(
        list(open_storage(path).objects("s/"))
    )


def test_a_pass_with_a_clock_years_ahead_lets_nothing_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the first pass nor after commits; as soon as the clock is right, hours go again."""
    path = lake(tmp_path)
    storage = open_storage(path)
    compactor = Compactor(storage, tmp_path / "work", Schedule(1e12, 1e12, POLICIES))
    assert compactor.run(RECEIVER).expired == 0
    real = time.time

    def far() -> float:
        return real() + YEARS

    monkeypatch.setattr(time, "time", far)
    for number in (20, 21):
        assert compactor.run(RECEIVER).expired == 0
        at = int(far()) * 10**9
        (key,) = commit(storage, number, gauge_request(1, time_unix_nano=at), received=at)
        os.utime(tmp_path / "lake" / key, (far(), far()))
    fresh = Compactor(storage, tmp_path / "other", Schedule(1e12, 1e12, POLICIES))
    assert fresh.run(RECEIVER).expired == 0
    monkeypatch.setattr(time, "time", lambda: real() - YEARS)
    assert compactor.run(RECEIVER).expired == 0
    monkeypatch.setattr(time, "time", real)
    week = Compactor(storage, tmp_path / "work", Schedule(1e12, 1e12, Policies(Policy(days=5))))
    assert week.run(RECEIVER).expired == 4


def test_what_was_believed_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lake that gets nothing for days goes on expiring while its server runs."""
    storage = open_storage(lake(tmp_path))
    clock = TrustedTime(tmp_path / "clock")
    real = time.time
    assert clock.now(storage, ["s"]) is not None
    for day in range(1, 9):
        monkeypatch.setattr(time, "time", lambda day=day: real() + day * DAY)
        assert clock.now(storage, ["s"]) is not None
    monkeypatch.setattr(time, "time", lambda: real() + 12 * DAY)
    assert clock.now(storage, ["s"]) is None


def test_the_command_says_so_and_can_be_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hint tells how; without it nothing goes by age."""
    path = lake(tmp_path)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + YEARS)
    monkeypatch.setenv("RAYOTEL_RETENTION", "30d")
    command = ("retention", "--storage", path, "--data-dir", str(tmp_path / "data"))
    env = {"RAYOTEL_RETENTION": "30d"}
    told = rayotel(*command, env=env)
    assert told.returncode == 0
    assert "the clock may be far ahead" in told.stderr
    assert "0 hours removed" in told.stderr
    assert days_left(path) == 10
    assert "10 hours removed" in rayotel(*command, "--force", env=env).stderr
    assert days_left(path) == 0
