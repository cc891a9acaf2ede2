"""`rayotel recover` from outside."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from support.committing import Run, Watched, aside, values
from support.harness import PROTOBUF, RAYOTEL, Server, environment, gauge_request, wait_until

NOW = int(time.time()) // 3600


def recover(data_dir: Path) -> str:
    """The command's words."""
    done = subprocess.run(
        [*RAYOTEL, "recover", "--data-dir", str(data_dir)],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stderr


def test_recovering_with_the_server_up_and_down(tmp_path: Path) -> None:
    """The running server takes records in; without one, the next start does."""
    lake = Watched(str(tmp_path / "data" / "lake"))
    run = Run(tmp_path / "data", lake)
    run.numbers([1, 2, 3], NOW)
    segment = run.journal._current
    run.journal.seal()
    assert segment is not None
    failing = run.committer._failing_records
    for position in (0, 1):
        segment.skipped.clear()
        segment.skipped.update({0, 1, 2} - {position})
        failing.set_aside(segment, all_of_it=True)
    segment.skipped = {0, 1}
    run.finish()
    assert values(lake) == [3]
    with Server(tmp_path / "data", "--commit-interval-seconds", "0.1") as server:
        assert "2 records are given back" in recover(tmp_path / "data")
        wait_until(lambda: values(lake) == [1, 2, 3])
        assert "0 records are given back" in recover(tmp_path / "data")
        assert server.post(gauge_request(4), PROTOBUF).status_code == 200
        assert server.stop() == 0
    assert values(lake) == [1, 2, 3, 4]
    assert aside(tmp_path / "data") == aside(tmp_path / "data", "recover") == []


def test_recovering_where_there_is_no_wal(tmp_path: Path) -> None:
    """A wrong directory is told."""
    done = subprocess.run(
        [*RAYOTEL, "recover", "--data-dir", str(tmp_path)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "hint: give the --data-dir" in done.stderr
