"""The write-ahead log (WAL) on disk: segments of framed records, readable after any crash.

**Directory** `<data_dir>/wal/`:

    receiver-id           twelve hexadecimal digits, made once; this receiver's name in part keys
    000000000017.wal      segments, by number; numbers only grow and are never used again
    000000000017.skipped  positions of its records that are not committed (see `waiting`)
    damaged/              what could not be read or committed, moved aside
    recover/              records of `damaged` that are taken in again

The segment with the highest number is never removed, so that the next number is known after a
start.

**Segment** (all integers little-endian): a header of 64 bytes, then records one after another.

    header   8 bytes  b"RAYOWAL2"           8 bytes  segment number
             5 bytes  epoch                 5 bytes  epoch that it had before; zero: the same
             6 bytes  zero
             8 bytes  size of the sealed segment in bytes; 0: it is not sealed
             8 bytes  number of its records 8 bytes  first fresh hour
             4 bytes  CRC-32 of all that    4 bytes  zero
    record   4 bytes  b"RYR1"
             4 bytes  length of the payload in bytes
             4 bytes  CRC-32 of the payload
             4 bytes  CRC-32 of the 12 bytes before, then segment number and offset of the record,
                      8 bytes each: a record holds only where it was written, so bytes inside a body
                      that look like a record are not taken for one
             payload  4 bytes length of the arrival, the arrival (JSON, UTF-8), the body as it came

**Sealing.** An epoch is one start of a server. A segment is sealed, in place and durably, before
its first part is written: from then on its epoch and number name these records and no others, on
every copy of the data directory. A segment that a start finds unsealed, or with other records than
its seal says, may be the beginning of a longer one elsewhere: it is sealed anew, in the epoch of
that start. (If its parts are there already, made from the same records, they are not made again.)
The seal also says from which hour on the segment's rows were fresh, so that a commit
that is done again divides them in the same way. Segments of 0.1.0 (b"RAYOWAL1", a header of 16
bytes) have no seal and the epoch of zeros.

**Reading** never fails for damage. Where no record stands, the reader searches the next offset of a
whole record; the bytes between are a damaged stretch. Without a next record the stretch is the
tail: a crash cut it off mid-write, and it was never acknowledged. What is behind the sealed size
was never acknowledged either.
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

from rayotel import durable
from rayotel.errors import WalError
from rayotel.lake.layout import OLD_EPOCH, is_receiver_id
from rayotel.model import Arrival, Record

MAGIC, OLD_MAGIC = b"RAYOWAL2", b"RAYOWAL1"
MARK = b"RYR1"
EPOCH_BYTES = 5
_HEADER = struct.Struct("<8sQ5s5s6xQQQ")
_OLD_HEADER = struct.Struct("<8sQ")
_FRAME = struct.Struct("<4sII")
_CRC = struct.Struct("<I")
_PLACE = struct.Struct("<QQ")
HEADER_BYTES = 64
FRAME_BYTES = _FRAME.size + _CRC.size
_ARRIVAL_FIELDS = tuple(field.name for field in fields(Arrival))
_SEGMENT_FILE = re.compile(r"(\d{12})\.wal")


def new_epoch() -> str:
    """The epoch of a start: ten random hexadecimal digits."""
    return os.urandom(EPOCH_BYTES).hex()


@dataclass(frozen=True, slots=True)
class Header:
    """What stands at the beginning of a segment.

    `size_bytes`: of the sealed segment; 0: it is not sealed. `fresh_from_hour`: rows of this hour
    and later ones were fresh when it was sealed, hours since 1970. `earlier_epoch`: the one that it
    had before the start that sealed it; empty: the same.
    """

    number: int
    epoch: str
    size_bytes: int = 0
    records: int = 0
    fresh_from_hour: int = 0
    earlier_epoch: str = ""

    def content(self) -> bytes:
        """Its bytes."""
        plain = _HEADER.pack(
            MAGIC, self.number, bytes.fromhex(self.epoch),
            bytes.fromhex(self.earlier_epoch or OLD_EPOCH), self.size_bytes, self.records,
            self.fresh_from_hour,
        )  # fmt: skip
        return (plain + _CRC.pack(zlib.crc32(plain))).ljust(HEADER_BYTES, b"\0")


def header_of(content: bytes) -> Header | None:
    """The header at the beginning of a segment's bytes; None where it is damaged or old."""
    if len(content) < HEADER_BYTES or not content.startswith(MAGIC):
        return None
    _, number, epoch, before, size, records, hour = _HEADER.unpack_from(content)
    earlier = before.hex() if any(before) else ""
    header = Header(number, epoch.hex(), size, records, hour, earlier)
    return header if header.content() == content[:HEADER_BYTES] else None


def is_old(content: bytes, number: int) -> bool:
    """Whether these are a segment's bytes as 0.1.0 wrote them."""
    return content[: _OLD_HEADER.size] == _OLD_HEADER.pack(OLD_MAGIC, number)


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
    """The opposite of `payload_of`; raises ValueError, KeyError or TypeError for anything else."""
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
    header = header_of(content)
    if header is not None and header.number == number:
        offset = HEADER_BYTES
        if header.size_bytes:
            content = content[: header.size_bytes]
    elif is_old(content, number):
        offset = _OLD_HEADER.size
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

    def __init__(self, directory: Path, number: int, epoch: str) -> None:
        self.number = number
        self.epoch = epoch
        self.path = segment_path(directory, number)
        self.records = 0
        self.broken = False
        try:
            self._descriptor = durable.create(self.path, Header(number, epoch).content())
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
            durable.write_all(self._descriptor, b"".join(framed))
        except OSError as error:
            self._cut_back()
            raise _log_error(error) from error
        try:
            durable.sync_data(self._descriptor)
        except OSError as error:
            self.broken = True
            raise _log_error(error) from error
        self.size_bytes = offset
        self.records += len(payloads)

    def _cut_back(self) -> None:
        try:
            durable.cut(self._descriptor, self.size_bytes)
        except OSError:
            self.broken = True

    def close(self) -> None:
        """Close the file; what was appended stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def seal(path: Path, header: Header) -> None:
    """Write a segment's header with its seal, in place. Raises WalError."""
    try:
        durable.overwrite(path, header.content())
    except OSError as error:
        raise _log_error(error) from error


def _log_error(error: OSError) -> WalError:
    return WalError(f"cannot write the WAL: {error.strerror or error}")


def segment_numbers(directory: Path) -> list[int]:
    """Numbers of the segments in a WAL's directory, ascending."""
    matches = (_SEGMENT_FILE.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def segment_path(directory: Path, number: int) -> Path:
    """Where a segment is."""
    return directory / f"{number:012d}.wal"


def read(path: Path) -> bytes:
    """The bytes of a segment. Raises WalError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise WalError(f"cannot read '{path}': {error.strerror}") from None


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
    """The id of the receiver that owns this WAL, made and made durable at first use."""
    path = directory / "receiver-id"
    if path.exists():
        return known_receiver_id(directory)
    new = os.urandom(6).hex()
    durable.replace_file(path, f"{new}\n".encode("ascii"))
    return new
