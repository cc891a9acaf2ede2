"""Keys of parts: built and read back, told from foreign ones, covered, listed by time range."""

from __future__ import annotations

import itertools
import string
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayotel.lake import catalog, layout
from rayotel.lake.layout import MAX_SPANS, OLD_EPOCH, Part, PartName, Span
from rayotel.lake.storage.interface import Storage, StoredObject
from rayotel.lake.storage.opening import open_storage
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange, is_stream_name
from support.examples import examples

HOUR_2000, HOUR_2262 = 262_968, 2_562_047  # 2000-01-01T00 and the last whole hour of an int64
HEX = "0123456789abcdef"
HOUR_FOLDER = "raymetrics/date=2026-11-20/hour=15/"
KEY = f"{HOUR_FOLDER}0123456789ab-2-00000000aa.3.7-00000000bb.1.1.parquet"
SPANS = (Span("00000000aa", 3, 7), Span("00000000bb", 1, 1))
NAME = PartName("raymetrics", 498_663, "0123456789ab", SPANS, 2, is_settled=True)
OLD_KEY = f"{HOUR_FOLDER}0123456789ab-000000000003-000000000007-2.parquet"

stream_names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=100)
patient = settings(deadline=None)  # a busy machine is no defect

segments = st.integers(0, 10**12 - 1)


@st.composite
def any_span(
    draw: st.DrawFn, epochs: st.SearchStrategy[str], numbers: st.SearchStrategy[int]
) -> Span:
    """Any span of such epochs and numbers."""
    first, last = sorted((draw(numbers), draw(numbers)))
    return Span(draw(epochs), first, last)


@st.composite
def part_names(draw: st.DrawFn) -> PartName:
    """Any part that a receiver could write."""
    spans = any_span(st.text(HEX, min_size=10, max_size=10), segments)
    return PartName(
        stream=draw(stream_names.filter(is_stream_name)),
        hour=draw(st.integers(HOUR_2000, HOUR_2262)),
        receiver=draw(st.text(HEX, min_size=12, max_size=12)),
        spans=layout.joined(draw(st.lists(spans, min_size=1, max_size=MAX_SPANS))),
        level=draw(st.integers(0, layout.MAX_LEVEL)),
        is_settled=draw(st.booleans()),
    )


def test_a_key_says_all_that_a_name_holds() -> None:
    """The layout is a public contract: this name has this key."""
    assert NAME.key == KEY
    assert layout.parse_key(KEY) == NAME
    recent = PartName("raymetrics", 498_663, "0123456789ab", SPANS, 2, is_settled=False)
    assert recent.key == f"_rayotel/recent/{KEY}"
    assert layout.parse_key(recent.key) == recent


def test_a_key_of_the_first_version_is_read() -> None:
    """As a part of the epoch of zeros, which is not settled and keeps its key."""
    name = layout.parse_key(OLD_KEY)
    spans = (Span(OLD_EPOCH, 3, 7),)
    assert name == PartName(
        "raymetrics", 498_663, "0123456789ab", spans, 2, is_settled=False, is_old=True
    )
    assert name.key == OLD_KEY
    assert layout.parse_key(f"_rayotel/recent/{OLD_KEY}") is None
    for is_settled in (False, True):
        copy = PartName("raymetrics", 498_663, "0123456789ab", spans, 2, is_settled)
        assert copy.covers(name)
        assert not name.covers(copy)


@patient
@given(part_names())
def test_every_name_survives_its_key(name: PartName) -> None:
    """A key that is built and read back gives the same name, and fits a file system."""
    assert layout.parse_key(name.key) == name
    assert len(name.key.rpartition("/")[2]) <= 255


@patient
@given(part_names())
def test_a_key_begins_with_the_prefixes_of_its_hour_day_and_stream(name: PartName) -> None:
    """A listing of any of the three prefixes shows the part."""
    hour = layout.hour_prefix(name.stream, name.hour, is_settled=name.is_settled)
    day = layout.date_prefix(name.stream, name.hour, is_settled=name.is_settled)
    assert name.key.startswith(hour)
    assert hour.startswith(day)
    assert day.startswith(layout.stream_prefix(name.stream, is_settled=name.is_settled))


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
    "another folder of rayotel": f"_rayotel/damaged/{KEY}",
    "twice recent": f"_rayotel/recent/_rayotel/recent/{KEY}",
    "no hour": KEY.replace("hour=15/", ""),
    "hour 24": KEY.replace("hour=15", "hour=24"),
    "a one-digit hour": KEY.replace("hour=15", "hour=5"),
    "30 February": KEY.replace("2026-11-20", "2026-02-30"),
    "month 13": KEY.replace("2026-11-20", "2026-13-01"),
    "year 0": KEY.replace("2026", "0000"),
    "capital hexadecimal digits": KEY.replace("0123456789ab", "0123456789AB"),
    "a receiver of 11 digits": KEY.replace("0123456789ab", "0123456789a"),
    "an epoch of 9 digits": KEY.replace("00000000aa", "0000000aa"),
    "an epoch of 11 digits": KEY.replace("00000000aa", "000000000aa"),
    "first after last": KEY.replace(".3.7", ".8.7"),
    "a segment number of 13 digits": KEY.replace(".3.7", ".3.1000000000000"),
    "spans that are not sorted": KEY.replace("00000000aa", "00000000cc"),
    "spans that touch": KEY.replace("00000000bb.1.1", "00000000aa.8.9"),
    "spans that overlap": KEY.replace("00000000bb.1.1", "00000000aa.7.9"),
    "seven spans": KEY.replace(
        ".parquet", "".join(f"-00000000c{n}.1.1" for n in range(5)) + ".parquet"
    ),
    "no span": f"{HOUR_FOLDER}0123456789ab-2.parquet",
    "a level of four digits": KEY.replace("-2-", "-1000-"),
    "no level": KEY.replace("-2-", "-"),
    "a space in the stream": KEY.replace("raymetrics", "ray metrics"),
    "no stream": KEY.removeprefix("raymetrics"),
    "a line break at the end": f"{KEY}\n",
    "a slash at the end": f"{KEY}/",
    "0.1.0, first after last": OLD_KEY.replace("000000000003", "000000000008"),
    "0.1.0, a segment number of 11 digits": OLD_KEY.replace("000000000003", "00000000003"),
    "0.1.0, no level": OLD_KEY.replace("-2.parquet", ".parquet"),
}


@pytest.mark.parametrize("key", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_keys_are_no_parts(key: str) -> None:
    """What rayotel did not write is not read."""
    assert layout.parse_key(key) is None


NOT_CANONICAL = {
    "a level with leading zeros": KEY.replace("-2-", "-002-"),
    "a segment with leading zeros": KEY.replace(".3.7", ".03.7"),
    "an hour in Arabic digits": KEY.replace("hour=15", "hour=\u0661\u0665"),
    "a year in full-width digits": KEY.replace("2026", "\uff12\uff10\uff12\uff16"),
    "a segment in Bengali digits": KEY.replace(".3.7", ".3.\u09ed"),
    "0.1.0, a level with leading zeros": OLD_KEY.replace("-2.parquet", "-002.parquet"),
}


@pytest.mark.parametrize("key", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_another_spelling_of_a_key_is_no_part(key: str) -> None:
    """A part is found again under the key of its name, so only that spelling is a part."""
    assert layout.parse_key(key) is None


@patient
@given(st.data())
def test_a_damaged_key_is_foreign_or_the_key_of_what_it_names(data: st.DataObject) -> None:
    """One wrong character never makes a listing point to an object that is not there."""
    key = data.draw(st.sampled_from([KEY, f"_rayotel/recent/{KEY}", OLD_KEY]))
    at = data.draw(st.integers(0, len(key) - 1))
    damage = data.draw(st.text("0189afAF-_=/. q\n", max_size=2))
    name = layout.parse_key(key[:at] + damage + key[at + 1 :])
    assert name is None or name.key == key[:at] + damage + key[at + 1 :]


# -- covering ---------------------------------------------------------------------------------

EPOCHS = st.sampled_from(["0" * 10, "a" * 10, "b" * 10])
small_spans = st.lists(any_span(EPOCHS, st.integers(0, 7)), min_size=1, max_size=4)
small_names = st.builds(
    PartName,
    st.sampled_from(["a", "b"]),
    st.sampled_from([HOUR_2000, HOUR_2000 + 1]),
    st.sampled_from(["0" * 12, "f" * 12]),
    small_spans.map(layout.joined),
    st.integers(0, 2),
    st.booleans(),
)
PLACE = ("a", HOUR_2000, "0" * 12)
names_of_an_hour = st.builds(
    lambda spans, level, is_settled: PartName(*PLACE, layout.joined(spans), level, is_settled),
    small_spans,
    st.integers(0, 2),
    st.booleans(),
)


def held(name: PartName) -> set[tuple[str, int]]:
    """The segments of a part."""
    return {(span.epoch, n) for span in name.spans for n in range(span.first, span.last + 1)}


def hidden(part: PartName, by: PartName) -> bool:
    """The rule in words: same place, all segments among its own, and more, or a greater level."""
    same_place = (part.stream, part.hour, part.receiver) == (by.stream, by.hour, by.receiver)
    if not same_place or not held(part) <= held(by):
        return False
    return held(part) < held(by) or (part.level, part.is_settled) < (by.level, by.is_settled)


@patient
@given(st.lists(any_span(EPOCHS, st.integers(0, 12)), max_size=8))
def test_joined_spans_hold_the_same_segments_in_as_few_spans_as_can_be(spans: list[Span]) -> None:
    """Sorted, and none touches the next."""
    found = layout.joined(spans)
    segments = {(one.epoch, n) for one in spans for n in range(one.first, one.last + 1)}
    assert {(one.epoch, n) for one in found for n in range(one.first, one.last + 1)} == segments
    assert list(found) == sorted(found)
    ends = sum((epoch, n + 1) not in segments for epoch, n in segments)
    assert len(found) == ends


@patient
@given(
    st.lists(any_span(EPOCHS, st.integers(0, 12)), max_size=6), any_span(EPOCHS, st.integers(0, 12))
)
def test_only_gaps_of_segments_that_are_written_are_closed(
    spans: list[Span], written: Span
) -> None:
    """A gap that is not wholly written may still give a part, which must not be hidden."""
    plain = {(one.epoch, n) for one in spans for n in range(one.first, one.last + 1)}
    found = layout.joined(spans, written)
    closed = {(one.epoch, n) for one in found for n in range(one.first, one.last + 1)} - plain
    assert closed <= {(written.epoch, n) for n in range(written.first, written.last + 1)}
    for one, other in itertools.pairwise(found):
        gap = Span(one.epoch, one.last + 1, other.first - 1)
        assert one.epoch != other.epoch or not written.holds(gap)


@patient
@given(st.sets(small_names, max_size=25))
def test_visible_parts_are_those_that_no_other_hides(names: set[PartName]) -> None:
    """A part counts unless one of the same receiver and hour replaces it."""
    expected = [n for n in sorted(names) if not any(hidden(n, by) for by in names)]
    shown = layout.visible(Part(name, 1) for name in names)
    assert [part.name for part in shown] == expected


@patient
@given(st.sets(names_of_an_hour, max_size=25))
def test_visible_parts_hold_every_segment_that_was_there(names: set[PartName]) -> None:
    """Of many parts of one hour too, and what is visible covers nothing that is."""
    expected = [n for n in sorted(names) if not any(hidden(n, by) for by in names)]
    shown = [part.name for part in layout.visible(Part(name, 1) for name in names)]
    assert shown == expected
    assert set().union(*map(held, shown)) == set().union(*map(held, names))


@patient
@given(small_names, small_names)
def test_covering_is_the_rule_for_two(one: PartName, other: PartName) -> None:
    """`covers` and `visible` follow one rule."""
    assert one.covers(other) == hidden(other, one)


@patient
@given(names_of_an_hour, names_of_an_hour, names_of_an_hour)
def test_covering_is_a_strict_partial_order(a: PartName, b: PartName, c: PartName) -> None:
    """Nothing covers itself, no two cover each other, and a cover's cover covers."""
    assert not a.covers(a)
    assert not (a.covers(b) and b.covers(a))
    assert a.covers(c) or not (a.covers(b) and b.covers(c))


@patient
@given(names_of_an_hour, names_of_an_hour)
def test_parts_overlap_if_they_share_a_segment(one: PartName, other: PartName) -> None:
    """In any of their spans."""
    assert layout.overlap(one.spans, other.spans) == bool(held(one) & held(other))


def test_many_parts_take_a_moment() -> None:
    """A lake of many hours, and one hour of as many parts below one that covers most of them."""
    epoch = "e" * 10
    hours = [PartName("s", h, "0" * 12, (Span(epoch, h, h),), 0, True) for h in range(50_000)]
    hour = [PartName("t", 9, "0" * 12, (Span(epoch, n, n),), 0, False) for n in range(50_000)]
    cover = PartName("t", 9, "0" * 12, (Span(epoch, 0, 49_990),), 1, True)
    parts = [Part(name, 1) for name in (*hours, *hour, cover)]
    started = time.process_time()
    shown = layout.visible(parts)
    assert time.process_time() - started < 10  # some 2 s
    assert len(shown) == 50_000 + 1 + 9


@patient
@given(st.data())
def test_every_segment_counts_once_at_every_moment_of_a_compaction(data: st.DataObject) -> None:
    """A crash between the writing of a bigger part and any of its deletions changes no answer."""
    count = data.draw(st.integers(1, 10))
    every = [Span("a" * 10 if n % 3 else "b" * 10, n, n) for n in range(count)]
    on_storage = {PartName("s", HOUR_2000, "0" * 12, (one,), 0, False) for one in every}
    for _ in range(data.draw(st.integers(1, 4))):
        now = [part.name for part in layout.visible(Part(n, 1) for n in on_storage)]
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(now))] * 2)))
        merged = now[start:stop]
        if len(merged) < 2:
            continue
        level = max(n.level for n in merged) + 1
        spans = layout.joined(span for name in merged for span in name.spans)
        on_storage.add(PartName("s", HOUR_2000, "0" * 12, spans, level, data.draw(st.booleans())))
        on_storage -= data.draw(st.sets(st.sampled_from(merged)))
        shown = [part.name for part in layout.visible(Part(n, 1) for n in on_storage)]
        assert sorted(one for name in shown for one in held(name)) == sorted(
            (span.epoch, span.first) for span in every
        )


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
        spans = (Span("a" * 10, 1, 1),)
        path = root / PartName(stream, hour, "0" * 12, spans, 0, is_settled=hour % 2 == 0).key
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


class Moving:
    """Storage on which everything becomes settled as soon as one listing is done."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self.listed = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """List, then move."""
        yield from list(self._inner.objects(prefix))
        self._move()

    def folders(self, prefix: str) -> list[str]:
        """List, then move."""
        found = self._inner.folders(prefix)
        self._move()
        return found

    def _move(self) -> None:
        self.listed += 1
        for item in list(self._inner.objects("_rayotel/recent/")):
            self._inner.put(item.key.removeprefix("_rayotel/recent/"), memoryview(b"x"))
            self._inner.delete(item.key)


@pytest.mark.parametrize("range_", [None, TimeRange(0, 10 * NANOSECONDS_PER_HOUR)], ids=str)
def test_a_part_that_moves_while_it_is_listed_is_seen(
    tmp_path: Path, range_: TimeRange | None
) -> None:
    """It is put where it settles first, and the recent place is listed first."""
    storage = open_storage(str(tmp_path / "lake"))
    spans = (Span("a" * 10, 1, 1),)
    for hour in (3, 4):
        name = PartName("s", hour, "0" * 12, spans, 0, is_settled=False)
        storage.put(name.key, memoryview(b"x"))
    moving = Moving(storage)
    found = catalog.parts(moving, "s", range_)  # type: ignore[arg-type]
    assert [part.name.hour for part in found] == [3, 4]
    assert moving.listed > 1
    assert [part.name.is_settled for part in catalog.parts(storage, "s")] == [True, True]


def test_a_stream_that_moves_while_streams_are_listed_is_seen(tmp_path: Path) -> None:
    """A stream may have recent parts only, or settled ones only."""
    storage = open_storage(str(tmp_path / "lake"))
    name = PartName("s", 3, "0" * 12, (Span("a" * 10, 1, 1),), 0, is_settled=False)
    storage.put(name.key, memoryview(b"x"))
    assert catalog.streams(storage) == ["s"]
    assert catalog.streams(Moving(storage)) == ["s"]  # type: ignore[arg-type]
    assert catalog.streams(storage) == ["s"]
    assert not list(storage.objects("_rayotel/recent/"))
