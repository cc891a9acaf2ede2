"""What pyproject.toml says of dependencies: all are named, and each bound can be tried."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]
ALL = [*REQUIREMENTS, *(Requirement(line) for lines in EXTRAS.values() for line in lines)]
# what one library has in another's folder
SHARED = {"google": "protobuf", "opentelemetry": "opentelemetry-proto"}


def imported_by(folder: str) -> set[str]:
    """The foreign packages whose modules a folder's files import at their top or inside."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"rayotel"}


def test_what_rayotel_imports_is_a_dependency_of_its_own() -> None:
    """A library that only comes with another could go away, or have any version."""
    others = {"mypy_boto3_s3", "_typeshed", "compression"}  # for types alone; Python 3.14's own
    owners = packages_distributions()
    declared = {canonicalize_name(one.name) for one in REQUIREMENTS}
    for package in imported_by("src/rayotel") - others:
        names = {SHARED[package]} if package in SHARED else set(owners.get(package, [package]))
        assert {canonicalize_name(name) for name in names} & declared, package


@pytest.mark.parametrize("requirement", ALL, ids=str)
def test_the_installed_version_is_within_its_bounds(requirement: Requirement) -> None:
    """What the tests run on is what users may get."""
    if requirement.marker is None or requirement.marker.evaluate():
        assert requirement.specifier.contains(version(requirement.name))


def test_each_dependency_has_a_lowest_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`make test-lowest` installs exactly the lower bound of every one."""
    runpy.run_path(str(ROOT / ".ci" / "lowest-versions"))
    constraints = [Requirement(line) for line in capsys.readouterr().out.splitlines()]
    lowest = {one.name: one for one in constraints}
    assert len(lowest) == len(constraints)
    assert set(lowest) == {one.name for one in ALL}
    for requirement in ALL:
        (pinned,) = lowest[requirement.name].specifier
        assert pinned.operator == "=="
        assert requirement.specifier.contains(pinned.version)
        lower = [one.version for one in requirement.specifier if one.operator in (">=", "==")]
        assert lower == [pinned.version]


def test_each_upper_bound_has_its_reason() -> None:
    """Who may raise it must know what to look at."""
    for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines():
        if re.match(r'  "[^"]*<(?!\s*\'3)', line):
            assert re.search(r'",  # \w+', line), line
