"""The `rayotel` command: options in, exit codes out; the work is done elsewhere.

Data goes to standard output, messages to standard error. Exit codes: 0 done, 1 failed, 2 wrong
usage. Each command imports the heavy modules that it needs, so that the others start fast.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from rayotel import __version__
from rayotel.cli.ask import metrics, queries, query, streams, views
from rayotel.cli.options import say
from rayotel.cli.server import demo, replay, serve
from rayotel.cli.upkeep import compact, delete, retention, verify
from rayotel.errors import RayotelError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rayotel")
def cli() -> None:
    """Keep the history of Ray clusters and answer questions about them.

    rayotel receives OTLP from Fluent Bit and events from Ray, writes open Parquet to your storage,
    and answers in SQL.
    """


for _command in (
    *(serve, replay, demo),
    *(query, queries, views, streams, metrics),
    *(compact, retention, verify, delete),
):
    cli.add_command(_command)


def main() -> None:
    """Run the command; a user's mistake gets a message, not a traceback."""
    try:
        try:
            cli(standalone_mode=True)
        finally:
            sys.stdout.flush()  # what cannot be written must be known before the exit status
    except RayotelError as error:
        say(f"error: {error.message}")
        if error.hint:
            say(f"hint: {error.hint}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _end_without_output()  # whoever reads the output has seen enough
    except OSError as error:
        if error.filename is not None:
            raise
        say(f"error: cannot write to standard output: {error.strerror}")
        _end_without_output()


def _end_without_output() -> NoReturn:
    """Exit with 1; what Python still holds for standard output goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
