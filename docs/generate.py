"""Writes the generated blocks of the documents from the code: `make docs`.

A block stands between `<!-- generated: NAME -->` and `<!-- end -->` in any document; `BLOCKS` maps
each NAME to the function that makes its text. tests/test_docs.py compares the two.
"""

from __future__ import annotations

import csv
import functools
import re
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
from click.testing import CliRunner

from rayotel import config
from rayotel.cli.main import cli
from rayotel.http.routes import ROUTES
from rayotel.lake.signal import EVENTS, METRICS, Signal
from rayotel.query.ray import definitions as query_definitions
from rayotel.query.ray import metric_facts, questions
from rayotel.query.views import empty_columns
from rayotel.telemetry import Telemetry

ROOT = Path(__file__).parent.parent
ANSWERS = ROOT / "tests" / "recordings" / "answers" / "both"
HELP_WIDTH = 96
MAX_CELL_CHARACTERS = 40
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def documents() -> list[Path]:
    """Every document of the project."""
    rooms = (path for path in ROOT.rglob("*.md") if not _is_hidden(path.relative_to(ROOT)))
    return sorted(rooms)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def commands() -> str:
    """`--help` of the command itself and of each of its commands, under a heading each."""
    titles = {"rayotel": _help([])}
    titles |= {f"rayotel {name}": _help([name]) for name in sorted(cli.commands)}
    return "\n".join(
        f"## {title}\n\n```text\n{text.strip()}\n```\n" for title, text in titles.items()
    )


def _help(arguments: list[str]) -> str:
    result = CliRunner().invoke(
        cli, [*arguments, "--help"], prog_name="rayotel", terminal_width=HELP_WIDTH
    )
    assert result.exit_code == 0, result.output
    # below a command's own words stand the settings, which have a document of their own
    below = (cli.commands[name].epilog for name in arguments)
    starts = [epilog.replace("\b", "").split("\n")[1] for epilog in below if epilog]
    return result.output.partition(f"\n  {starts[0]}")[0] if starts else result.output


def settings() -> str:
    """A table of the settings of each section; a row of `descriptions()` may end with its own."""
    sections: dict[str, list[str]] = {}
    for row in config.descriptions():
        name, default, description = row[:3]
        section: tuple[str, ...] = row[3:]
        lines = sections.setdefault(section[0] if section else "", [])
        lines.append(f"| `RAYOTEL_{name.upper()}` | {default} | {description} |")
    head = "| variable | default | meaning |\n| --- | --- | --- |\n"
    tables = {title: head + "\n".join(lines) + "\n" for title, lines in sections.items()}
    return "\n".join(f"## {t}\n\n{text}" if t else text for t, text in tables.items())


def queries() -> str:
    """A table of the shipped questions."""
    lines = ["| name | question | columns |", "| --- | --- | --- |"]
    for query in questions.all_queries():
        lines.append(f"| `{query.name}` | {query.question} | {', '.join(query.columns)} |")
    return "\n".join(lines) + "\n"


def answer(name: str, columns: tuple[str, ...]) -> str:
    """Some columns of the kept answer of a shipped question, by the names that it has today."""
    lines = [f"| {' | '.join(_today(name, columns))} |", "| --- " * len(columns) + "|"]
    with (ANSWERS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            lines.append(f"| {' | '.join(_cell(row[column]) for column in columns)} |")
    return "\n".join(lines) + "\n"


def _today(name: str, columns: tuple[str, ...]) -> list[str]:
    """The names of columns whose kept answer has older ones."""
    renamed = ANSWERS.parent / "renamed.toml"
    names = tomllib.loads(renamed.read_text("utf-8")) if renamed.is_file() else {}
    return [names.get(name, {}).get(column, column) for column in columns]


def _cell(text: str) -> str:
    """A value for a reader: times to the second, short numbers, texts of a bounded length."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00:00", text):
        return text[:19]
    if re.fullmatch(r"-?\d+\.\d+", text):
        return f"{float(text):.1f}"
    if re.fullmatch(r"[0-9a-f]{56}", text):
        return text[:8]
    return text if len(text) <= MAX_CELL_CHARACTERS else f"{text[: MAX_CELL_CHARACTERS - 1]}…"


def metrics() -> str:
    """A table of the server's own metrics."""
    lines = ["| metric | type | meaning |", "| --- | --- | --- |"]
    text = Telemetry().exposition().decode()
    for name, meaning in re.findall(r"# HELP (\S+) (.*)", text):
        (kind,) = re.findall(rf"# TYPE {name} (\w+)", text)
        if not name.endswith("_created"):
            escaped = meaning.replace("<", "&lt;")
            lines.append(f"| `{name}` | {kind} | {escaped} |")
    return "\n".join(lines) + "\n"


def routes() -> str:
    """A table of all addresses."""
    lines = ["| request | access | answer |", "| --- | --- | --- |"]
    for route in ROUTES:
        lines.append(f"| `{route.method} {route.path}` | {route.access.value} | {route.summary} |")
    return "\n".join(lines) + "\n"


def columns(signal: Signal = METRICS) -> str:
    """A table of the fixed columns of a signal."""
    types = dict(empty_columns(signal))
    lines = ["| column | type in SQL | holds |", "| --- | --- | --- |"]
    for column in signal.columns:
        kind = types[column.name].replace('"', "")
        lines.append(f"| `{column.name}` | {kind} | {column.description} |")
    return "\n".join(lines) + "\n"


def kinds() -> str:
    """A table of the kinds of metrics."""
    lines = ["| kind | means |", "| --- | --- |"]
    lines += [f"| `{kind}` | {meaning} |" for kind, meaning in metric_facts.KINDS.items()]
    return "\n".join(lines) + "\n"


def ray_metrics() -> str:
    """What is known of every metric of Ray's, a table for each way of knowing it."""
    known = metric_facts.all_metrics()
    measured = [metric for metric in known if metric.source.startswith("measured")]
    others = [metric for metric in known if metric not in measured]
    return (
        f"### Measured on real clusters: {len(measured)}\n\n{_metrics_table(measured)}\n"
        f"### From Ray's source, not measured: {len(others)}\n\n{_metrics_table(others)}"
    )


def _metrics_table(metrics: list[metric_facts.Metric]) -> str:
    lines = ["| metric | kind | unit | labels | what it is |", "| --- | --- | --- | --- | --- |"]
    for metric in metrics:
        special = [f"{value} {kind}" for value, kind in metric.kinds.items() if kind != "gauge"]
        kind = f"by {metric.label}: {', '.join(special)}, others gauge" if special else metric.kind
        words = f"{metric.meaning} {metric.caution}".strip().replace("<", "&lt;")
        links = re.findall(r"https://\S+/(\d+)", metric.source)
        issues = ", ".join(
            f"[ray#{number}](https://github.com/ray-project/ray/issues/{number})"
            for number in links
        )
        words += f" {issues}" if issues else ""
        labels = ", ".join(metric.labels)
        lines.append(f"| `{metric.name}` | {kind} | {metric.unit} | {labels} | {words} |")
    return "\n".join(lines) + "\n"


def definitions() -> str:
    """Every view and macro: what it gives, its columns, examples."""
    known = query_definitions.all_definitions().values()
    groups = (
        ("Views", [view for view in known if not view.is_macro]),
        ("Macros", [macro for macro in known if macro.is_macro]),
    )
    lines = []
    for title, members in groups:
        lines += [f"## {title}", ""]
        for member in members:
            called = f"({', '.join(name for name, _ in member.parameters)})"
            lines += [f"### {member.name}{called if member.is_macro else ''}", ""]
            lines += [f"{member.about[0].upper()}{member.about[1:]}.", ""]
            for note in member.notes:
                lines += [note, ""]
            pairs = [*member.parameters, *member.columns]
            lines += [f"- `{name}`: {meaning}" for name, meaning in pairs]
            for sql in member.examples:
                lines += ["", "```sql", *textwrap.wrap(sql, 100), "```"]
            lines.append("")
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "queries": queries,
    "metrics": metrics,
    "routes": routes,
    "columns": columns,
    "kinds": kinds,
    "ray_metrics": ray_metrics,
    "definitions": definitions,
    "event_columns": functools.partial(columns, EVENTS),
    # the answers in README.md
    "failing_jobs": functools.partial(
        answer, "failures-by-job",
        ("job_id", "submission_id", "task", "reason", "failed_attempts", "failed_tasks"),
    ),
    "lost_nodes": functools.partial(
        answer, "node-losses", ("lost_at", "node", "reason", "back_at", "away_seconds")
    ),
    "hot_nodes": functools.partial(
        answer, "hottest-nodes",
        ("rank", "node", "cores", "cpu_mean_pct", "cpu_peak_pct", "memory_peak_pct",
         "object_store_peak_pct"),
    ),
}  # fmt: skip


def regenerated(text: str) -> str:
    """A document with its blocks made anew."""
    return _BLOCK.sub(lambda match: match[1] + BLOCKS[match[2]]() + match[4], text)


def main() -> None:
    """Write every document whose blocks differ."""
    for path in documents():
        before = path.read_text("utf-8")
        after = regenerated(before)
        if after != before:
            path.write_text(after, "utf-8")
            click.echo(f"wrote {path.relative_to(ROOT)}", err=True)


if __name__ == "__main__":
    main()
