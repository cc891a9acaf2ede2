"""The parts of the documents that are generated from the code. Run it to write them anew.

A block stands between `<!-- generated: NAME -->` and `<!-- end -->`. A test compares.
"""

from __future__ import annotations

import functools
import itertools
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import click
from click.testing import CliRunner

from rayotel import config
from rayotel.cli.main import cli
from rayotel.lake.schema import COLUMNS, EVENTS, METRICS
from rayotel.query.ray import definitions as query_definitions
from rayotel.query.ray import metric_facts, questions
from rayotel.query.views import empty_columns
from rayotel.telemetry import Telemetry

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/columns.md", "docs/metrics.md", "docs/views.md")
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
    """All settings, a table for each section."""
    lines: list[str] = []
    for section, members in itertools.groupby(config.descriptions(), lambda one: one.section):
        lines += [f"**{section}**", "", "| variable | default | meaning |", "| --- | --- | --- |"]
        for name, default, description, _ in members:
            lines.append(f"| `RAYOTEL_{name.upper()}` | {default} | {description} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def queries() -> str:
    """A table of the shipped questions."""
    lines = ["| name | question | columns |", "| --- | --- | --- |"]
    for one in questions.all_queries():
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


def kinds() -> str:
    """A table of the kinds of metrics."""
    lines = ["| kind | means |", "| --- | --- |"]
    lines += [f"| `{kind}` | {meaning} |" for kind, meaning in metric_facts.KINDS.items()]
    return "\n".join(lines) + "\n"


def ray_metrics() -> str:
    """What is known of every metric of Ray's, a table for each way of knowing it."""
    found = metric_facts.all_metrics()
    measured = [one for one in found if one.source.startswith("measured")]
    others = [one for one in found if one not in measured]
    return (
        f"### Measured on real clusters: {len(measured)}\n\n{_metrics_table(measured)}\n"
        f"### From Ray's source, not measured: {len(others)}\n\n{_metrics_table(others)}"
    )


def _metrics_table(found: list[metric_facts.Metric]) -> str:
    lines = ["| metric | kind | unit | labels | what it is |", "| --- | --- | --- | --- | --- |"]
    for one in found:
        special = [f"{value} {kind}" for value, kind in one.kinds.items() if kind != "gauge"]
        kind = f"by {one.label}: {', '.join(special)}, others gauge" if special else one.kind
        words = f"{one.meaning} {one.caution}".strip().replace("<", "&lt;")
        links = re.findall(r"https://\S+/(\d+)", one.source)
        issues = ", ".join(
            f"[ray#{number}](https://github.com/ray-project/ray/issues/{number})"
            for number in links
        )
        words += f" {issues}" if issues else ""
        labels = ", ".join(one.labels)
        lines.append(f"| `{one.name}` | {kind} | {one.unit} | {labels} | {words} |")
    return "\n".join(lines) + "\n"


def definitions() -> str:
    """Every view and macro: what it gives, its columns, examples."""
    found = query_definitions.all_definitions().values()
    groups = (
        ("Views", [one for one in found if not one.is_macro]),
        ("Macros", [one for one in found if one.is_macro]),
    )
    lines = []
    for title, members in groups:
        lines += [f"## {title}", ""]
        for one in members:
            called = ", ".join(name for name, _ in one.parameters)
            lines += [f"### {one.name}({called})" if one.is_macro else f"### {one.name}", ""]
            lines += [f"{one.about[0].upper()}{one.about[1:]}.", ""]
            for note in one.notes:
                lines += [note, ""]
            pairs = [*one.parameters, *one.columns]
            lines += [f"- `{name}`: {meaning}" for name, meaning in pairs]
            for sql in one.examples:
                lines += ["", "```sql", *textwrap.wrap(sql, 100), "```"]
            lines.append("")
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "queries": queries,
    "metrics": metrics,
    "columns": columns,
    "kinds": kinds,
    "ray_metrics": ray_metrics,
    "definitions": definitions,
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
