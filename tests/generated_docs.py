"""The parts of the documents that are generated from the code. Run it to write them anew.

A block stands between `<!-- generated: NAME -->` and `<!-- end -->`. A test compares.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import click
from click.testing import CliRunner

from rayotel import config
from rayotel.cli import cli
from rayotel.lake.schema import COLUMNS, EVENTS, METRICS
from rayotel.query import shipped
from rayotel.query.views import empty_columns
from rayotel.telemetry import Telemetry

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/columns.md")
HELP_WIDTH = 96
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def commands() -> str:
    """`--help` of every command."""
    texts = [_help([])]
    texts += [_help([name]) for name in cli.commands]
    return "\n".join(f"```text\n{text.strip()}\n```\n" for text in texts)


def _help(arguments: list[str]) -> str:
    result = CliRunner().invoke(
        cli, [*arguments, "--help"], prog_name="rayotel", terminal_width=HELP_WIDTH
    )
    assert result.exit_code == 0, result.output
    # the settings stand in a table of their own
    return result.output.partition("  Settings, each also")[0]


def settings() -> str:
    """A table of all settings."""
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, default, description in config.descriptions():
        lines.append(f"| `RAYOTEL_{name.upper()}` | {default} | {description} |")
    return "\n".join(lines) + "\n"


def queries() -> str:
    """A table of the shipped questions."""
    lines = ["| name | question | columns |", "| --- | --- | --- |"]
    for one in shipped.all_queries():
        lines.append(f"| `{one.name}` | {one.question} | {', '.join(one.columns)} |")
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """A table of the server's own metrics."""
    lines = ["| metric | type | meaning |", "| --- | --- | --- |"]
    text = Telemetry().exposition().decode()
    for name, meaning in re.findall(r"# HELP (\S+) (.*)", text):
        (kind,) = re.findall(rf"# TYPE {name} (\w+)", text)
        if not name.endswith("_created"):
            lines.append(f"| `{name}` | {kind} | {meaning} |")
    return "\n".join(lines) + "\n"


def columns(signal: str = METRICS) -> str:
    """A table of the fixed columns of a signal."""
    types = dict(empty_columns(signal))
    lines = ["| column | type in SQL | holds |", "| --- | --- | --- |"]
    for one in COLUMNS[signal]:
        kind = types[one.name].replace('"', "")
        lines.append(f"| `{one.name}` | {kind} | {one.description} |")
    return "\n".join(lines) + "\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "queries": queries,
    "metrics": metrics,
    "columns": columns,
    "event_columns": functools.partial(columns, EVENTS),
}


def regenerated(text: str) -> str:
    """A document with its blocks made anew."""
    return _BLOCK.sub(lambda match: match[1] + BLOCKS[match[2]]() + match[4], text)


def main() -> None:
    """Write every document."""
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text("utf-8")
        after = regenerated(before)
        if after != before:
            path.write_text(after, "utf-8")
            click.echo(f"wrote {name}", err=True)


if __name__ == "__main__":
    main()
