"""kill -9 at every named step, under load: nothing lost, nothing doubled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rayotel.lake.storage.interface import Storage
from support.crash_harness import kill_often
from support.crashing_server import STEPS


def test_killed_at_every_step(
    make_storage: Callable[[], tuple[Storage, dict[str, str]]], tmp_path: Path
) -> None:
    """After a crash at each step of log, commit and compaction, every number is there once."""
    storage, settings = make_storage()
    figures = kill_often(len(STEPS) + 1, storage, settings, tmp_path / "data", seed=1)
    assert figures.kills == len(STEPS) + 1
    assert figures.acknowledged >= figures.kills
    assert figures.questions
    assert (figures.lost, figures.doubled, figures.wrong_answers) == (0, 0, 0)
