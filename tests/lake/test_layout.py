"""Keys of parts: built and read back, told from foreign ones, covered, listed by time range."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayotel.lake import catalog, layout
from rayotel.lake.layout import Part, PartName
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange, is_stream_name
from support.examples import examples

HOUR_2000, HOUR_2262 = 262_968, 2_562_047  # 2000-01-01T00 and the last whole hour of an int64
HEX = "0123456789abcdef"
KEY = "raymetrics/date=2026-11-20/hour=15/0123456789ab-000000000003-000000000007-2.parquet"
NAME = PartName("raymetrics", 498_663, "0123456789ab", 3, 7, 2)

stream_names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=100)
patient = settings(deadline=None)  # a busy machine is no defect

segments = st.integers(0, 10**12 - 1)


@st.composite
def part_names(draw: st.DrawFn) -> PartName:
    """Any part that a receiver could write."""
    first, last = sorted((draw(segments), draw(segments)))
    return PartName(
        stream=draw(stream_names.filter(is_stream_name)),
        hour=draw(st.integers(HOUR_2000, HOUR_2262)),
        receiver=draw(st.text(HEX, min_size=12, max_size=12)),
        first=first,
        last=last,
        level=draw(st.integers(0, 999)),
    )


def test_a_key_says_all_that_a_name_holds() -> None:
    """The layout is a public contract: this name has this key."""
    assert NAME.key == KEY
    assert layout.parse_key(KEY) == NAME


@patient
@given(part_names())
def test_every_name_survives_its_key(name: PartName) -> None:
    """A key that is built and read back gives the same name."""
    assert layout.parse_key(name.key) == name


@patient
@given(part_names())
def test_a_key_begins_with_the_prefixes_of_its_hour_day_and_stream(name: PartName) -> None:
    """A listing of any of the three prefixes shows the part."""
    hour = layout.hour_prefix(name.stream, name.hour)
    day = layout.date_prefix(name.stream, name.hour)
    assert name.key.startswith(hour)
    assert hour.startswith(day)
    assert day.startswith(layout.stream_prefix(name.stream))


@patient
@given(part_names(), part_names())
def test_two_names_never_share_a_key(one: PartName, other: PartName) -> None:
    """A key is an identity: writing one part never overwrites another."""
    assert (one.key == other.key) == (one == other)


FOREIGN = {
    "nothing": "",
    "a file beside the streams": "README.md",
    "another suffix": KEY.replace(".parquet", ".parquet.tmp"),
    "a deeper folder": f"prefix/{KEY}",
    "no hour": KEY.replace("hour=15/", ""),
    "hour 24": KEY.replace("hour=15", "hour=24"),
    "a one-digit hour": KEY.replace("hour=15", "hour=5"),
    "30 February": KEY.replace("2026-11-20", "2026-02-30"),
    "month 13": KEY.replace("2026-11-20", "2026-13-01"),
    "year 0": KEY.replace("2026", "0000"),
    "capital hexadecimal digits": KEY.replace("0123456789ab", "0123456789AB"),
    "a receiver of 11 digits": KEY.replace("0123456789ab", "0123456789a"),
    "first after last": KEY.replace("000000000003", "000000000008"),
    "a segment number of 11 digits": KEY.replace("000000000003", "00000000003"),
    "a segment number of 13 digits": KEY.replace("000000000007", "0000000000007"),
    "a level of four digits": KEY.replace("-2.parquet", "-1000.parquet"),
    "no level": KEY.replace("-2.parquet", ".parquet"),
    "a space in the stream": KEY.replace("raymetrics", "ray metrics"),
    "no stream": KEY.removeprefix("raymetrics"),
    "a line break at the end": f"{KEY}\n",
    "a slash at the end": f"{KEY}/",
}


@pytest.mark.parametrize("key", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_keys_are_no_parts(key: str) -> None:
    """What rayotel did not write is not read."""
    assert layout.parse_key(key) is None


NOT_CANONICAL = {
    "a level with leading zeros": KEY.replace("-2.parquet", "-002.parquet"),
    "an hour in Arabic digits": KEY.replace("hour=15", "hour=\u0661\u0665"),
    "a year in full-width digits": KEY.replace("2026", "\uff12\uff10\uff12\uff16"),
    "a segment in Bengali digits": KEY.replace("000000000003", "00000000000\u09e9"),
}


@pytest.mark.parametrize("key", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_another_spelling_of_a_key_is_no_part(key: str) -> None:
    """A part is found again under the key of its name, so only that spelling is a part."""
    assert layout.parse_key(key) is None


@patient
@given(st.data())
def test_a_damaged_key_is_foreign_or_the_key_of_what_it_names(data: st.DataObject) -> None:
    """One wrong character never makes a listing point to an object that is not there."""
    at = data.draw(st.integers(0, len(KEY) - 1))
    damage = data.draw(st.text("0189afAF-_=/. q\n", max_size=2))
    name = layout.parse_key(KEY[:at] + damage + KEY[at + 1 :])
    assert name is None or name.key == KEY[:at] + damage + KEY[at + 1 :]


# -- covering ---------------------------------------------------------------------------------

small_names = st.builds(
    lambda stream, hour, receiver, ends, level: PartName(
        stream, hour, receiver, min(ends), max(ends), level
    ),
    st.sampled_from(["a", "b"]),
    st.sampled_from([HOUR_2000, HOUR_2000 + 1]),
    st.sampled_from(["0" * 12, "f" * 12]),
    st.tuples(st.integers(0, 6), st.integers(0, 6)),
    st.integers(0, 3),
)


def hidden(part: PartName, by: PartName) -> bool:
    """The rule in words: same receiver and hour, range inside its own, lower level."""
    same_place = (part.stream, part.hour, part.receiver) == (by.stream, by.hour, by.receiver)
    inside = set(range(part.first, part.last + 1)) <= set(range(by.first, by.last + 1))
    return same_place and inside and part.level < by.level


@patient
@given(st.sets(small_names, max_size=25))
def test_visible_parts_are_those_that_no_other_hides(names: set[PartName]) -> None:
    """A part counts unless one of the same receiver and hour replaces it."""
    expected = [n for n in sorted(names) if not any(hidden(n, by) for by in names)]
    shown = layout.visible(Part(name, 1) for name in names)
    assert [part.name for part in shown] == expected


@patient
@given(small_names, small_names)
def test_covering_is_the_rule_for_two(one: PartName, other: PartName) -> None:
    """`covers` and `visible` follow one rule."""
    assert one.covers(other) == hidden(other, one)


@patient
@given(st.data())
def test_every_segment_counts_once_at_every_moment_of_a_compaction(data: st.DataObject) -> None:
    """A crash between the writing of a bigger part and any of its deletions changes no answer."""
    count = data.draw(st.integers(1, 10))
    on_storage = {PartName("s", HOUR_2000, "0" * 12, n, n, 0) for n in range(count)}
    for _ in range(data.draw(st.integers(1, 4))):
        now = [part.name for part in layout.visible(Part(n, 1) for n in on_storage)]
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(now))] * 2)))
        merged = now[start:stop]
        if len(merged) < 2:
            continue
        level = max(n.level for n in merged) + 1
        on_storage.add(PartName("s", HOUR_2000, "0" * 12, merged[0].first, merged[-1].last, level))
        deleted = data.draw(st.sets(st.sampled_from(merged)))
        on_storage -= deleted
        shown = [part.name for part in layout.visible(Part(n, 1) for n in on_storage)]
        held = [number for n in shown for number in range(n.first, n.last + 1)]
        assert sorted(held) == list(range(count))


# -- names ------------------------------------------------------------------------------------


@patient
@given(stream_names)
def test_letters_digits_underscores_and_hyphens_name_a_stream(name: str) -> None:
    """1 to 100 of these characters are a stream's name, unless the first is an underscore."""
    assert is_stream_name(name) == (not name.startswith("_"))


@pytest.mark.parametrize(
    "name", ["", "a" * 101, "a b", "a/b", "..", "a.b", "räy", "a\n", "'", "%61", ".tmp", "\u0663"]
)
def test_anything_else_names_no_stream(name: str) -> None:
    """No name can leave the lake, need quoting in a key or look like another."""
    assert not is_stream_name(name)


@pytest.mark.parametrize("text", ["0123456789ab", "f" * 12])
def test_twelve_hexadecimal_digits_are_a_receiver(text: str) -> None:
    """A receiver's id is twelve lower-case hexadecimal digits."""
    assert layout.is_receiver_id(text)


@pytest.mark.parametrize("text", ["", "f" * 11, "f" * 13, "F" * 12, "g" * 12, "f" * 12 + "\n"])
def test_anything_else_is_no_receiver(text: str) -> None:
    """An id that would not be found in a key is refused."""
    assert not layout.is_receiver_id(text)


# -- listing by time range ----------------------------------------------------------------------

LISTED_HOURS = sorted({*range(HOUR_2000, HOUR_2000 + 72), *range(HOUR_2000, HOUR_2000 + 1500, 37)})


@pytest.fixture(scope="module")
def many_hours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Two streams with a part in many hours, and files that are no parts among them."""
    root: Path = tmp_path_factory.mktemp("hours")
    for stream, hour in itertools.product(("s", "s2"), LISTED_HOURS):
        path = root / PartName(stream, hour, "0" * 12, 1, 1, 0).key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        path.with_name("notes.txt").write_bytes(b"x")
    storage = open_storage(str(root))
    yield storage
    storage.close()


moments = st.none() | st.integers(
    (HOUR_2000 - 30) * NANOSECONDS_PER_HOUR, (HOUR_2000 + 1600) * NANOSECONDS_PER_HOUR
)
spans = st.sampled_from([1, 30, 59, 60, 61, 359, 360, 361, 1441, 44_639, 44_641]).map(
    lambda minutes: minutes * NANOSECONDS_PER_HOUR // 60
)


@settings(deadline=None, max_examples=examples(150))
@given(start=moments, span=st.none() | spans)
def test_a_listing_shows_every_part_of_the_range_and_no_other(
    many_hours: Storage, start: int | None, span: int | None
) -> None:
    """However a range is listed, by hours, by days or at once, the same parts come out."""
    end = None if start is None or span is None else start + span
    wanted = [
        hour
        for hour in LISTED_HOURS
        if (start is None or (hour + 1) * NANOSECONDS_PER_HOUR > start)
        and (end is None or hour * NANOSECONDS_PER_HOUR < end)
    ]
    found = catalog.parts(many_hours, "s", TimeRange(start, end))
    assert [part.name.hour for part in found] == wanted
    assert {part.name.stream for part in found} <= {"s"}


def test_streams_are_the_folders_with_a_streams_name(many_hours: Storage) -> None:
    """A folder whose name no stream can have is none."""
    (Path(many_hours.url) / "not a stream").mkdir(exist_ok=True)
    (Path(many_hours.url) / ".tmp").mkdir(exist_ok=True)
    assert catalog.streams(many_hours) == ["s", "s2"]
