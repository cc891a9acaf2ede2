"""The write-ahead log's bytes: what is read back after any damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayotel.errors import WalError
from rayotel.ingest.wal import segments
from rayotel.ingest.wal.segments import Damage, SegmentWriter
from rayotel.model import Arrival, Record

NUMBER, EPOCH = 7, "00ff00ff00"
ARRIVAL = Arrival(
    signal="metrics",
    stream="raymetrics",
    content_type="application/x-protobuf",
    content_encoding="gzip",
    received_unix_nano=1_795_000_000_123_456_789,
    source_ip="127.0.0.1",
    user_agent="test \u00e9",
    header_columns=(("cluster-id", "a"), ("env", "b")),
)
bodies = st.lists(st.binary(max_size=40), min_size=1, max_size=5)


def segment(contents: list[bytes], number: int = NUMBER) -> bytes:
    """A segment's bytes with a record per body."""
    content = segments.Header(number, EPOCH).content()
    for body in contents:
        content += segments.frame(segments.payload_of(Record(ARRIVAL, body)), number, len(content))
    return content


def read(content: bytes) -> tuple[list[bytes], list[Damage]]:
    """Bodies and damage of a segment."""
    items = list(segments.read_segment(content, NUMBER))
    return (
        [item.body for item in items if isinstance(item, Record)],
        [item for item in items if isinstance(item, Damage)],
    )


@given(bodies)
def test_records_come_back_as_written(contents: list[bytes]) -> None:
    """Arrival and body survive the round trip byte for byte."""
    items = list(segments.read_segment(segment(contents), NUMBER))
    assert items == [Record(ARRIVAL, body) for body in contents]


def test_truncated_at_every_byte_keeps_every_whole_record() -> None:
    """Wherever a crash cuts the segment, all whole records before the cut are read."""
    contents = [b"first", b"second body", b""]
    whole = segment(contents)
    ends = [len(segment(contents[:count])) for count in range(len(contents) + 1)]
    for cut in range(len(whole) + 1):
        found, damage = read(whole[:cut])
        complete = sum(end <= cut for end in ends[1:])
        assert found == contents[:complete]
        is_clean_end = cut in ends or cut == 0
        assert bool(damage) != is_clean_end
        assert all(one.tail for one in damage)


def test_any_byte_flipped_loses_at_most_its_own_record() -> None:
    """A flipped byte costs the record it is in; every other record is read and no byte is lost."""
    contents = [b"alpha", b"beta", b"gamma"]
    whole = segment(contents)
    starts = [len(segment(contents[:count])) for count in range(len(contents) + 1)]
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 0x55
        found, damage = read(bytes(broken))
        hit = sum(start <= position for start in starts) - 1
        assert found == [body for number, body in enumerate(contents) if number != hit]
        assert len(damage) == 1
        assert broken[damage[0].offset :].startswith(damage[0].content)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_read_without_an_error(content: bytes) -> None:
    """Whatever stands in a segment, reading ends, and accounts for every byte."""
    found, damage = read(content)
    assert not found
    assert sum(len(one.content) for one in damage) in {
        len(content),
        len(content) - 16,
        max(0, len(content) - 64),
    }


def test_a_body_that_holds_a_record_is_not_taken_for_one() -> None:
    """Bytes inside a damaged record that look like a record of another place are not read."""
    inner = segment([b"forged"])[segments.HEADER_BYTES :]
    whole = bytearray(segment([b"x" + inner, b"honest"]))
    whole[segments.HEADER_BYTES + segments.FRAME_BYTES] ^= 0xFF
    found, _ = read(bytes(whole))
    assert found == [b"honest"]


def test_a_record_of_another_segment_is_not_read() -> None:
    """A segment's content under another number is damage, not data: a part's name must not lie."""
    found, damage = read(segment([b"a"], number=NUMBER + 1))
    assert not found
    assert damage[0].tail


def test_a_failed_write_leaves_no_trace(tmp_path: Path) -> None:
    """When the disk refuses a record, the segment is cut back and later records are whole."""
    writer = SegmentWriter(tmp_path, NUMBER, EPOCH)
    writer.append([segments.payload_of(Record(ARRIVAL, b"kept"))])
    real = writer._descriptor
    read_only = os.open(writer.path, os.O_RDONLY)
    writer._descriptor = read_only  # a descriptor that the kernel refuses to write to
    with pytest.raises(WalError, match="cannot write the WAL"):
        writer.append([segments.payload_of(Record(ARRIVAL, b"refused"))])
    os.close(read_only)
    assert writer.broken  # the cut was refused too, so this segment may not go on
    writer._descriptor = real
    writer.close()
    assert read(writer.path.read_bytes()) == ([b"kept"], [])


def test_receiver_id_stays_and_is_not_guessed(tmp_path: Path) -> None:
    """The id is made once; a file that holds none stops the start instead of being replaced."""
    first = segments.receiver_id(tmp_path)
    assert segments.receiver_id(tmp_path) == first
    (tmp_path / "receiver-id").write_text("not an id")
    with pytest.raises(WalError, match="does not hold a receiver id"):
        segments.receiver_id(tmp_path)
