"""What is no longer kept goes, in whole hours, and nothing else does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayotel.config import values
from rayotel.errors import UsageError
from rayotel.lake.layout import Part
from rayotel.lake.storage.interface import Storage
from rayotel.lake.upkeep.retention import expired as expired_parts
from rayotel.model import Policies, Policy
from support.command import rayotel
from support.harness import PROTOBUF, Server, ask, gauge_request, rayotel_process, wait_until
from support.lakes import OTHER, commit, names, part_name

NOW_HOUR = 500_000
NOW_UNIX = NOW_HOUR * 3600 + 1800.0
HOUR_NANO = 3600 * 10**9


def policy(text: str) -> Policy:
    """The value of a policy's text."""
    return values.policy("retention", text)


hours = st.lists(st.integers(NOW_HOUR - 200, NOW_HOUR), max_size=12)


def parts(of: list[int], size: int = 10) -> list[Part]:
    """A part per hour given; repeated hours get parts of their own."""
    return [Part(part_name(n + 1, n + 1, 0, hour=hour), size) for n, hour in enumerate(of)]


@given(hours, st.integers(1, 8))
def test_by_age_hours_go_once_they_are_over_for_so_long(found: list[int], days: int) -> None:
    """An hour goes when all of it is older than the policy says."""
    expired = expired_parts(policy(f"{days}d"), parts(found), NOW_UNIX)
    assert sorted(part.name.hour for part in expired) == sorted(
        hour for hour in found if (hour + 1) * 3600 <= NOW_UNIX - days * 86400
    )


@given(hours, st.integers(1, 12))
def test_by_size_the_oldest_hours_go(found: list[int], keep: int) -> None:
    """What stays is the newest hours that fit, each whole."""
    gone = expired_parts(policy(f"{keep}MB"), parts(found, 10**6), NOW_UNIX)
    expired = {part.name for part in gone}
    kept = [part for part in parts(found, 10**6) if part.name not in expired]
    assert len(kept) <= keep
    gone_hours = {name.hour for name in expired}
    assert all(part.name.hour > max(gone_hours, default=0) for part in kept)


def test_covered_parts_do_not_count_twice() -> None:
    """The size of an hour is that of its visible parts; the hidden ones go with it."""
    small = parts([NOW_HOUR, NOW_HOUR], 10**6)
    merged = Part(part_name(1, 2, 1, hour=NOW_HOUR), 10**6)
    assert not expired_parts(policy("1MB"), [*small, merged], NOW_UNIX)
    assert len(expired_parts(policy("0.5MB"), [*small, merged], NOW_UNIX)) == 3


def test_each_stream_may_have_its_own_policy() -> None:
    """The default holds for streams that are not named; an empty policy keeps everything."""
    by_stream = values.policies("retention_by_stream", "logs: 7d; audit: ; big: 3d 50GB")
    policies = Policies(policy("30d"), by_stream)
    assert policies.of("logs").days == 7
    assert policies.of("audit") == Policy()
    assert (policies.of("big").days, policies.of("big").size_bytes) == (3, 50 * 10**9)
    assert policies.of("other").days == 30
    assert Policies(policy(""), values.policies("", "")).keep_everything


@pytest.mark.parametrize(
    "text", ["30", "d", "-1d", "0d", "1kB", "30d;", "seven days", "1d 2d", "1" * 99 + "TB"]
)
def test_a_wrong_policy_is_refused(text: str) -> None:
    """A policy that could be misread deletes nothing: it is an error."""
    with pytest.raises(UsageError):
        policy(text)


def test_the_command_shows_and_removes(
    make_storage: Callable[[], tuple[Storage, dict[str, str]]], tmp_path: Path
) -> None:
    """A dry run changes nothing; without it old hours go, of every receiver."""
    storage, env = make_storage()
    now = time.time_ns()
    commit(storage, 1, gauge_request(1, time_unix_nano=now - 50 * HOUR_NANO))
    commit(storage, 2, gauge_request(2, time_unix_nano=now - 50 * HOUR_NANO), receiver=OTHER)
    commit(storage, 3, gauge_request(3, time_unix_nano=now))
    settings = {**env, "RAYOTEL_RETENTION": "1d"}
    before = names(storage)
    command = ("retention", "--data-dir", str(tmp_path), "--format", "csv")
    dry = rayotel(*command, "--dry-run", env=settings)
    assert (dry.returncode, names(storage)) == (0, before)
    assert "1 hours would go" in dry.stderr
    wet = rayotel(*command, env=settings)
    assert wet.stdout == dry.stdout
    assert wet.stdout.count(",2,") == 1
    assert [row["v"] for row in ask(storage, "SELECT data_point_value AS v FROM s")] == [3]
    assert "keep everything" in rayotel(*command, env=env).stderr


def test_a_server_lets_go_by_itself_and_says_so(tmp_path: Path) -> None:
    """A running server removes old hours and reports it."""
    env = {"RAYOTEL_RETENTION": "1d", "RAYOTEL_COMPACTION_INTERVAL_SECONDS": "0.2"}
    with Server(tmp_path / "data", env=env) as server:
        old = gauge_request(1, time_unix_nano=time.time_ns() - 50 * HOUR_NANO)
        assert server.post(old, PROTOBUF).status_code == 200
        assert server.post(gauge_request(2), PROTOBUF).status_code == 200
        wait_until(lambda: "retention removed hours  stream=raymetrics hours=1" in server.log())
        assert server.stop() == 0
    wrong = rayotel_process("serve", "--port", "0", env={"RAYOTEL_RETENTION": "soon"})
    assert wrong.returncode == 2
