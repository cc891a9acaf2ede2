"""What the commands share: options, opening a lake, writing rows, printing messages.

Data goes to standard output, messages to standard error. Heavy modules are imported when they are
needed, so that the other commands start fast.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import click

from rayotel.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from rayotel.model import TimeRange

FORMATS = ("table", "json", "ndjson", "csv", "markdown", "parquet")
Command = TypeVar("Command", bound=Callable[..., None])


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the order given."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


_DATA_DIR = click.option(
    "--data-dir", metavar="DIR", help="Directory of the WAL and, by default, of the lake."
)
_STORAGE = click.option(
    "--storage", metavar="URL", help="Address of the lake: a directory or s3://bucket/prefix."
)
lake_options = options(_DATA_DIR, _STORAGE)
range_options = options(
    click.option("--since", metavar="DURATION", help="Read only the last 90s, 15m, 1h30m, 2d, 1w."),
    click.option("--from", "from_", metavar="TIME", help="Read from this event time (ISO 8601)."),
    click.option("--to", metavar="TIME", help="Read until this event time (ISO 8601 or now)."),
)
output_options = options(
    click.option(
        "--format",
        "format_",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="Format of the rows.",
    ),
    click.option("--output", metavar="FILE", help="Write to this file, whole or not at all."),
)


def say(words: str) -> None:
    """Print a message for a person."""
    click.echo(words, err=True)


def asked_range(since: str | None, from_: str | None, to: str | None) -> TimeRange:
    """The time range of the options."""
    from rayotel.query.timerange import time_range

    return time_range(since, from_, to, time.time_ns())


def check_output(format_: str, output: str | None) -> None:
    """Refuse bytes on a terminal, before anything is asked."""
    if format_ == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal", hint="give --output FILE")


def terminal_width() -> int | None:
    """The width of the terminal that standard output is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def stdout_descriptor() -> int | None:
    """The descriptor of standard output, where it has one."""
    try:
        return sys.stdout.fileno()
    except OSError:
        return None


@contextlib.contextmanager
def opened_output(output: str | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that appears only when it is whole."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(output)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if target.exists() and not target.is_file():
            # a device or a pipe, such as /dev/null, must not be replaced by a file
            with target.open("wb") as file:
                yield file
            return
        with temporary.open("wb") as file:
            yield file
        temporary.replace(target)
    except OSError as error:
        raise UsageError(f"cannot write '{output}': {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write(table: pa.Table, format_: str, output: str | None) -> None:
    """A small table in a format, to standard output or to a file."""
    check_output(format_, output)
    with opened_output(output) as out:
        if format_ != "table":
            from rayotel.query.output.formats import STREAMING

            STREAMING[format_](table.schema, table.to_batches(), out)
            return
        from rayotel.query.output.table import write_table

        text = io.TextIOWrapper(out, "utf-8", write_through=True)
        width = terminal_width() if output is None else None
        shown = write_table(table.schema, table.to_batches(), text, width=width)
        text.detach()
        say_left_out(shown)


def say_left_out(shown: int | None) -> None:
    """Say it where a table is not whole."""
    if shown is not None:
        say(f"only the first {shown} rows; --format csv, json or parquet gives all")


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, nothing in a pipe. Call it with what is done, and with a new total."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of=total: bar.update(task, completed=done, total=of)
