"""Documents that say what is true: generated parts, mentions, links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from generate import BLOCKS, ROOT, documents, regenerated
from rayotel import __version__, config
from rayotel.cli.main import cli
from rayotel.lake.signal import SIGNALS
from rayotel.query.ray import questions

MARKDOWN = documents()
MAX_README_LINES = 140


def name_of(path: Path) -> str:
    """A document's path in the project."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    """`make docs` would change nothing."""
    text = path.read_text("utf-8")
    assert regenerated(text) == text, "run: make docs"


def test_every_block_stands_in_one_document() -> None:
    """Nothing is generated for nobody, and nothing twice."""
    texts = "".join(path.read_text("utf-8") for path in MARKDOWN)
    assert sorted(re.findall(r"<!-- generated: (\w+) -->", texts)) == sorted(BLOCKS)


def test_the_first_screen_leads_everywhere() -> None:
    """README.md is short, and names every document that is not about a single recording."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES
    linked = set(re.findall(r"\]\(([^)#\s]+\.md)\)", text))
    documents = {name_of(path) for path in MARKDOWN if "otlp-js" not in path.parts}
    assert linked == documents - {"README.md"}
    assert f"{len(questions.all_queries())} questions" in text


def test_every_command_and_setting_has_help() -> None:
    """Whoever asks for help gets some, for each command, option and setting."""
    for name, command in cli.commands.items():
        assert command.help, name
        for parameter in command.params:
            described = not isinstance(parameter, click.Option) or parameter.help
            assert described, f"{name} {parameter.name}"
    assert all(one.description and one.section for one in config.descriptions())
    assert all(column.description for signal in SIGNALS for column in signal.columns)


def test_every_shipped_question_is_explained() -> None:
    """The guide to Ray says of each question when to ask it."""
    text = (ROOT / "docs" / "ray.md").read_text("utf-8")
    for query in questions.all_queries():
        assert f"| `{query.name}` |" in text, query.name


@pytest.mark.parametrize("path", MARKDOWN, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    """A link into the project leads to a file, and to a heading in it where it names one."""
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text("utf-8")):
        if "://" in target:
            continue
        file = path.parent / target if target else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_is_there(name: str) -> None:
    """Whoever follows a path in these two documents arrives."""
    text = (ROOT / name).read_text("utf-8")
    for path in re.findall(r"`([\w-]+/[\w/-]+\.(?:py|sql|toml|yaml))`", text):
        there = any((top / path).is_file() for top in (ROOT, ROOT / "src" / "rayotel"))
        assert there, path


def test_every_room_is_described() -> None:
    """The table of rooms in ARCHITECTURE.md has each folder of the package, or one around it."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    source = ROOT / "src" / "rayotel"
    for file in source.rglob("__init__.py"):
        room = file.parent.relative_to(source).as_posix()
        assert room == "." or re.search(rf"[`/]{room.rpartition('/')[2]}/", text), room


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
