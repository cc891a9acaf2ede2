"""Files that come with rayotel are found in a checkout and in an installed package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from rayotel import shipped
from rayotel.shipped import shipped_directory

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def test_what_the_wheel_takes_is_where_a_checkout_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each directory of the wheel has one name, in both."""
    wheel = tomllib.loads(PYPROJECT.read_text("utf-8"))["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    names = {
        there.removeprefix("rayotel/_shipped/"): here
        for here, there in wheel["force-include"].items()
    }
    assert {"queries", "recordings/cluster", "recordings/events"} <= set(names)
    for name, here in names.items():
        assert shipped_directory(name) == PYPROJECT.parent / here
        assert shipped_directory(name).is_dir()
    (tmp_path / "_shipped").mkdir()
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path)
    assert shipped_directory("recordings/cluster") == tmp_path / "_shipped/recordings/cluster"
