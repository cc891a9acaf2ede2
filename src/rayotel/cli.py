"""The `rayotel` command."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from rayotel import __version__, config
from rayotel.errors import RayotelError

data_dir_option = click.option("--data-dir", metavar="DIR")


@click.group()
@click.version_option(__version__, prog_name="rayotel")
def cli() -> None:
    """x"""


@cli.command()
@click.option("--host")
@click.option("--port", type=int)
@click.option("--data-dir")
@click.option("--storage")
@click.option("--commit-interval-seconds", type=float)
@click.option("--insecure", is_flag=True, default=None)
def serve(**flags: Any) -> None:
    from rayotel import app

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(app.serve(config.load(flags), lambda t: click.echo(t, err=True)))


def main() -> None:
    try:
        cli(standalone_mode=True)
    except RayotelError as error:
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        sys.exit(error.exit_code)
