"""Places of the numbers of a metric's points, and how to read all of them at once.

A `Layout` holds the places of fixed64 values as arrays. So a request is read with a few gathers by
NumPy and no work per point. A gather cannot judge every value alone: a time out of bounds, a start
time or count that no engine can read. For these it raises `Unjudged`, and the caller decodes the
request in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayotel.ingest.decode.otlp.fast.walk import GAUGE, HISTOGRAM, Irregular, PointOutline
from rayotel.model import Lists, Points

if TYPE_CHECKING:
    from rayotel.model import Column

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
NO_VALUE, DOUBLE, INTEGER = 0, 1, 2
_NO_RECORDED_VALUE = 1
_MAX_START = 2**63 - 1
# with at most so many buckets a point, sums of counts below this stay within 64 bits
_MAX_BUCKETS = 2**15
_COUNT_LIMIT = 2**47
_WORD_BYTES = 8


class Unjudged(ValueError):
    """Values that only the full decode can judge."""


def words_of(body: bytes | bytearray) -> Words:
    """The 64-bit word that begins at each byte of a body of at least eight bytes."""
    # NumPy reads words that are not aligned by copying each
    count = len(body) - _WORD_BYTES + 1
    return np.ndarray((count,), dtype="<u8", buffer=body, strides=(1,))


_NUMBER_PLACES, _HISTOGRAM_PLACES = 3, 6


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Places of values, relative to a start; -1: the field is absent.

    `rows` has one row per point: places of time, start time and value, then flags and the number's
    form. A row of a histogram has places of time, start time, count, sum, min and max, then flags
    and the numbers of its buckets and bounds. `buckets` and `bounds` have those of all points.
    """

    # few arrays: a body that changed is put together from a hundred layouts
    rows: Int32s
    buckets: Int32s
    bounds: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays."""
        return self.rows.nbytes + self.buckets.nbytes + self.bounds.nbytes + 360

    @property
    def at(self) -> Int32s:
        """The places of each point."""
        return self.rows[:, : _places_in(self.rows)]

    @property
    def flags(self) -> Int32s:
        """The flags of each point."""
        return self.rows[:, _places_in(self.rows)]

    @property
    def forms(self) -> Int32s:
        """The form of each number: double, integer or none."""
        return self.rows[:, _NUMBER_PLACES + 1]

    @property
    def bucket_counts(self) -> Int32s:
        """How many buckets each histogram has."""
        return self.rows[:, _HISTOGRAM_PLACES + 1]

    @property
    def bound_counts(self) -> Int32s:
        """How many bounds each histogram has."""
        return self.rows[:, _HISTOGRAM_PLACES + 2]

    def places(self) -> Int32s:
        """The places of all values."""
        at = self.at.ravel()
        return np.concatenate([at[at >= 0], self.buckets])


def _places_in(rows: Int32s) -> int:
    return _NUMBER_PLACES if rows.shape[1] == _NUMBER_PLACES + 2 else _HISTOGRAM_PLACES


# of points whose numbers are not read
NO_LAYOUT = Layout(np.empty((0, 5), np.int32), np.empty(0, np.int32), np.empty(0, np.float64))


def layout_of(raw: bytes, points: Sequence[PointOutline], data: int) -> Layout:
    """The layout of a metric's points, relative to the metric's first byte. Raises Irregular."""
    is_histogram = data == HISTOGRAM
    tags = (0x19, 0x11, 0x21, 0x29, 0x59, 0x61) if is_histogram else (0x19, 0x11)
    rows: list[list[int]] = []
    buckets: list[int] = []
    bounds: list[bytes] = []
    for point in points:
        fixed = point.fixed
        if 0x19 not in fixed:
            raise Irregular
        row = [fixed.get(tag, -1) for tag in tags]
        if is_histogram:
            first, after = point.packed.get(0x32, (0, 0))
            places = range(first, after, _WORD_BYTES)
            if len(places) > _MAX_BUCKETS:
                raise Irregular
            buckets.extend(places)
            first, after = point.packed.get(0x3A, (0, 0))
            bounds.append(raw[first:after])
            row += (point.flags, len(places), (after - first) // _WORD_BYTES)
        else:
            form = _form(point)
            place = fixed.get(0x31 if form == INTEGER else 0x21, -1) if form else -1
            row += (place, point.flags, form)
        rows.append(row)
    return Layout(
        np.array(rows, np.int32).reshape(len(rows), 9 if is_histogram else 5),
        np.array(buckets, np.int32),
        np.frombuffer(b"".join(bounds), "<f8"),
    )


def _form(point: PointOutline) -> int:
    has_double, has_integer = 0x21 in point.fixed, 0x31 in point.fixed
    if has_double and has_integer:
        raise Irregular
    if not (has_double or has_integer) or point.flags & _NO_RECORDED_VALUE:
        return NO_VALUE
    return DOUBLE if has_double else INTEGER


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What a point looks like up to its attributes, relative to its first byte.

    `places` are those of tags and lengths, `tags` what stands there: a point that has the same
    there has its values at the same places. Only points without flags and with nothing behind
    their attributes have a form.
    """

    size_bytes: int
    places: Int64s
    tags: npt.NDArray[np.uint8]
    pattern: Layout
    is_place: npt.NDArray[np.bool_]
    numbers: Int64s
    bounds: tuple[int, int]

    def fits(self, raw: bytes, starts: Int64s, ends: Int64s) -> bool:
        """Whether all points between these have this form up to their attributes."""
        if (ends - starts).min() < self.size_bytes:
            return False
        content = np.frombuffer(raw, np.uint8)
        return bool((content[starts[:, None] + self.places] == self.tags).all())

    def layout(self, raw: bytes, starts: Int64s) -> tuple[Layout, Int64s]:
        """The layout of points that have this form, and the places of all their numbers."""
        column = starts[:, None]
        rows = self.pattern.rows + column * self.is_place
        first, after = self.bounds
        buckets, bounds = self.pattern.buckets, self.pattern.bounds
        if len(buckets):
            buckets = (buckets + column).astype(np.int32).ravel()
        if first < after:
            raw_bounds = b"".join([raw[start + first : start + after] for start in starts.tolist()])
            bounds = np.frombuffer(raw_bounds, "<f8")
        return Layout(rows.astype(np.int32), buckets, bounds), (column + self.numbers).ravel()


def form_of(raw: bytes, point: PointOutline, place: tuple[int, int], data: int) -> Form | None:
    """The form of a point between two places; None where it has none. Raises Irregular."""
    start, end = place
    first, after = point.attributes
    size = (first or end) - start
    if point.flags or (first and after != end):
        return None
    is_fixed = np.ones(size, np.bool_)
    for position in point.fixed.values():
        if position >= start + size:
            return None
        is_fixed[position - start : position - start + _WORD_BYTES] = False
    for begin, stop in point.packed.values():
        is_fixed[begin - start : stop - start] = False
    places = np.flatnonzero(is_fixed)
    tags = np.frombuffer(raw, np.uint8)[places + start]
    moved = PointOutline(
        {tag: position - start for tag, position in point.fixed.items()},
        {tag: (a - start, b - start) for tag, (a, b) in point.packed.items()},
        (0, 0),
        0,
    )
    layout = layout_of(raw[start:end], [moved], data)
    is_place = np.zeros_like(layout.rows, np.bool_)
    is_place[:, : layout.at.shape[1]] = layout.at >= 0
    numbers = layout.places().astype(np.int64)
    return Form(size, places, tags, layout, is_place, numbers, moved.packed.get(0x3A, (0, 0)))


def joined(layouts: Sequence[Layout], starts: Sequence[int]) -> Layout:
    """Layouts of one kind of metric, each moved to where its metric starts, as one."""
    base = np.array(starts, np.int32)
    rows = np.concatenate([layout.rows for layout in layouts])
    at = rows[:, : _places_in(rows)]
    absent = at < 0
    at += base.repeat(np.array([len(layout.rows) for layout in layouts]))[:, None]
    at[absent] = -1
    if at.shape[1] == _NUMBER_PLACES:
        return Layout(rows, layouts[0].buckets, layouts[0].bounds)
    buckets = np.concatenate([layout.buckets for layout in layouts])
    buckets += base.repeat(np.array([len(layout.buckets) for layout in layouts]))
    return Layout(rows, buckets, np.concatenate([layout.bounds for layout in layouts]))


class Plan:
    """Layouts of a whole body, made ready for reading one body after another.

    One gather reads all values: the times of all points, their start times, then what each kind of
    point has. A field that is absent in some points reads anything there, and is masked.
    """

    __slots__ = ("_buckets", "_index", "_number", "_start", "_times", "size_bytes")

    def __init__(self, numbers: Layout | None, histograms: Layout | None) -> None:
        layouts = [layout for layout in (numbers, histograms) if layout is not None]
        gather = _Gather()
        self._times = gather.field(np.concatenate([layout.at[:, 0] for layout in layouts]))
        self._start = gather.field(np.concatenate([layout.at[:, 1] for layout in layouts]))
        self._number = None if numbers is None else _Numbers(numbers, gather)
        self._buckets = None
        if histograms is not None:
            self._buckets = _Histograms(histograms, gather, 0 if numbers is None else len(numbers))
        self._index = gather.index()
        points = sum(map(len, layouts))
        self.size_bytes = (
            2 * self._index.nbytes + 40 * points + 3000
            + sum(layout.size_bytes for layout in layouts)
        )  # fmt: skip

    def read(self, words: Words, earliest: int, latest: int) -> list[Points]:
        """The points of a request that has this layout. Raises Unjudged."""
        gathered = words[self._index]
        times = self._times.of(gathered)
        if times.min() < earliest or times.max() > latest:
            raise Unjudged
        time, start = times.view(np.int64), None
        if self._start.is_there:
            starts = self._start.or_zeros(gathered)
            if starts.max() > _MAX_START:
                raise Unjudged
            start = starts.view(np.int64)
        kinds = (self._number, self._buckets)
        return [kind.read(gathered, time, start) for kind in kinds if kind is not None]


class _Gather:
    """Collects the places that one gather reads."""

    def __init__(self) -> None:
        self._places: list[npt.NDArray[np.int32]] = []
        self._count = 0

    def field(self, places: Int32s) -> _Field:
        """Add a field: a place per point, or -1."""
        is_there = bool(len(places)) and int(places.max()) >= 0
        absent = None
        if is_there and int(places.min()) < 0:
            absent, places = places < 0, np.maximum(places, 0)
        elif not is_there and len(places):
            absent = np.ones(len(places), np.bool_)
        field = _Field(self._count, len(places), absent, is_there)
        if is_there:
            self._places.append(places)
            self._count += len(places)
        return field

    def index(self) -> Int64s:
        """All places."""
        return np.concatenate(self._places).astype(np.int64)


class _Field:
    """The places of one field of all points among the gathered words.

    `absent`: which points lack it; None: none does. `is_there`: whether any has it.
    """

    __slots__ = ("_end", "_start", "absent", "is_there")

    def __init__(
        self, start: int, count: int, absent: npt.NDArray[np.bool_] | None, is_there: bool
    ) -> None:
        self.absent = absent
        self.is_there = is_there
        self._start, self._end = start, start + count

    def of(self, gathered: Words) -> Words:
        """The field's words."""
        return gathered[self._start : self._end]

    def or_zeros(self, gathered: Words) -> Words:
        """The same with 0 where the field is absent."""
        words = self.of(gathered)
        return words if self.absent is None else np.where(self.absent, np.uint64(0), words)


class _Numbers:
    """Gauges and sums of a plan; they are its first points."""

    __slots__ = ("_are_integers", "_flags", "_has_no_value", "_is_plain", "_series", "_value")

    def __init__(self, layout: Layout, gather: _Gather) -> None:
        self._series = np.arange(len(layout), dtype=np.int32)
        self._flags = layout.flags.astype(np.int64) if layout.flags.any() else None
        self._value = gather.field(layout.at[:, 2])
        self._is_plain = bool((layout.forms == DOUBLE).all())
        if not self._is_plain:
            self._are_integers = layout.forms == INTEGER
            self._has_no_value = layout.forms == NO_VALUE

    def read(self, gathered: Words, time: Int64s, start: Int64s | None) -> Points:
        """The points of a request."""
        count = len(self._series)
        own_start = None if start is None else start[:count]
        return Points(
            "number", self._series, time[:count], own_start, self._flags, self._values(gathered)
        )

    def _values(self, gathered: Words) -> dict[str, Column]:
        if self._is_plain:
            return {"data_point_value": self._value.of(gathered).view(np.float64)}
        if not self._value.is_there:
            return {}
        raw = self._value.of(gathered)
        integers = raw.view(np.int64)
        values = np.where(self._are_integers, integers.astype(np.float64), raw.view(np.float64))
        columns: dict[str, Column] = {"data_point_value": pa.array(values, mask=self._has_no_value)}
        if self._are_integers.any():
            columns["data_point_value_int"] = pa.array(integers, mask=~self._are_integers)
        return columns


class _Histograms:
    """Histograms of a plan; they are its last points. `first`: how many are before them."""

    __slots__ = (
        "_bounds", "_buckets", "_count", "_filled", "_first_bucket", "_first_point", "_flags",
        "_last_bucket", "_lengths", "_measures", "_owner", "_series", "_unrecorded",
    )  # fmt: skip

    def __init__(self, layout: Layout, gather: _Gather, first: int) -> None:
        self._first_point = first
        self._series = np.arange(first, first + len(layout), dtype=np.int32)
        self._flags = layout.flags.astype(np.int64) if layout.flags.any() else None
        self._measures = [
            (name, gather.field(layout.at[:, position]))
            for position, name in enumerate(("sum", "min", "max"), 3)
        ]
        # counts and buckets next to each other: they are judged together
        self._count = gather.field(layout.at[:, 2])
        self._buckets = gather.field(layout.buckets)
        # copies: whatever is read keeps these, and must not keep all rows
        lengths = self._lengths = layout.bucket_counts.copy()
        self._bounds = Lists(layout.bounds, layout.bound_counts.copy())
        ends = np.cumsum(lengths, dtype=np.int64)
        filled = np.flatnonzero(lengths)
        self._filled = slice(None) if len(filled) == len(lengths) else filled
        self._first_bucket = (ends - lengths)[self._filled]
        self._last_bucket = ends[self._filled] - 1
        # per bucket the point among those with buckets that it belongs to
        self._owner = np.repeat(np.arange(len(filled)), lengths[self._filled])
        unrecorded = (layout.flags & _NO_RECORDED_VALUE).astype(bool)
        self._unrecorded = unrecorded if unrecorded.any() else None

    def read(self, gathered: Words, time: Int64s, start: Int64s | None) -> Points:
        """The points of a request. Raises Unjudged."""
        first = self._first_point
        own_start = None if start is None else start[first:]
        columns = self._values(gathered)
        return Points("histogram", self._series, time[first:], own_start, self._flags, columns)

    def _values(self, gathered: Words) -> dict[str, Column]:
        buckets = self._buckets.of(gathered) if self._buckets.is_there else np.zeros(0, np.uint64)
        count = np.zeros(len(self._series), np.uint64)
        if self._count.is_there:
            count = self._count.or_zeros(gathered)
        if count.max() >= _COUNT_LIMIT or (len(buckets) and buckets.max() >= _COUNT_LIMIT):
            raise Unjudged
        counts, repaired = self._repaired(buckets.view(np.int64), count.view(np.int64))
        columns: dict[str, Column] = {
            "data_point_count": _masked(count.view(np.int64), self._unrecorded),
            "data_point_bucket_counts": Lists(counts, self._lengths),
            "data_point_explicit_bounds": self._bounds,
            "data_point_buckets_repaired": repaired,
        }
        for name, field in self._measures:
            if field.is_there:
                value = field.of(gathered).view(np.float64)
                columns[f"data_point_{name}"] = _masked(value, field.absent)
        return columns

    def _repaired(self, buckets: Int64s, count: Int64s) -> tuple[Int64s, npt.NDArray[np.bool_]]:
        """Bucket counts, differenced where they are cumulative, and where that was (`points`)."""
        repaired = np.zeros(len(count), np.bool_)
        first = self._first_bucket
        if not len(first):
            return buckets, repaired
        differences = buckets.copy()
        differences[1:] -= buckets[:-1]
        differences[first] = buckets[first]
        own_count = count[self._filled]
        cumulative = (
            (buckets[self._last_bucket] == own_count)
            & (np.add.reduceat(buckets, first) != own_count)
            & (np.minimum.reduceat(differences, first) >= 0)
        )
        repaired[self._filled] = cumulative
        return np.where(cumulative[self._owner], differences, buckets), repaired


def _masked(values: npt.NDArray[np.generic], absent: npt.NDArray[np.bool_] | None) -> Column:
    return values if absent is None else pa.array(values, mask=absent)


def kind_of(data: int) -> str:
    """The kind of a metric's points by its data field."""
    return "histogram" if data == HISTOGRAM else "number"


def points_data(data: int) -> int:
    """The data field whose points have the same form: a sum's are those of a gauge."""
    return HISTOGRAM if data == HISTOGRAM else GAUGE
