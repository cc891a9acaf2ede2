"""Commands that keep a lake small and whole: `compact`, `retention`, `verify`."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from rayotel import config
from rayotel.cli.options import (
    asked_range,
    lake_options,
    output_options,
    range_options,
    say,
    write,
)
from rayotel.errors import UsageError


@click.command()
@click.argument("name", required=False)
@click.option(
    "--adopt",
    metavar="RECEIVER",
    help="Merge the parts of this receiver instead. Its server must be gone for good.",
)
@lake_options
def compact(name: str | None, adopt: str | None, **lake: Any) -> None:
    """Merge the parts of each finished hour into one sorted part, of all streams or of NAME.

    A server does this by itself. The command touches only the parts of this data directory's own
    receiver, or of the receiver named by --adopt. Running questions are not affected.
    """
    from rayotel.ingest.wal.segments import known_receiver_id
    from rayotel.lake.layout import is_receiver_id
    from rayotel.lake.storage.opening import storage_of
    from rayotel.lake.upkeep.compactor import Compactor, Schedule

    settings = config.load(lake)
    storage = storage_of(settings)
    if adopt is not None and not is_receiver_id(adopt):
        raise UsageError(f"'{adopt[:40]}' is not a receiver id", hint="it has 12 hex digits")
    receiver = adopt or known_receiver_id(settings.data_dir / "wal")
    schedule = Schedule(0, settings.compaction_grace_seconds)  # whoever asks means now
    done = Compactor(storage, settings.data_dir / "compaction", schedule).run(
        receiver,
        streams=None if name is None else [name],
        progress=lambda job: say(f"{len(job.inputs)} parts -> {job.output.key}"),
    )
    say(
        f"{done.hours} hours compacted: {done.inputs} parts with {done.rows} rows;"
        f" {done.removed} parts removed that had been covered before"
    )


@click.command()
@click.option("--dry-run", is_flag=True, help="Show the hours without removing them.")
@output_options
@lake_options
def retention(dry_run: bool, format_: str, output: str | None, **lake: Any) -> None:
    """Remove the hours that the settings retention and retention_by_stream no longer keep.

    A server does this by itself. The command shows the removed hours, or with --dry-run the hours
    that it would remove.
    """
    import pyarrow as pa

    from rayotel.lake import catalog
    from rayotel.lake.storage.opening import storage_of
    from rayotel.lake.upkeep.retention import expired
    from rayotel.model import NANOSECONDS_PER_HOUR

    settings = config.load(lake)
    storage = storage_of(settings)
    rows: dict[tuple[str, int], list[int]] = {}
    for stream in catalog.streams(storage):
        parts = catalog.all_parts(storage, stream)
        for part in expired(settings.policies.of(stream), parts, time.time()):
            row = rows.setdefault((stream, part.name.hour), [0, 0])
            row[0] += 1
            row[1] += part.size_bytes
            if not dry_run:
                storage.delete(part.name.key)
    hours = [hour * NANOSECONDS_PER_HOUR for _, hour in rows]
    table = pa.table(
        {
            "stream": pa.array([stream for stream, _ in rows], pa.string()),
            "hour": pa.array(hours, pa.timestamp("ns", "UTC")).cast(pa.timestamp("us", "UTC")),
            "parts": pa.array([row[0] for row in rows.values()], pa.int64()),
            "bytes": pa.array([row[1] for row in rows.values()], pa.int64()),
        }
    )
    write(table, format_, output)
    if settings.policies.keep_everything:
        say("nothing goes: the settings retention and retention_by_stream keep everything")
    else:
        say(f"{len(rows)} hours {'would go' if dry_run else 'removed'}")


@click.command()
@click.argument("name", required=False)
@click.option("--repair", is_flag=True, help="Move damaged parts aside. Nothing is deleted.")
@range_options
@lake_options
def verify(
    name: str | None,
    repair: bool,
    since: str | None,
    from_: str | None,
    to: str | None,
    **lake: Any,
) -> None:
    """Read every part of a time range, of all streams or of NAME, and report damage.

    Exit code 0: no part is damaged, or every damaged part was moved aside. 1: a part is damaged.
    """
    from rayotel.lake import catalog
    from rayotel.lake.storage.opening import storage_of
    from rayotel.lake.upkeep import verification

    storage = storage_of(config.load(lake))
    range_ = asked_range(since, from_, to)
    streams = catalog.streams(storage)
    if name is not None:
        if name not in streams:
            raise UsageError(f"no stream '{name[:100]}'", hint="'rayotel streams' lists them")
        streams = [name]
    done = verification.Verified()
    damaged = 0
    for finding in verification.verify(storage, streams, range_, done):
        click.echo(f"{finding.key}: {finding.words}")
        if finding.is_damage and repair:
            say(f"moved to {verification.move_aside(storage, finding.key)}")
        elif finding.is_damage:
            damaged += 1
    say(f"{done.parts} parts with {done.rows} rows and {done.bytes} bytes were read")
    if damaged:
        say(f"{damaged} of them are damaged")
        say("hint: 'rayotel verify --repair' moves them aside, so that questions work again")
        sys.exit(1)
