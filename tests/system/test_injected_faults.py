"""Calls of the disk and the storage fail under load; the server recovers without a restart."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import pytest

from rayotel.lake.storage.opening import open_storage
from support.faults import (
    Cause,
    FaultyServer,
    Figures,
    limited,
    measure,
    open_files,
    played,
)
from support.faulty_server import Failure, durable_functions, storage_methods, system_calls
from support.harness import wait_until

CALLS = {
    "durable": [f"durable.{name}" for name in durable_functions()],
    "os": [f"os.{name}" for name in system_calls()],
    "storage": [f"storage.{name}" for name in storage_methods()],
}
PATIENCE_SECONDS = 120.0  # for a busy machine: what never recovers would wait for ever
CALL_SECONDS = 3.0
LASTS_SECONDS = 2.0


def each_once(server: FaultyServer, calls: list[str], error: str, *, has_effect: bool) -> Cause:
    """One call fails after the other. One that nobody makes is passed over after a while."""

    def begin() -> None:
        for call in calls:
            server.play(Failure((call,), error, times=1, has_effect=has_effect))
            with contextlib.suppress(AssertionError):
                wait_until(lambda: server.met() > 0, CALL_SECONDS)

    return Cause(begin, server.heal, lambda: 1)


def assert_recovered(figures: Figures) -> None:
    """All is as it was, and nothing that was acknowledged is lost or doubled."""
    assert figures.has_recovered(PATIENCE_SECONDS), figures
    assert set(+figures.answers) <= {200, 503}, figures.answers
    assert figures.acknowledged


@pytest.mark.parametrize(
    ("seam", "error", "has_effect"),
    [
        ("durable", "EIO", False),
        ("os", "EIO", True),
        ("storage", "EIO", True),
        pytest.param("durable", "EMFILE", False, marks=pytest.mark.live),
        pytest.param("os", "ENOSPC", False, marks=pytest.mark.live),
        pytest.param("storage", "EACCES", False, marks=pytest.mark.live),
        pytest.param("storage", "ENOENT", False, marks=pytest.mark.live),
    ],
)
def test_each_call_fails_once(tmp_path: Path, seam: str, error: str, has_effect: bool) -> None:
    """One failure of any call is over when it is over."""
    data_dir = tmp_path / "data"
    with FaultyServer(data_dir, {}) as server:
        cause = each_once(server, CALLS[seam], error, has_effect=has_effect)
        storage = open_storage(str(data_dir / "lake"))
        assert_recovered(measure(server, storage, cause, 0.0, PATIENCE_SECONDS))


@pytest.mark.parametrize(
    ("seam", "error"),
    [
        ("durable", "ENOSPC"),
        pytest.param("storage", "EACCES", marks=pytest.mark.live),
    ],
)
def test_all_calls_fail_for_a_while(tmp_path: Path, seam: str, error: str) -> None:
    """A disk that is full, or a storage that denies everything, leaves nothing behind."""
    data_dir = tmp_path / "data"
    with FaultyServer(data_dir, {}) as server:
        cause = played(server, Failure(tuple(CALLS[seam]), error))
        storage = open_storage(str(data_dir / "lake"))
        figures = measure(server, storage, cause, LASTS_SECONDS, PATIENCE_SECONDS)
    assert figures.met
    assert_recovered(figures)


@pytest.mark.parametrize(
    "limit",
    [resource.RLIMIT_NOFILE, pytest.param(resource.RLIMIT_FSIZE, marks=pytest.mark.live)],
)
def test_a_limit_of_the_process_is_lowered_for_a_while(tmp_path: Path, limit: int) -> None:
    """No file can be opened, or none can grow, and then they can again."""
    data_dir = tmp_path / "data"
    with FaultyServer(data_dir, {}) as server:
        is_files = limit == resource.RLIMIT_NOFILE
        cause = limited(server, limit, lambda: open_files(server) if is_files else 4096)
        storage = open_storage(str(data_dir / "lake"))
        assert_recovered(measure(server, storage, cause, LASTS_SECONDS, PATIENCE_SECONDS))
