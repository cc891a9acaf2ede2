"""Columns that are constant in a series, taken out of the rows and put back: labels and the metric.

Otherwise merging would carry some sixty columns of text through every sort. Here each batch of rows
gets the distinct combinations of these columns, and a row keeps only the number of its combination.
Two rows share a combination if all of these columns are equal. `series_id`, which is a hash, is
only the first of them to be compared. One series may have several combinations, because for example
a metric's description is no part of its id.

A combination travels as bytes: one line of JSON per column. Equal bytes are equal combinations,
whatever part or run they come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
# a rough count of what an entry costs in Python beyond its text
_ENTRY_BYTES = 300


def is_of_series(column: str) -> bool:
    """Whether a column is constant in a series: not a point's own value, nor how it travelled."""
    return column not in POINT_COLUMNS


@dataclass(slots=True)
class _Column:
    """A column's distinct values, with what each looks like in a key and in a combination."""

    name: str
    codes: dict[Value, int] = field(default_factory=dict)
    in_keys: list[bytes] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
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
                self.pieces.append(_piece(self.name, value))
                self.in_keys.append(_in_key(self.name, value) + b"\0")
        self.last = values
        self.last_known = np.array([*map(codes.__getitem__, listed), -1], dtype=np.int32)
        return self.last_known


def _piece(name: str, value: Value) -> bytes:
    text = encode_basestring_ascii(value) if isinstance(value, str) else json.dumps(value)
    return f"[{encode_basestring_ascii(name)},{text}]\n".encode()


def _in_key(name: str, value: Value) -> bytes:
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

    def __init__(self) -> None:
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
                self._columns[name] = _Column(name)
        # a column that is not there yet is one that holds nothing: keys end where values end
        matrix = np.full((len(first), len(self._columns)), -1, dtype="<i4")
        for name, (codes, values) in coded.items():
            known = self._columns[name].known(values)
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
        if new:
            # its codes, and what `entries` will make of it
            held = int((matrix >= 0).sum()) / len(matrix)
            self.size_bytes += int(new * (_ENTRY_BYTES + 2 * width + 60 * held))
        return result

    def entries(self) -> list[Entry]:
        """All combinations in order of their number."""
        width = 4 * len(self._columns)
        raw = b"".join(key.ljust(width, b"\xff") for key in self._numbers)
        matrix = np.frombuffer(raw, dtype="<i4").reshape(len(self._numbers), len(self._columns))
        names = set(self._columns)
        labels = sorted(names - set(schema.METRIC_TYPES), key=lambda name: (name.lower(), name))
        in_keys = [name for name in ("metric_name", *labels, "series_id") if name in names]
        keys = self._lines(in_keys, matrix, [self._columns[name].in_keys for name in in_keys])
        by_name = sorted(names)
        contents = self._lines(by_name, matrix, [self._columns[name].pieces for name in by_name])
        return list(map(Entry, keys, contents))

    def _lines(self, names: list[str], matrix: Codes, texts: list[list[bytes]]) -> Iterable[bytes]:
        """Per combination the texts of its values in the columns named, one after the other."""
        spread = [
            np.array([*known, b""], dtype=object)[matrix[:, self._places[name]]].tolist()
            for name, known in zip(names, texts, strict=True)
        ]
        return map(b"".join, zip(*spread, strict=True))


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


def spellings(names: Iterable[str]) -> dict[str, str]:
    """How to spell each label column: of those that differ in case the first in ASCII order."""
    spelled: dict[str, str] = {}
    for name in sorted(names):
        if name not in schema.METRIC_TYPES:
            spelled.setdefault(name.lower(), name)
    return spelled


def series_columns(contents: Sequence[bytes], spelled: Mapping[str, str]) -> dict[str, pa.Array]:
    """The columns of combinations, a row for each; those that hold nothing are left out."""
    values: dict[str, dict[Value, int]] = {}
    codes: dict[str, Codes] = {}
    pieces: dict[bytes, tuple[str, int]] = {}
    for row, content in enumerate(contents):
        for piece in content.splitlines():
            known = pieces.get(piece)
            if known is None:
                name, value = json.loads(piece)
                if name not in values:
                    values[name] = {}
                    codes[name] = np.full(len(contents), -1, dtype=np.int32)
                known = pieces[piece] = (name, values[name].setdefault(value, len(values[name])))
            codes[known[0]][row] = known[1]
    for name in sorted(values):
        wanted = name if name in schema.METRIC_TYPES else spelled[name.lower()]
        if wanted != name:
            _respell(values, codes, name, wanted)
    return {name: _array(name, list(values[name]), codes[name]) for name in values}


def _respell(
    values: dict[str, dict[Value, int]], codes: dict[str, Codes], name: str, wanted: str
) -> None:
    """Move a label into the column of another spelling, and note its own in the overflow."""
    texts, moved = list(values.pop(name)), codes.pop(name)
    for target in (wanted, schema.OVERFLOW):
        values.setdefault(target, {})
        codes.setdefault(target, np.full(len(moved), -1, dtype=np.int32))
    overflows = list(values[schema.OVERFLOW])
    for row in np.flatnonzero(moved >= 0).tolist():
        text = texts[moved[row]]
        if codes[wanted][row] < 0:
            codes[wanted][row] = values[wanted].setdefault(text, len(values[wanted]))
        before = codes[schema.OVERFLOW][row]
        noted = json.loads(str(overflows[before])) if before >= 0 else {}
        noted.setdefault(name, text)
        told = json.dumps(noted, ensure_ascii=False, sort_keys=True)
        known = values[schema.OVERFLOW]
        if told not in known:
            overflows.append(told)
        codes[schema.OVERFLOW][row] = known.setdefault(told, len(known))


def _array(name: str, values: list[Value], codes: Codes) -> pa.Array:
    kind = schema.METRIC_TYPES.get(name, pa.string())
    indices = pa.array(codes, mask=codes < 0)
    array = pa.DictionaryArray.from_arrays(indices, pa.array(values, kind))
    return array if pa.types.is_string(kind) else array.dictionary_decode()
