"""Commands that ask a lake: `query`, `queries`, `views`, `streams`, `metrics`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from rayotel import config
from rayotel.cli.options import (
    asked_range,
    check_output,
    lake_options,
    opened_output,
    output_options,
    range_options,
    say,
    say_left_out,
    stdout_descriptor,
    terminal_width,
    write,
)
from rayotel.cli.options import progress as progress_bar
from rayotel.errors import UsageError


class _SqlCommand(click.Command):
    """A command whose argument may begin with `--`: SQL may open with a comment."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put such an argument behind `--`, where click takes nothing for an option."""
        sql = [arg for arg in args if arg.startswith("--") and arg[2:3].isspace()]
        if sql and "--" not in args:
            args = [*(arg for arg in args if arg not in sql), "--", *sql]
        return super().parse_args(ctx, args)


@click.command(cls=_SqlCommand)
@click.argument("sql", required=False)
@click.option("--file", "file", metavar="FILE", help="Read the SQL from a file.")
@click.option("--name", metavar="QUERY", help="Ask a shipped question; rayotel queries lists them.")
@click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE",
    help="Value of the parameter $NAME in the SQL. Repeatable.",
)  # fmt: skip
@click.option(
    "--metrics-stream", metavar="STREAM", help="Stream of metrics that the ray_* views read."
)
@click.option(
    "--events-stream", metavar="STREAM", help="Stream of Ray's events that the ray_* views read."
)
@range_options
@output_options
@click.option(
    "--unlocked", is_flag=True, help="Give the SQL all of DuckDB: files, writes, settings."
)
@lake_options
def query(
    sql: str | None,
    file: str | None,
    name: str | None,
    params: tuple[str, ...],
    since: str | None,
    from_: str | None,
    to: str | None,
    format_: str,
    output: str | None,
    unlocked: bool,
    **lake: Any,
) -> None:
    """Ask a question in SQL.

    Every stream is a table with the stream's name; rayotel views lists views beside them. The SQL
    comes from the argument, from a file, from a shipped question, or from standard input (with -
    or without an argument). It is DuckDB's SQL, and it can read the lake and nothing else.

    \b
    rayotel query --name node-cpu --since 1h
    rayotel query "SELECT count(*) FROM raymetrics" --format json
    """
    from rayotel.query.lake import lake_of
    from rayotel.query.place import Form

    check_output(format_, output)
    # the process of questions takes nothing over: it comes before anything heavy is imported
    with lake_of(config.load(lake)) as asked:
        text, parameters = _question(sql, file, name, _pairs(params))
        range_ = asked_range(since, from_, to)
        form = Form(format_, terminal_width() if output is None else None)
        reader = stdout_descriptor() if output is None else None
        with (
            asked.ask_for_text(
                form, text, range_, parameters, unlocked=unlocked, reader=reader
            ) as result,
            opened_output(output) as out,
        ):
            for piece in result.pieces():
                out.write(piece)
    say_left_out(result.shown)


@click.command()
@click.argument("name", required=False)
def queries(name: str | None) -> None:
    """List the shipped questions, or print one with its parameters, columns and SQL."""
    from rayotel.query.ray import questions

    if name is not None:
        click.echo(questions.find(name).sql, nl=False)
        return
    listed = questions.all_queries()
    width = max(len(shipped.name) for shipped in listed)
    for shipped in listed:
        click.echo(f"{shipped.name.ljust(width)}  {shipped.question}")
    say("ask one with: rayotel query --name NAME --since 1h")


@click.command()
@click.argument("name", required=False)
def views(name: str | None) -> None:
    """List the views and macros that every question can use, or explain one."""
    from rayotel.query.ray import definitions

    if name is not None:
        click.echo(definitions.explained(definitions.find(name)))
        return
    listed = definitions.all_definitions().values()
    width = max(len(definition.name) for definition in listed)
    for definition in listed:
        click.echo(f"{definition.name.ljust(width)}  {definition.about}")
    say("explain one with: rayotel views NAME")


@click.command()
@click.argument("name", required=False)
@click.option("--schema", is_flag=True, help="Show the columns of stream NAME and what each holds.")
@click.option("--files", is_flag=True, help="Show the files of stream NAME that count.")
@range_options
@output_options
@lake_options
def streams(
    name: str | None,
    schema: bool,
    files: bool,
    since: str | None,
    from_: str | None,
    to: str | None,
    format_: str,
    output: str | None,
    **lake: Any,
) -> None:
    """Show the rows, bytes, files, times and lag of each stream.

    With NAME: of that stream, or its columns (--schema), or its files (--files). A file that a
    bigger one covers does not count, and is not shown.
    """
    from rayotel.query.lake import lake_of

    if (schema or files) and name is None:
        raise UsageError("--schema and --files need the name of a stream")
    if schema and files:
        raise UsageError("--schema and --files exclude each other")
    check_output(format_, output)
    with lake_of(config.load(lake)) as there:
        from rayotel.query import streams

        range_ = asked_range(since, from_, to)
        if schema and name is not None:
            table = streams.columns_table(streams.columns(there, name, range_))
        else:
            with progress_bar("reading footers", 1) as progress:
                if files and name is not None:
                    parts = streams.files(there, name, range_, progress=progress)
                    table = streams.files_table(parts)
                else:
                    listed = streams.streams(there, range_, only=name, progress=progress)
                    table = streams.table(listed)
    write(table, format_, output)
    if not table.num_rows:
        what = f"files of stream '{name}'" if files else "streams"
        say(f"no {what} in '{there.storage.url}' in this time range")


@click.command()
@click.argument("name", required=False)
@click.option(
    "--stream", metavar="STREAM", help="Stream to read; default: the setting metrics_stream."
)
@click.option("--all", "with_unseen", is_flag=True, help="Also list known metrics without data.")
@range_options
@output_options
@lake_options
def metrics(
    name: str | None,
    stream: str | None,
    with_unseen: bool,
    since: str | None,
    from_: str | None,
    to: str | None,
    format_: str,
    output: str | None,
    **lake: Any,
) -> None:
    """List the metrics of a stream and what each really is, or describe one.

    Ray's own types mislead: Ray sends running totals as gauges. The column kind corrects them:
    gauge, counter, cumulative_gauge (take increases), owner_gauge (a fall is an owner that left),
    histogram, info, broken, or mixed (depends on a label; NAME shows which).

    Without a time range, rayotel reads the last 24 hours of the stream.
    """
    from rayotel.query.lake import lake_of

    check_output(format_, output)
    with lake_of(config.load(lake)) as whole:
        from rayotel.query import metrics as metering

        stream = stream or whole.reads.metrics
        range_ = metering.bounded(whole.storage, stream, asked_range(since, from_, to))
        there = metering.StreamMetrics(whole, stream, range_)
        if name is not None:
            table = metering.table(metering.described(there, name), metering.Fact)
        else:
            seen = metering.seen(there, with_unseen=with_unseen)
            table = metering.table(seen, metering.SeenMetric)
    write(table, format_, output)
    if not there.is_there:
        say(f"no stream '{stream}' in '{whole.storage.url}'; only known metrics of Ray are listed")
    elif not table.num_rows:
        say(f"no metrics in stream '{stream}' in this time range")


def _pairs(params: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for param in params:
        name, equals, value = param.partition("=")
        if not equals or not name:
            raise UsageError(f"'{param[:40]}' is not NAME=VALUE")
        values[name] = value
    return values


def _question(
    sql: str | None, file: str | None, name: str | None, params: Mapping[str, str]
) -> tuple[str, Mapping[str, str]]:
    """The SQL and its parameters, from the one source that was given."""
    if sum(source is not None for source in (sql, file, name)) > 1:
        raise UsageError("give SQL, --file or --name, not several of them")
    if name is not None:
        from rayotel.query.ray import questions

        chosen = questions.find(name)
        return chosen.sql, chosen.bind(params)
    if file is not None:
        try:
            return Path(file).read_text("utf-8"), params
        except OSError as error:
            raise UsageError(f"cannot read '{file}': {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"'{file}' is not UTF-8 text") from None
    if sql is None or sql == "-":
        if sys.stdin.isatty() and sql is None:
            raise UsageError(
                "no question", hint="give SQL, --file, --name or SQL on standard input"
            )
        try:
            return sys.stdin.read(), params
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8 text") from None
    return sql, params
