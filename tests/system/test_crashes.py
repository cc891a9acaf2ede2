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
    # a directory meets every step; with S3, the first of them are enough for what differs
    is_directory = storage.access() is None
    kills = len(STEPS) + 1 if is_directory else len(STEPS) // 3
    figures = kill_often(
        kills, storage, settings, tmp_path / "data", seed=1, copies_every=8 if is_directory else 0
    )
    assert figures.kills == kills
    assert figures.copies == (3 if is_directory else 0)
    assert figures.acknowledged >= figures.kills
    assert figures.questions
    assert (figures.lost, figures.doubled, figures.wrong_answers) == (0, 0, 0)
