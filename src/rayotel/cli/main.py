"""The `rayotel` command: options in, exit codes out; the work is done elsewhere.

Data goes to standard output, words to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage.
Heavy modules are imported by the commands that need them, so that the others start fast.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from rayotel import __version__, config
from rayotel.cli.options import lake_options, open_lake, output_options, range_options, say, write
from rayotel.cli.options import progress as progress_bar
from rayotel.cli.upkeep import compact, retention, verify
from rayotel.errors import RayotelError, UsageError


def _settings_epilog() -> str:
    lines = [
        "\b",
        "Settings, each also RAYOTEL_<NAME> in the environment and NAME in rayotel.toml:",
    ]
    for name, default, description in config.descriptions():
        lines.append(f"  {name} (default {default})")
        lines.append(f"      {description}")
    return "\n".join(lines)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rayotel")
def cli() -> None:
    """Keep the history of Ray clusters and answer questions about them.

    OTLP from Fluent Bit in, open Parquet on your own storage, answers in SQL.
    """


@cli.command(epilog=_settings_epilog())
@click.option("--host", metavar="HOST", help="Address to listen on.")
@click.option("--port", type=int, metavar="PORT", help="Port to listen on.")
@lake_options
@click.option(
    "--commit-interval-seconds", type=float, metavar="N",
    help="How long points wait in the log before they become Parquet.",
)  # fmt: skip
@click.option(
    "--insecure", is_flag=True, default=None,
    help="Allow listening beyond loopback without credentials.",
)  # fmt: skip
def serve(**flags: Any) -> None:
    """Receive OTLP and Ray's own events over HTTP and store them, until SIGTERM.

    POST /v1/metrics takes OTLP metrics (protobuf or JSON; plain, gzip, zstd or deflate). The header
    X-P-Stream names the stream; without it the stream is raymetrics. Every other X-P-* header
    becomes a column. An answer of 200 means: on disk, never lost.

    POST /v1/events takes what Ray's event export sends, into the stream rayevents. Ray sends no
    headers of yours: ?stream=NAME and ?cluster_id=prod do what the headers would. Ray sends no
    credentials either: with the setting events_token, /v1/events/TOKEN needs none.
    """
    from rayotel import server

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    sys.exit(server.serve(config.load(flags), say))


class _SqlCommand(click.Command):
    """A command whose argument may begin with `--`: SQL that opens with a comment is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put such an argument behind `--`, where click takes nothing for an option."""
        sql = [arg for arg in args if arg.startswith("--") and arg[2:3].isspace()]
        if sql and "--" not in args:
            args = [*(arg for arg in args if arg not in sql), "--", *sql]
        return super().parse_args(ctx, args)


@cli.command(cls=_SqlCommand)
@click.argument("sql", required=False)
@click.option("--file", "file", metavar="FILE", help="Read the SQL from a file.")
@click.option("--name", metavar="QUERY", help="Ask a shipped question; see rayotel queries.")
@click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE",
    help="Value of a parameter, $NAME in the SQL. May be given again.",
)  # fmt: skip
@click.option("--metrics-stream", metavar="STREAM", help="The stream that SQL finds as raymetrics.")
@click.option(
    "--events-stream",
    metavar="STREAM",
    help="The stream of Ray's events that it finds as rayevents.",
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
    """Ask a question in SQL. Every stream is a table of its name; rayotel views lists more.

    The SQL comes from the argument, a file, a shipped question or, with - or nothing, standard
    input. It is DuckDB's SQL; it can read the lake and nothing else.

    \b
    rayotel query --name node-cpu --since 1h
    rayotel query "SELECT count(*) FROM raymetrics" --format json
    """
    from rayotel.query.ray.definitions import Streams
    from rayotel.query.session import ask

    text, parameters = _question(sql, file, name, _pairs(params))
    settings = config.load(lake)
    reads = Streams(settings.metrics_stream, settings.events_stream)
    storage, limits, range_, cache = open_lake(settings, since, from_, to)
    with ask(
        storage, range_, limits, text, parameters, unlocked=unlocked, cache=cache, reads=reads
    ) as result:
        write(result.schema, result.batches(), format_, output)


@cli.command()
@click.argument("name", required=False)
def queries(name: str | None) -> None:
    """List the shipped questions, or show one with its parameters, columns and SQL."""
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
@click.option("--schema", is_flag=True, help="Show the columns of stream NAME and their origin.")
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
    """Show each stream's rows, bytes, files, first and last event, and lag; or one's columns."""
    import pyarrow as pa

    from rayotel.query import streams

    if schema and name is None:
        raise UsageError("--schema needs the name of a stream")
    storage, limits, range_, cache = open_lake(config.load(lake), since, from_, to)
    if schema and name is not None:
        names = ("column", "type", "holds")
        found = streams.columns(storage, name, range_, limits, cache=cache)
        table = pa.table([list(column) for column in zip(*found, strict=True)], names=names)
    else:
        with progress_bar("reading footers", 1) as progress:
            listed = streams.streams(
                storage, range_, limits, only=name, cache=cache, progress=progress
            )
        table = streams.table(listed)
    write(table.schema, table.to_batches(), format_, output)
    if not table.num_rows:
        say(f"no streams in '{storage.url}' in this time range")


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--stream", metavar="STREAM", help="The stream to look into; else the setting metrics_stream."
)
@click.option("--all", "with_unseen", is_flag=True, help="Also list what is known and not there.")
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
    """List the metrics of a stream and what each really is, or tell everything about one.

    Ray's own types mislead: running totals are sent as gauges. The kind says what a metric is:
    gauge, counter, cumulative_gauge (take increases), owner_gauge (a fall is an owner that left),
    histogram, info, broken, or mixed (depends on a label; NAME tells).

    Without a time range: the last 24 hours that the stream has.
    """
    from rayotel.query import metrics as metering

    settings = config.load(lake)
    storage, limits, asked, cache = open_lake(settings, since, from_, to)
    looked = stream or settings.metrics_stream
    range_ = metering.bounded(storage, looked, asked)
    there = metering.Lake(storage, looked, range_, limits, cache, may_be_missing=stream is None)
    if name is not None:
        facts = metering.described(there, name)
        table = metering.table(facts, metering.Fact)
    else:
        table = metering.table(metering.seen(there, with_unseen=with_unseen), metering.SeenMetric)
    write(table.schema, table.to_batches(), format_, output)
    if not there.is_there:
        say(f"no stream '{looked}' in '{storage.url}': this is only what is known of Ray's metrics")
    elif not table.num_rows:
        say(f"no metrics in stream '{looked}' in this time range")


@cli.command()
@click.argument("directory")
@click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, help="Where the server is."
)
@click.option(
    "--speed", default="1", show_default=True, metavar="X",
    help="1: as recorded; 10: ten times as fast; max: without pauses.",
)  # fmt: skip
@click.option("--shift-to", type=click.Choice(["now"]), help="Move all times so that they end now.")
def replay(directory: str, url: str, speed: str, shift_to: str | None) -> None:
    """Post recorded traffic as the real client did.

    Credentials are those of the settings username and password.
    """
    from rayotel import replay as replaying

    factor = _speed(speed)
    if not _is_http_url(url):
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
        raise RayotelError("some requests were refused", hint="see the server's log")


@cli.command()
def demo() -> None:
    """See it work: replay a recorded Ray cluster and ask the shipped questions.

    Needs no Docker, no cloud and no Ray. Everything happens in a temporary directory.
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


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


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
    """Run the command; a user's mistake gets words, not a traceback."""
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
