"""What needs more than Python: the whole stack with a real Ray cluster, and kills for an hour."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rayotel.lake.storage.interface import Storage
from support.crash_harness import kill_often
from support.harness import ROOT

HOUR_SECONDS = 3600
KILLS = 200
pytestmark = pytest.mark.live


def found(variable: str, program: str, what: str) -> str:
    """A program that a variable names or that is on PATH; without it the test is skipped."""
    path = os.environ.get(variable) or shutil.which(program)
    if not path:
        pytest.skip(f"needs {what}: put {program} on PATH or set {variable}")
    return path


def python_with_ray() -> str:
    """A Python that has Ray."""
    if path := os.environ.get("RAY_PYTHON"):
        return path
    ray = Path(found("RAY", "ray", "Ray"))
    return str(ray.with_name("python"))


@pytest.mark.timeout(HOUR_SECONDS)
def test_the_stack_runs_and_answers() -> None:
    """Ray, Fluent Bit, S3 and rayotel as in docker-compose.yml: the questions have answers."""
    ray = python_with_ray()
    fluent_bit = found("FLUENT_BIT", "fluent-bit", "Fluent Bit")
    command = [sys.executable, str(ROOT / "stack" / "run.py")]
    done = subprocess.run(
        [*command, "--ray-python", ray, "--fluent-bit", fluent_bit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.timeout(2 * HOUR_SECONDS)
def test_killed_many_times(
    make_storage: Callable[[], tuple[Storage, dict[str, str]]], tmp_path: Path
) -> None:
    """Hundreds of crashes at every step lose nothing and double nothing."""
    if "RAYOTEL_TEST_HOURS" not in os.environ:
        pytest.skip("needs an hour: set RAYOTEL_TEST_HOURS")
    storage, settings = make_storage()
    figures = kill_often(KILLS, storage, settings, tmp_path / "data", seed=2)
    assert figures.acknowledged >= figures.kills == KILLS
    assert (figures.lost, figures.doubled, figures.wrong_answers) == (0, 0, 0)
