"""What the WAL holds and cannot be committed, moved aside whole, and taken in again.

    damaged/<segment>-<offset>.bin             bytes in which no record can be read
    damaged/<segment>-<epoch>-<n>.record       a whole record whose commit failed; n: its position
    recover/<the same name>                    a record that a server is to take in again

A file of a record is b"RAYOREC1", the record's payload (see `segments`), and their CRC-32.
`rayotel recover` moves such files to `recover`. The server that has the data directory, or its next
start, writes each to the WAL and removes the file. The record keeps its first arrival and names the
file that it comes from, so that taking it in twice stores it once.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rayotel import durable
from rayotel.errors import WalError
from rayotel.ingest.wal import segments
from rayotel.ingest.wal.segments import Damage
from rayotel.ingest.wal.waiting import Segment
from rayotel.model import Record

MAGIC = b"RAYOREC1"
DAMAGED, RECOVER = "damaged", "recover"
_CRC = struct.Struct("<I")


def keep_damage(directory: Path, number: int, damage: Damage) -> Path:
    """Keep the bytes of a damaged stretch; returns where. Raises WalError."""
    return _keep(directory, f"{number:012d}-{damage.offset}.bin", damage.content)


def keep_record(directory: Path, segment: Segment, position: int, record: Record) -> Path:
    """Keep a record durably; returns where. Raises WalError."""
    content = MAGIC + segments.payload_of(record)
    name = f"{segment.number:012d}-{segment.epoch}-{position}.record"
    return _keep(directory, name, content + _CRC.pack(zlib.crc32(content)))


def _keep(directory: Path, name: str, content: bytes) -> Path:
    target = directory / DAMAGED / name
    try:
        if not target.parent.exists():
            target.parent.mkdir()
            durable.sync_directory(directory)
        durable.replace_file(target, content)
    except OSError as error:
        raise WalError(f"cannot write '{target}': {error.strerror or error}") from None
    return target


def ask_back(directory: Path) -> list[str]:
    """Give all records that were set aside to the server; returns their files' names.

    Doing it again gives what was set aside since. Raises WalError.
    """
    names = sorted(path.name for path in (directory / DAMAGED).glob("*.record"))
    try:
        if names:
            (directory / RECOVER).mkdir(exist_ok=True)
        for name in names:
            durable.rename(directory / DAMAGED / name, directory / RECOVER / name)
    except OSError as error:
        raise WalError(f"cannot move a record to '{RECOVER}': {error.strerror or error}") from None
    return names


def unreadable(directory: Path) -> list[Path]:
    """Files of bytes in which no record can be read."""
    return sorted((directory / DAMAGED).glob("*.bin"))


def asked_back(directory: Path) -> Iterator[tuple[Path, Record]]:
    """The records to take in again, with their files. What cannot be read stays. Raises OSError."""
    for path in sorted((directory / RECOVER).glob("*.record")):
        content = path.read_bytes()
        body, crc = content[: -_CRC.size], content[-_CRC.size :]
        if not body.startswith(MAGIC) or crc != _CRC.pack(zlib.crc32(body)):
            damaged = path.with_suffix(".bin")
            durable.rename(path, directory / DAMAGED / damaged.name)
            continue
        record = segments.record_of(body[len(MAGIC) :])
        yield path, Record(replace(record.arrival, recovered_as=path.stem), record.body)


def done(path: Path) -> None:
    """A record was written to the WAL again. Raises OSError."""
    durable.remove(path)
    durable.sync_directory(path.parent)


def refuse(directory: Path, path: Path) -> None:
    """A record that was asked back still fails: it stays aside. Raises OSError."""
    durable.rename(path, directory / DAMAGED / path.name)
