"""Documents that say what is true: generated parts, mentions, links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from generated_docs import BLOCKS, DOCUMENTS, ROOT, regenerated
from rayotel import __version__, config
from rayotel.cli.main import cli
from rayotel.lake.schema import COLUMNS
from rayotel.query.ray import questions

MARKDOWN = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_parts_are_up_to_date(name: str) -> None:
    """`make docs` would change nothing."""
    text = (ROOT / name).read_text("utf-8")
    assert regenerated(text) == text, "run: make docs"


def test_every_block_stands_in_a_document() -> None:
    """Nothing is generated for nobody."""
    texts = "".join((ROOT / name).read_text("utf-8") for name in DOCUMENTS)
    assert set(re.findall(r"<!-- generated: (\w+) -->", texts)) == set(BLOCKS)


def test_every_command_and_setting_has_help() -> None:
    """Whoever asks for help gets some, for each command, option and setting."""
    for name, command in cli.commands.items():
        assert command.help, name
        for parameter in command.params:
            described = not isinstance(parameter, click.Option) or parameter.help
            assert described, f"{name} {parameter.name}"
    assert all(one.description and one.section for one in config.descriptions())
    assert all(one.description for columns in COLUMNS.values() for one in columns)


def test_every_shipped_question_is_explained() -> None:
    """The guide to Ray says of each question when to ask it."""
    text = (ROOT / "docs" / "ray.md").read_text("utf-8")
    for one in questions.all_queries():
        assert f"| `{one.name}` |" in text, one.name


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    """A link to a file of the project leads to one."""
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_changelog_knows_the_version() -> None:
    """The version of the package has its entry."""
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_no_path_of_a_machine_and_no_lock_file() -> None:
    """The project speaks of itself alone."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for name in listed.stdout.splitlines():
        assert not re.search(r"(uv|poetry|pdm)\.lock$|Pipfile\.lock$|pylock.*\.toml$", name)
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".conf", ".sql", ".json"):
            text = path.read_text("utf-8")
            assert not re.search(r"/(home|root|Users)/\w", text), name
