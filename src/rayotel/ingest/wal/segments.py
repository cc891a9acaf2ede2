"""The write-ahead log (WAL) on disk: segments of framed records, readable after any crash.

**Directory** `<data_dir>/wal/`:

    receiver-id           twelve hexadecimal digits, made once; this receiver's name in part keys
    000000000017.wal      segments, by number; numbers only grow and are never used again
    damaged/              bytes that could not be read, moved aside: <segment>-<offset>.bin

The segment with the highest number is never removed, so that the next number is known after a
start.

**Segment** (all integers little-endian): a header of 16 bytes, then records one after another.

    header   8 bytes  b"RAYOWAL1"           8 bytes  segment number
    record   4 bytes  b"RYR1"
             4 bytes  length of the payload in bytes
             4 bytes  CRC-32 of the payload
             4 bytes  CRC-32 of the 12 bytes before, then segment number and offset of the record,
                      8 bytes each: a record holds only where it was written, so bytes inside a body
                      that look like a record are not taken for one
             payload  4 bytes length of the arrival, the arrival (JSON, UTF-8), the body as it came

**Reading** never fails for damage. Where no record stands, the reader searches the next offset of a
whole record; the bytes between are a damaged stretch. Without a next record the stretch is the
tail: a crash cut it off mid-write, and it was never acknowledged.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from rayotel.durable import replace_file, sync_directory
from rayotel.errors import WalError
from rayotel.lake.layout import is_receiver_id
from rayotel.model import Arrival, Record

MAGIC = b"RAYOWAL1"
MARK = b"RYR1"
_HEADER = struct.Struct("<8sQ")
_FRAME = struct.Struct("<4sII")
_CRC = struct.Struct("<I")
_PLACE = struct.Struct("<QQ")
HEADER_BYTES = _HEADER.size
FRAME_BYTES = _FRAME.size + _CRC.size
_ARRIVAL_FIELDS = tuple(field.name for field in fields(Arrival))
_SEGMENT_FILE = re.compile(r"(\d{12})\.wal")


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a segment that holds no readable record. `tail`: nothing readable follows."""

    offset: int
    content: bytes
    tail: bool


def payload_of(record: Record) -> bytes:
    """A record as the bytes that are framed."""
    # shallow: its only nested value is a tuple of texts
    plain = {name: getattr(record.arrival, name) for name in _ARRIVAL_FIELDS}
    arrival = json.dumps(plain, separators=(",", ":")).encode()
    return _CRC.pack(len(arrival)) + arrival + record.body


def record_of(payload: bytes) -> Record:
    """The opposite of `payload_of`; raises ValueError for anything else."""
    (length,) = _CRC.unpack_from(payload)
    fields = json.loads(payload[_CRC.size : _CRC.size + length])
    headers = tuple((str(name), str(value)) for name, value in fields.pop("header_columns"))
    return Record(Arrival(**fields, header_columns=headers), payload[_CRC.size + length :])


def frame(payload: bytes, number: int, offset: int) -> bytes:
    """A record as it stands in segment `number` at `offset`."""
    start = _FRAME.pack(MARK, len(payload), zlib.crc32(payload))
    return start + _CRC.pack(zlib.crc32(start + _PLACE.pack(number, offset))) + payload


def read_segment(content: bytes, number: int) -> Iterator[Record | Damage]:
    """Everything in a segment's bytes, in order: records, and damaged stretches between them."""
    offset = 0
    if content[:HEADER_BYTES] == _HEADER.pack(MAGIC, number):
        offset = HEADER_BYTES
    while offset < len(content):
        record_and_end = _record_at(content, number, offset)
        if record_and_end is None:
            after = _next_record(content, number, offset + 1)
            end = len(content) if after is None else after
            yield Damage(offset, content[offset:end], tail=after is None)
            offset = end
            continue
        record, offset = record_and_end
        yield record


def _record_at(content: bytes, number: int, offset: int) -> tuple[Record, int] | None:
    body = offset + FRAME_BYTES
    if content[offset : offset + len(MARK)] != MARK or body > len(content):
        return None
    _, length, payload_crc = _FRAME.unpack_from(content, offset)
    (crc,) = _CRC.unpack_from(content, offset + _FRAME.size)
    start = content[offset : offset + _FRAME.size]
    if crc != zlib.crc32(start + _PLACE.pack(number, offset)) or body + length > len(content):
        return None
    payload = content[body : body + length]
    if zlib.crc32(payload) != payload_crc:
        return None
    try:
        return record_of(payload), body + length
    except (ValueError, KeyError, TypeError, struct.error):
        return None


def _next_record(content: bytes, number: int, offset: int) -> int | None:
    while (offset := content.find(MARK, offset)) >= 0:
        if _record_at(content, number, offset) is not None:
            return offset
        offset += 1
    return None


class SegmentWriter:
    """The segment that is being written. Not safe for several threads."""

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self.path = segment_path(directory, number)
        self.records = 0
        self.broken = False
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(self._descriptor, _HEADER.pack(MAGIC, number))
            os.fsync(self._descriptor)
            sync_directory(directory)
        except OSError as error:
            raise _log_error(error) from error
        self.size_bytes = HEADER_BYTES

    def append(self, payloads: list[bytes]) -> None:
        """Append records and make them durable together. Raises WalError: none is acknowledged.

        After a failed write the segment is cut back to its last durable record and can go on. After
        a failed fsync, or where even the cut fails, what is on disk is unknown: `broken` is set,
        and the caller must close this segment and start another.
        """
        framed, offset = [], self.size_bytes
        for payload in payloads:
            framed.append(frame(payload, self.number, offset))
            offset += len(framed[-1])
        try:
            _write_all(self._descriptor, b"".join(framed))
        except OSError as error:
            self._cut_back()
            raise _log_error(error) from error
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self.broken = True
            raise _log_error(error) from error
        self.size_bytes = offset
        self.records += len(payloads)

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.size_bytes)
            os.lseek(self._descriptor, self.size_bytes, os.SEEK_SET)
            os.fsync(self._descriptor)
        except OSError:
            self.broken = True

    def close(self) -> None:
        """Close the file; what was appended stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _log_error(error: OSError) -> WalError:
    return WalError(f"cannot write the WAL: {error.strerror or error}")


def segment_numbers(directory: Path) -> list[int]:
    """Numbers of the segments in a WAL's directory, ascending."""
    matches = (_SEGMENT_FILE.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def segment_path(directory: Path, number: int) -> Path:
    """Where a segment is."""
    return directory / f"{number:012d}.wal"


def known_receiver_id(directory: Path) -> str:
    """The id of the receiver that owns this WAL. Raises WalError where there is none."""
    path = directory / "receiver-id"
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise WalError(
            f"cannot read '{path}': {error.strerror}",
            hint="give the --data-dir of a server that has run",
        ) from None
    if not is_receiver_id(text):
        raise WalError(
            f"'{path}' does not hold a receiver id",
            hint="restore it, or move the directory 'wal' aside to start with a new one",
        )
    return text


def receiver_id(directory: Path) -> str:
    """The id of the receiver that owns this WAL, made and made durable at first use.

    It lives beside the segments: whoever removes the WAL's directory, and with it the memory of
    which numbers were used, gets a new id too, and so can never write a part's name again.
    """
    path = directory / "receiver-id"
    if path.exists():
        return known_receiver_id(directory)
    new = os.urandom(6).hex()
    replace_file(path, f"{new}\n".encode("ascii"))
    return new


def move_aside(directory: Path, number: int, damage: Damage) -> Path:
    """Keep the bytes of a damaged stretch in `damaged/`; returns where."""
    target = directory / "damaged" / f"{number:012d}-{damage.offset}.bin"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(damage.content)
    return target
