"""The WAL under a disk that fails: it goes on, and stores each acknowledged record once."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayotel import durable
from rayotel.errors import WalError
from support.committing import Run, Watched, values
from support.harness import gauge_request

NOW = int(time.time()) // 3600


def failing(
    patch: pytest.MonkeyPatch, name: str, error: int, *, times: int, has_effect: bool = False
) -> None:
    """Let a call of `durable` fail so often, before or after it did its work."""
    real: Callable[..., Any] = getattr(durable, name)
    left = [times]

    def call(*args: Any) -> Any:
        if left[0] <= 0:
            return real(*args)
        left[0] -= 1
        if has_effect:
            real(*args)
        raise OSError(error, errno.errorcode[error])

    patch.setattr(durable, name, call)


def number(run: Run, value: int) -> bool:
    """Send a point, as a client does; whether it is acknowledged."""
    try:
        run.numbers([value], NOW)
    except WalError:
        return False
    return True


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("has_effect", [False, True])
def test_a_segment_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, has_effect: bool
) -> None:
    """As soon as the disk lets go, requests are taken again, without a restart."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    assert number(run, 1)
    run.journal.seal()
    with monkeypatch.context() as patch:
        failing(patch, "create", error, times=3, has_effect=has_effect)
        answers = [number(run, value) for value in range(2, 7)]
    assert answers == [False, False, False, True, True]
    assert run.finish()
    assert values(lake) == [1, 5, 6]


@pytest.mark.parametrize(
    "calls", ["write_all", "sync_data", "cut", "overwrite", "append", "remove"]
)
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_any_call_fails_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: str, error: int
) -> None:
    """Whatever call of the disk fails, twice, with its effect or without: nothing is lost."""
    for has_effect in (False, True):
        top = tmp_path / str(has_effect)
        lake = Watched(str(top / "lake"))
        run = Run(top / "data", lake)
        sent = []
        with monkeypatch.context() as patch:
            failing(patch, calls, error, times=2, has_effect=has_effect)
            for value in range(5):
                if number(run, value) or number(run, value) or number(run, value):
                    sent.append(value)
                run.step(tries=4)
        assert run.finish(tries=4)
        assert values(lake) == sent == list(range(5))


@pytest.mark.parametrize("restart", ["none", "at once", "after a crash of the commit"])
@pytest.mark.parametrize("memory", [True, False], ids=["from memory", "from the file"])
def test_sent_again_after_a_failed_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: str, memory: bool
) -> None:
    """What was on the disk already when the sync failed is stored once all the same."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    if not memory:
        run.journal._max_waiting_columns_bytes = 0
    assert number(run, 1)
    with monkeypatch.context() as patch:
        failing(patch, "sync_data", errno.EIO, times=1)
        assert not number(run, 2)
    assert number(run, 2)
    assert number(run, 3)
    if restart != "none":
        run.end()
        run = Run(tmp_path / "data", lake)
    if restart == "after a crash of the commit":
        run.journal.release = lambda some: (_ for _ in ()).throw(WalError("gone"))  # type: ignore[method-assign]
        run.step()
        run.end()
        run = Run(tmp_path / "data", lake)
    assert run.finish()
    assert values(lake) == [1, 2, 3]


def test_a_seal_that_does_not_hold(tmp_path: Path) -> None:
    """A segment with fewer records than its seal says is the beginning of another: new names."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    for value in range(3):
        number(run, value)
    segment = run.journal._current
    assert segment is not None
    run.journal.seal()
    run.journal.decide(segment, 0)
    run.end()
    content = segment.path.read_bytes()
    segment.path.write_bytes(content[:-20])
    again = Run(tmp_path / "data", lake)
    (found,) = [one for one in again.journal._sealed if one.number == segment.number]
    assert found.epoch == again.journal.epoch != segment.epoch
    assert again.finish()
    assert values(lake) == [0, 1]


def test_requests_of_a_long_outage_cost_no_memory(tmp_path: Path) -> None:
    """Digests of segments that wait are computed again when there are too many."""
    lake = Watched(str(tmp_path / "lake"))
    run = Run(tmp_path / "data", lake)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayotel.ingest.wal.journal.MAX_DIGESTS_BYTES", 40)
        for value in range(6):
            number(run, value)
            run.journal.seal()
    held = [segment.digests for segment in run.journal._sealed]
    assert sum(digests is not None for digests in held) == 2
    assert run.finish()
    again = Run(tmp_path / "data", lake)
    assert not any(
        again.take(gauge_request(v, time_unix_nano=NOW * 3600 * 10**9 + v)) for v in range(6)
    )
    again.end()
