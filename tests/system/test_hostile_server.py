"""Hostile bodies for a server that commits and is killed: a dose of `support.fuzz_server`."""

from __future__ import annotations

from pathlib import Path

from support.fuzz_server import SETTINGS, fuzz

BODIES, A_LIFE = 360, 90


def test_hostile_bodies_stop_nothing(tmp_path: Path) -> None:
    """Memory stays below the budget, no record is set aside, and all of it is stored in the end."""
    figures = fuzz(tmp_path, BODIES, 1, A_LIFE, SETTINGS)
    assert figures.holds, figures
    assert figures.lives == BODIES // A_LIFE
    assert figures.answers[200] > BODIES // 3
