"""The `rayotel` command: options in, exit codes out; the work is done elsewhere.

Data goes to standard output, messages to standard error. Exit codes: 0 done, 1 failed, 2 wrong
usage. Each command imports the heavy modules that it needs, so that the others start fast.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from rayotel import __version__, config, logs
from rayotel.cli.options import asked_range, lake_options, output_options, range_options, say, write
from rayotel.cli.options import progress as progress_bar
from rayotel.cli.upkeep import compact, retention, verify
from rayotel.config.values import is_http_url
from rayotel.errors import RayotelError, UsageError
from rayotel.logs import log_event

logger = logging.getLogger(__name__)


def _settings_epilog() -> str:
    lines = [
        "\b",
        "Settings: RAYOTEL_<NAME> in the environment, or NAME in rayotel.toml:",
    ]
    for section, members in itertools.groupby(config.descriptions(), lambda one: one.section):
        lines += ["", "\b", f"{section}:"]
        for name, default, description, _ in members:
            lines += [f"  {name} (default {default})", f"      {description}"]
    return "\n".join(lines)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rayotel")
def cli() -> None:
    """Keep the history of Ray clusters and answer questions about them.

    rayotel receives OTLP from Fluent Bit and events from Ray, writes open Parquet to your storage,
    and answers in SQL.
    """


@cli.command(epilog=_settings_epilog())
@click.option("--host", metavar="HOST", help="Address to listen on.")
@click.option("--port", type=int, metavar="PORT", help="Port to listen on.")
@lake_options
@click.option(
    "--commit-interval-seconds", type=float, metavar="N",
    help="Longest time that points wait in the WAL before they become Parquet.",
)  # fmt: skip
@click.option(
    "--insecure", is_flag=True, default=None,
    help="Allow listening beyond loopback without credentials.",
)  # fmt: skip
def serve(**flags: Any) -> None:
    """Receive OTLP and Ray's own events over HTTP, and store them until SIGTERM.

    POST /v1/metrics accepts OTLP metrics (protobuf or JSON; plain, gzip, zstd or deflate). The
    header X-P-Stream names the stream; the default is raymetrics. Every other X-P-* header becomes
    a column. The answer 200 means that the request is synced to disk.

    POST /v1/events accepts the events of Ray's event export; the default stream is rayevents. Ray
    sends no headers of yours, so ?stream=NAME and ?cluster_id=prod replace them. Ray sends no
    credentials either: with the setting events_token, /v1/events/TOKEN needs none.
    """
    settings = config.load(flags)
    logs.set_up(settings.log_level, settings.log_format)
    from rayotel import server

    try:
        sys.exit(server.serve(settings))
    except RayotelError as error:
        if settings.log_format == "text":
            raise  # to the words that every command has for it
        log_event(logger, logging.ERROR, error.message, hint=error.hint)
        sys.exit(error.exit_code)


class _SqlCommand(click.Command):
    """A command whose argument may begin with `--`: SQL may open with a comment."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put such an argument behind `--`, where click takes nothing for an option."""
        sql = [arg for arg in args if arg.startswith("--") and arg[2:3].isspace()]
        if sql and "--" not in args:
            args = [*(arg for arg in args if arg not in sql), "--", *sql]
        return super().parse_args(ctx, args)


@cli.command(cls=_SqlCommand)
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

    text, parameters = _question(sql, file, name, _pairs(params))
    asked = lake_of(config.load(lake))
    if name is not None:
        text = asked.reads.put_into(text)
    range_ = asked_range(since, from_, to)
    with asked.ask(text, range_, parameters, unlocked=unlocked) as result:
        write(result.schema, result.batches(), format_, output)


@cli.command()
@click.argument("name", required=False)
def queries(name: str | None) -> None:
    """List the shipped questions, or print one with its parameters, columns and SQL."""
    from rayotel.query.ray import questions

    if name is not None:
        click.echo(questions.find(name).sql, nl=False)
        return
    found = questions.all_queries()
    width = max(len(one.name) for one in found)
    for one in found:
        click.echo(f"{one.name.ljust(width)}  {one.question}")
    say("ask one with: rayotel query --name NAME --since 1h")


@cli.command()
@click.argument("name", required=False)
def views(name: str | None) -> None:
    """List the views and macros that every question can use, or explain one."""
    from rayotel.query.ray import definitions

    if name is not None:
        click.echo(definitions.explained(definitions.find(name)))
        return
    found = definitions.all_definitions().values()
    width = max(len(one.name) for one in found)
    for one in found:
        click.echo(f"{one.name.ljust(width)}  {one.about}")
    say("explain one with: rayotel views NAME")


@cli.command()
@click.argument("name", required=False)
@click.option("--schema", is_flag=True, help="Show the columns of stream NAME and what each holds.")
@range_options
@output_options
@lake_options
def streams(
    name: str | None,
    schema: bool,
    since: str | None,
    from_: str | None,
    to: str | None,
    format_: str,
    output: str | None,
    **lake: Any,
) -> None:
    """Show the rows, bytes, files, times and lag of each stream, or the columns of one."""
    import pyarrow as pa

    from rayotel.query import streams
    from rayotel.query.lake import lake_of

    if schema and name is None:
        raise UsageError("--schema needs the name of a stream")
    there = lake_of(config.load(lake))
    range_ = asked_range(since, from_, to)
    if schema and name is not None:
        names = ("column", "type", "holds")
        found = streams.columns(there, name, range_)
        table = pa.table([list(column) for column in zip(*found, strict=True)], names=names)
    else:
        with progress_bar("reading footers", 1) as progress:
            listed = streams.streams(there, range_, only=name, progress=progress)
        table = streams.table(listed)
    write(table.schema, table.to_batches(), format_, output)
    if not table.num_rows:
        say(f"no streams in '{there.storage.url}' in this time range")


@cli.command()
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
    from rayotel.query import metrics as metering
    from rayotel.query.lake import lake_of

    whole = lake_of(config.load(lake))
    stream = stream or whole.reads.metrics
    range_ = metering.bounded(whole.storage, stream, asked_range(since, from_, to))
    there = metering.StreamMetrics(whole, stream, range_)
    if name is not None:
        facts = metering.described(there, name)
        table = metering.table(facts, metering.Fact)
    else:
        table = metering.table(metering.seen(there, with_unseen=with_unseen), metering.SeenMetric)
    write(table.schema, table.to_batches(), format_, output)
    if not there.is_there:
        say(f"no stream '{stream}' in '{whole.storage.url}'; only known metrics of Ray are listed")
    elif not table.num_rows:
        say(f"no metrics in stream '{stream}' in this time range")


@cli.command()
@click.argument("directory")
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, help="Address of the server."
)
@click.option(
    "--speed", default="1", show_default=True, metavar="X",
    help="1: as recorded. 10: ten times as fast. max: without pauses.",
)  # fmt: skip
@click.option("--shift-to", type=click.Choice(["now"]), help="Move all times so that they end now.")
def replay(directory: str, url: str, speed: str, shift_to: str | None) -> None:
    """Post recorded traffic to a server, as the real client did.

    The settings username and password give the credentials.
    """
    from rayotel import replay as replaying

    factor = _speed(speed)
    if not is_http_url(url):
        raise UsageError("--url is not an address", hint="for example http://127.0.0.1:8000")
    recording = replaying.load(Path(directory))
    settings = config.load()
    shift = replaying.shift_to_now(recording) if shift_to else 0
    credentials = (settings.username, settings.password) if settings.has_credentials else None
    with progress_bar("posting", len(recording.requests)) as progress:
        outcome = replaying.post(
            recording, url, speed=factor, shift_nano=shift, credentials=credentials,
            progress=progress,
        )  # fmt: skip
    for (path, status), count in sorted(outcome.answers.items()):
        say(f"{path}: {count} answered {status}")
    say(f"{outcome.seconds:.1f} s, {outcome.retries} tries again")
    if any(status >= 400 for _, status in outcome.answers):
        raise RayotelError("some requests were refused", hint="the server's log has the reasons")


@cli.command()
def demo() -> None:
    """Replay a recorded Ray cluster and print the answers of shipped questions.

    The demo needs neither Docker nor a cloud nor Ray. It works in a temporary directory.
    """
    from rayotel import demo as demonstration

    with progress_bar("replaying", demonstration.request_count()) as progress:
        steps = demonstration.run(progress)
    for line in steps:
        click.echo(line)


def _pairs(params: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for param in params:
        name, equals, value = param.partition("=")
        if not equals or not name:
            raise UsageError(f"'{param[:40]}' is not NAME=VALUE")
        found[name] = value
    return found


def _question(
    sql: str | None, file: str | None, name: str | None, params: Mapping[str, str]
) -> tuple[str, Mapping[str, str]]:
    """The SQL and its parameters, from the one source that was given."""
    if sum(one is not None for one in (sql, file, name)) > 1:
        raise UsageError("give SQL, --file or --name, not several of them")
    if name is not None:
        from rayotel.query.ray import questions

        found = questions.find(name)
        return found.sql, found.bind(params)
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


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise UsageError("--speed is neither a positive number nor max")
    return speed


for _command in (compact, retention, verify):
    cli.add_command(_command)


def main() -> None:
    """Run the command; a user's mistake gets a message, not a traceback."""
    try:
        cli(standalone_mode=True)
    except RayotelError as error:
        say(f"error: {error.message}")
        if error.hint:
            say(f"hint: {error.hint}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # whoever reads the output has seen enough; what Python still holds must go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
