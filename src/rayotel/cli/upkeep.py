"""Commands that keep a lake small and whole: `compact`, `retention`, `verify`, `delete`."""

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
    progress,
    range_options,
    say,
    write,
)
from rayotel.errors import UsageError
from rayotel.model import is_stream_name

DELETE_WAIT_SECONDS = 60.0  # for a merge that is under way


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
@click.option("--force", is_flag=True, help="Believe this machine's clock, whatever it says.")
@output_options
@lake_options
def retention(dry_run: bool, force: bool, format_: str, output: str | None, **lake: Any) -> None:
    """Remove the hours that the settings retention and retention_by_stream no longer keep.

    A server does this by itself. The command shows the removed hours, or with --dry-run the hours
    that it would remove. If the clock may be far ahead of what the lake says, nothing goes by age.
    """
    import pyarrow as pa

    from rayotel.lake import catalog
    from rayotel.lake.storage.opening import storage_of
    from rayotel.lake.upkeep.retention import expired
    from rayotel.lake.upkeep.trusted_time import TrustedTime
    from rayotel.model import NANOSECONDS_PER_HOUR

    settings = config.load(lake)
    storage = storage_of(settings)
    rows: dict[tuple[str, int], list[int]] = {}
    streams = catalog.streams(storage)
    clock = TrustedTime(settings.data_dir / "compaction" / "clock")
    keeps_all = settings.policies.keep_everything
    now = time.time() if force or keeps_all else clock.now(storage, streams, keep=False)
    if now is None:
        say("the clock may be far ahead of the lake's newest part: nothing goes by age")
        say("hint: if the clock is right, --force believes it")
    for stream in streams:
        parts = catalog.all_parts(storage, stream)
        for part in expired(settings.policies.of(stream), parts, now):
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
    write(table.schema, table.to_batches(), format_, output)
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
        if finding.is_damage and finding.can_move and repair:
            say(f"moved to {verification.move_aside(storage, finding.key)}")
        elif finding.is_damage:
            damaged += 1
    say(f"{done.parts} parts with {done.rows} rows and {done.bytes} bytes were read")
    if damaged:
        say(f"{damaged} of them are damaged")
        say("hint: 'rayotel verify --repair' moves them aside, so that questions work again")
        sys.exit(1)


@click.command()
@click.argument("stream", required=False)
@click.option("--cluster", metavar="C", help="Delete the rows of this cluster in all streams.")
@click.option("--session", metavar="S", help="Delete the rows of this session in all streams.")
@click.option("--dry-run", is_flag=True, help="Count what would go, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@lake_options
def delete(
    stream: str | None,
    cluster: str | None,
    session: str | None,
    dry_run: bool,
    yes: bool,
    **lake: Any,
) -> None:
    """Delete the stream STREAM, or the rows of a cluster or session in all streams.

    Parts of all receivers are deleted, or rewritten without the rows. What is deleted is gone for
    good. Rows that wait in the WAL of a running server come back when they are committed, and so
    can rows that another server merges at this moment: run the command once more after them.
    """
    from rayotel.lake import catalog, layout
    from rayotel.lake.storage.opening import storage_of
    from rayotel.lake.upkeep import deletion
    from rayotel.lake.upkeep.alone import alone

    if sum(bool(asked) for asked in (stream, cluster, session)) != 1:
        raise UsageError(
            "what shall be deleted?", hint="give the name of a stream, --cluster or --session"
        )
    settings = config.load(lake)
    storage = storage_of(settings)
    if stream is not None and stream not in catalog.streams(storage):
        claims = storage.objects(layout.claims_prefix(stream)) if is_stream_name(stream) else ()
        if not any(True for _ in claims):
            raise UsageError(f"no stream '{stream[:100]}'", hint="'rayotel streams' lists them")
    what = f"stream '{stream}'" if stream else f"{'cluster' if cluster else 'session'}"
    what += "" if stream else f" '{cluster or session}'"
    if sys.stdin.isatty() and not (yes or dry_run):
        click.confirm(f"delete {what} from {storage.url} for good?", abort=True, err=True)
    work = settings.data_dir / "compaction"
    with alone(work, wait_seconds=DELETE_WAIT_SECONDS), progress("parts", 1) as advance:
        if stream is not None:
            done = deletion.forget_stream(storage, stream, dry_run=dry_run)
        else:
            which = deletion.Which(cluster, session)
            done = deletion.forget_rows(
                storage, work / "deletion", which, dry_run=dry_run, progress=advance
            )
    verb = "would go" if dry_run else "deleted"
    say(f"{what}: {done.rows} rows in {done.parts} parts of {done.bytes} bytes {verb}")
    if not dry_run:
        say("rows that still wait in a server's WAL come back when they are committed")
