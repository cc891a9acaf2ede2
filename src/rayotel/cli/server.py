"""Commands that run or feed a server: `serve`, `replay`, `demo`."""

from __future__ import annotations

import itertools
import logging
import sys
from pathlib import Path
from typing import Any

import click

from rayotel import config, logs
from rayotel.cli.options import lake_options, say
from rayotel.cli.options import progress as progress_bar
from rayotel.config.values import is_http_url
from rayotel.errors import RayotelError, UsageError
from rayotel.logs import log_event

logger = logging.getLogger(__name__)


def _settings_epilog() -> str:
    lines = [
        "\b",
        "Settings: RAYOTEL_<NAME> in the environment, or NAME in rayotel.toml:",
    ]
    for section, members in itertools.groupby(
        config.descriptions(), lambda setting: setting.section
    ):
        lines += ["", "\b", f"{section}:"]
        for name, default, description, _ in members:
            lines += [f"  {name} (default {default})", f"      {description}"]
    return "\n".join(lines)


@click.command(epilog=_settings_epilog())
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


@click.command()
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

    The settings username and password give the credentials. For https with a certificate of your
    own, SSL_CERT_FILE names the file of its issuer's.
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
        raise RayotelError("some requests were refused", hint="see the server's log output")


@click.command()
def demo() -> None:
    """Replay a recorded Ray cluster and print the answers of shipped questions.

    The demo needs neither Docker nor a cloud nor Ray. It works in a temporary directory.
    """
    from rayotel import demo as demonstration

    with progress_bar("replaying", demonstration.request_count()) as progress:
        steps = demonstration.run(progress)
    for line in steps:
        click.echo(line)


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
