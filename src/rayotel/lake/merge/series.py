"""Columns that are constant in a series, taken out of the rows and put back: labels and the metric.

Otherwise merging would carry some sixty columns of text through every sort. Here each batch of rows
gets the distinct combinations of these columns, and a row keeps only the number of its combination.
Two rows share a combination if all of these columns are equal. `series_id`, which is a hash, is
only the first of them to be compared. One series may have several combinations, because for example
a metric's description is no part of its id.

A combination travels as bytes: one line of JSON per column. Equal bytes are equal combinations,
whatever part or run they come from. A long text that many series share is written as its number
among the long texts of the merge, or each series would be as long as it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayotel.lake import schema

TEXT = pa.dictionary(pa.int32(), pa.string())
Codes = npt.NDArray[np.int32]
Value = str | int | bool

_OF_POINTS = (
    "p_", "time_unix_nano", "start_time_unix_nano", "data_point_", "positive_", "negative_",
)  # fmt: skip
POINT_COLUMNS = tuple(name for name in schema.METRIC_TYPES if name.startswith(_OF_POINTS))
# a rough count of what an entry costs in Python beyond its text, and a text beyond its characters
_ENTRY_BYTES = 300
_TEXT_BYTES = 400
LONG_TEXT_CHARACTERS = 200
MAX_LONG_TEXTS_BYTES = 32 << 20
_ENTRIES_AT_ONCE_CELLS = 1 << 18


def is_of_series(column: str) -> bool:
    """Whether a column is constant in a series: not a point's own value, nor how it travelled."""
    return column not in POINT_COLUMNS


class LongTexts:
    """Long texts of a merge, each with a number; beyond a bound texts have none, for good."""

    def __init__(self) -> None:
        self._numbers: dict[str, int | None] = {}
        self._texts: list[str] = []
        self._room_bytes = MAX_LONG_TEXTS_BYTES

    def number(self, text: Value) -> int | None:
        """The number of a text; None for what is short, or came when there was no room."""
        if not isinstance(text, str) or len(text) < LONG_TEXT_CHARACTERS:
            return None
        known = self._numbers.get(text)
        if known is None and len(text) <= self._room_bytes:
            # what did not fit once may come again: from then on there is no room at all
            known = self._numbers[text] = len(self._texts)
            self._texts.append(text)
            self._room_bytes -= len(text) + _TEXT_BYTES
        elif known is None:
            self._room_bytes = 0
        return known

    def text(self, number: int) -> str:
        """A text by its number."""
        return self._texts[number]


@dataclass(slots=True)
class _Column:
    """A column's distinct values, with what each looks like in a key and in a combination."""

    name: str
    long: LongTexts
    codes: dict[Value, int] = field(default_factory=dict)
    in_keys: list[bytes] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    piece_sizes: list[int] = field(default_factory=list)
    last: pa.Array | None = None
    last_known: Codes = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    def known(self, values: pa.Array) -> Codes:
        """The codes of values; and, at the end, -1 for null."""
        # one part after the other has the same texts
        if self.last is not None and self.last.equals(values):
            return self.last_known
        codes, listed = self.codes, values.to_pylist()
        for value in listed:
            if value not in codes:
                codes[value] = len(codes)
                number = self.long.number(value)
                self.pieces.append(_piece(self.name, value, number))
                self.in_keys.append(_in_key(self.name, value, number) + b"\0")
                self.piece_sizes.append(len(self.pieces[-1]) + len(self.in_keys[-1]))
        self.last = values
        self.last_known = np.array([*map(codes.__getitem__, listed), -1], dtype=np.int32)
        return self.last_known


def _piece(name: str, value: Value, number: int | None) -> bytes:
    if number is not None:
        text = f"[{number}]"
    else:
        text = encode_basestring_ascii(value) if isinstance(value, str) else json.dumps(value)
    return f"[{encode_basestring_ascii(name)},{text}]\n".encode()


def _in_key(name: str, value: Value, number: int | None) -> bytes:
    if number is not None:
        # ordered by how it begins; the number tells it from all others
        value = f"{str(value)[:LONG_TEXT_CHARACTERS]}\0{number}"
    if name == "metric_name":
        return str(value).encode()
    if name == "series_id":
        return int(value).to_bytes(8, "big", signed=True)
    return f"{name.lower()}={value}".encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Entry:
    """A combination: `key` orders by metric, then labels, then id; `content` is all of it."""

    key: bytes
    content: bytes


class SeriesTable:
    """The combinations of many batches of rows, each with a number in order of appearance."""

    def __init__(self, long: LongTexts) -> None:
        self._long = long
        self._columns: dict[str, _Column] = {}
        self._places: dict[str, int] = {}
        self._numbers: dict[bytes, int] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, batch: pa.RecordBatch) -> Codes:
        """The number of each row's combination, of a batch with columns of series only."""
        coded = {
            name: _encoded(batch.column(name))
            for name in ("series_id", *batch.schema.names)
            if batch.column(name).null_count < len(batch)
        }
        first, spread = _distinct([codes for codes, _ in coded.values()])
        for name in coded:
            if name not in self._columns:
                self._places[name] = len(self._columns)
                self._columns[name] = _Column(name, self._long)
        # a column that is not there yet is one that holds nothing: keys end where values end
        matrix = np.full((len(first), len(self._columns)), -1, dtype="<i4")
        for name, (codes, values) in coded.items():
            column = self._columns[name]
            before = len(column.codes)
            known = column.known(values)
            self.size_bytes += sum(column.piece_sizes[before:]) * 2
            self.size_bytes += _TEXT_BYTES * (len(column.codes) - before)
            matrix[:, self._places[name]] = known[codes[first]]
        return self._entered(matrix)[spread]

    def _entered(self, matrix: Codes) -> Codes:
        raw, width = matrix.tobytes(), 4 * matrix.shape[1]
        numbers = self._numbers
        before = len(numbers)
        result = np.empty(len(matrix), dtype=np.int32)
        for row in range(len(matrix)):
            key = raw[row * width : (row + 1) * width].rstrip(b"\xff")
            result[row] = numbers.setdefault(key, len(numbers))
        new = len(numbers) - before
        # its codes, as a key and in a matrix, and its key in the order of series
        self.size_bytes += new * (_ENTRY_BYTES + 2 * width)
        self.size_bytes += int(self._key_sizes(matrix).sum() * new / len(matrix))
        return result

    def _key_sizes(self, matrix: Codes) -> npt.NDArray[np.int64]:
        sizes = np.zeros(len(matrix), np.int64)
        for name in self._in_keys():
            column = self._columns[name]
            of_values = np.array([*map(len, column.in_keys), 0], np.int64)
            sizes += of_values[matrix[:, self._places[name]]]
        return sizes

    def _in_keys(self) -> list[str]:
        labels = self._columns.keys() - schema.METRIC_TYPES.keys()
        in_order = sorted(labels, key=lambda name: (name.lower(), name))
        return [n for n in ("metric_name", *in_order, "series_id") if n in self._columns]

    def label_counts(self) -> dict[str, int]:
        """How many combinations have each label column."""
        counts = dict.fromkeys(self._columns.keys() - schema.METRIC_TYPES.keys(), 0)
        for matrix in self._matrices(list(self._numbers)):
            for name in counts:
                counts[name] += int((matrix[:, self._places[name]] >= 0).sum())
        return counts

    def in_order(self) -> tuple[npt.NDArray[np.int32], Iterator[Entry]]:
        """The numbers of all combinations in order of their keys; and themselves, in that order."""
        numbers = list(self._numbers)
        keys: list[bytes] = []
        for matrix in self._matrices(numbers):
            keys += self._lines(self._in_keys(), matrix, _in_keys_of)
        order = sorted(range(len(keys)), key=keys.__getitem__)

        def entries() -> Iterator[Entry]:
            place = 0
            names = sorted(self._columns)
            for matrix in self._matrices([numbers[number] for number in order]):
                for content in self._lines(names, matrix, _pieces_of):
                    yield Entry(keys[order[place]], content)
                    place += 1

        return np.array(order, np.int32), entries()

    def _matrices(self, coded: Sequence[bytes]) -> Iterator[Codes]:
        """The codes of combinations, few at a time."""
        width = 4 * len(self._columns)
        step = max(1, _ENTRIES_AT_ONCE_CELLS // max(1, len(self._columns)))
        for first in range(0, len(coded), step):
            some = coded[first : first + step]
            raw = b"".join([key.ljust(width, b"\xff") for key in some])
            yield np.frombuffer(raw, dtype="<i4").reshape(len(some), len(self._columns))

    def _lines(
        self, names: list[str], matrix: Codes, texts: Callable[[_Column], list[bytes]]
    ) -> Iterable[bytes]:
        """Per combination the texts of its values in the columns named, one after the other."""
        spread = []
        for name in names:
            known = np.empty(len(texts(self._columns[name])) + 1, dtype=object)
            known[:-1] = texts(self._columns[name])
            known[-1] = b""
            spread.append(known[matrix[:, self._places[name]]].tolist())
        return map(b"".join, zip(*spread, strict=True))


def _in_keys_of(column: _Column) -> list[bytes]:
    return column.in_keys


def _pieces_of(column: _Column) -> list[bytes]:
    return column.pieces


def _encoded(column: pa.Array) -> tuple[Codes, pa.Array]:
    """A column as codes (-1: null) and the values that they stand for."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    indices = column.indices
    if indices.null_count:
        indices = indices.fill_null(-1)
    return indices.to_numpy(), column.dictionary


def _distinct(columns: Sequence[Codes]) -> tuple[Codes, Codes]:
    """Of the combinations of codes: a row that has each, and which each row has."""
    spread = columns[0]
    if int(spread.min()) < 0:
        spread = spread + 1
    first = _first_rows(spread)
    for codes in columns[1:]:
        if np.array_equal(codes[first][spread], codes):
            continue
        pairs = spread.astype(np.int64) * (int(codes.max()) + 2) + codes + 1
        _, spread = np.unique(pairs, return_inverse=True)
        spread = spread.astype(np.int32)
        first = _first_rows(spread)
    return first, spread


def _first_rows(spread: Codes) -> Codes:
    first = np.zeros(int(spread.max()) + 1, dtype=np.int32)
    first[spread[::-1]] = np.arange(len(spread) - 1, -1, -1, dtype=np.int32)
    return first


def series_columns(
    contents: Sequence[bytes], spelled: Mapping[str, str], long: LongTexts
) -> dict[str, pa.Array]:
    """The columns of combinations, a row for each; those that hold nothing are left out.

    `spelled`: label columns by their names in lower case; labels that have none there overflow.
    """
    values: dict[str, dict[Value, int]] = {}
    codes: dict[str, Codes] = {}
    pieces: dict[bytes, tuple[str, int]] = {}
    for row, content in enumerate(contents):
        for piece in content.splitlines():
            known = pieces.get(piece)
            if known is None:
                name, value = json.loads(piece)
                if isinstance(value, list):
                    value = long.text(value[0])
                if name not in values:
                    values[name] = {}
                    codes[name] = np.full(len(contents), -1, dtype=np.int32)
                known = pieces[piece] = (name, values[name].setdefault(value, len(values[name])))
            codes[known[0]][row] = known[1]
    labels = values.keys() - schema.METRIC_TYPES.keys()
    moved = sorted(name for name in labels if spelled.get(name.lower()) != name)
    if moved:
        _move(values, codes, moved, spelled)
    return {name: _array(name, list(values[name]), codes[name]) for name in values}


def _move(
    values: dict[str, dict[Value, int]],
    codes: dict[str, Codes],
    names: Sequence[str],
    spelled: Mapping[str, str],
) -> None:
    """Move labels to the column of another spelling, if there is one, and to the overflow."""
    rows = len(codes[names[0]])
    overflows: dict[int, list[tuple[str, str]]] = {}
    for name in names:
        texts, moved = [str(value) for value in values.pop(name)], codes.pop(name)
        wanted = spelled.get(name.lower())
        if wanted is not None:
            target = codes.setdefault(wanted, np.full(rows, -1, dtype=np.int32))
            known = values.setdefault(wanted, {})
            numbers = np.array([known.setdefault(text, len(known)) for text in texts], np.int32)
            is_free = (moved >= 0) & (target < 0)
            target[is_free] = numbers[moved[is_free]]
        for row in np.flatnonzero(moved >= 0).tolist():
            overflows.setdefault(row, []).append((name, texts[moved[row]]))
    target = codes.setdefault(schema.OVERFLOW, np.full(rows, -1, dtype=np.int32))
    known = values.setdefault(schema.OVERFLOW, {})
    before = list(known)
    for row, pairs in overflows.items():
        noted = json.loads(str(before[target[row]])) if target[row] >= 0 else {}
        for name, text in pairs:
            noted.setdefault(name, text)
        told = json.dumps(noted, ensure_ascii=False, sort_keys=True)
        target[row] = known.setdefault(told, len(known))


def _array(name: str, values: list[Value], codes: Codes) -> pa.Array:
    kind = schema.METRIC_TYPES.get(name, pa.string())
    indices = pa.array(codes, mask=codes < 0)
    array = pa.DictionaryArray.from_arrays(indices, pa.array(values, kind))
    return array if pa.types.is_string(kind) else array.dictionary_decode()
