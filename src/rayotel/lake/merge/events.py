"""Merging parts of an events stream into one, sorted by type, time and id, in bounded memory.

Every part is sorted already. So the merge holds a few batches of each input, and writes rows up to
the smallest of the batches' last rows. Before that, it looks through the ids of all inputs for ids
that occur more than once. Of each such id the row that arrived first stays, wherever in the hour
the others are; none stays if a part beside the output has the id.
"""

from __future__ import annotations

import bisect
import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayotel.lake import schema
from rayotel.lake.label_columns import MAX_LABEL_COLUMNS, always_named, chosen
from rayotel.lake.merge.series import TEXT
from rayotel.lake.parts import Marks, overflow_rows_of, part_writer
from rayotel.lake.recipe import Recipe
from rayotel.lake.signal import EVENTS

# an open part costs some ten megabytes, whatever is held of it
MAX_OPEN_INPUTS = 16
IDS_AT_ONCE = 200_000
MAX_TURNS = 256  # a turn takes the ids with the same last two digits
# rows of all inputs that are held at once, and of a row group of the output
HELD_BYTES = 12 << 20
MAX_BATCH_ROWS = 8_192
MIN_BATCH_ROWS = 16
GROUP_BYTES = 32 << 20
GROUP_ROWS = 131_072
READ_BUFFER_BYTES = 64 << 10
_SORTED_BY = [(name, "ascending") for name in ("event_type", "time_unix_nano", "event_id")]
Keep = npt.NDArray[np.bool_]
Key = tuple[bool, str, int, str]


def merge(
    inputs: Sequence[Path],
    output: Path,
    stream: str,
    spill: Path,
    against: Sequence[Path] = (),
) -> int:
    """Merge Parquet parts into one; returns its rows. `spill` is an empty directory to work in.

    Events that a part of `against` has are left out.
    """
    paths = list(inputs)
    while len(paths) > MAX_OPEN_INPUTS:
        target = spill / f"merged-{len(paths):06d}.parquet"
        _merge(paths[:MAX_OPEN_INPUTS], target, stream, EVENTS.fresh)
        paths = [*paths[MAX_OPEN_INPUTS:], target]
    return _merge(paths, output, stream, EVENTS.merged, against)


def _merge(
    paths: Sequence[Path],
    output: Path,
    stream: str,
    recipe: Recipe,
    against: Sequence[Path] = (),
) -> int:
    rows: Counter[str] = Counter()
    for path in paths:
        metadata = pq.read_metadata(path)
        names = metadata.schema.to_arrow_schema().names
        rows.update(dict.fromkeys(set(names) - set(schema.EVENT_TYPES), metadata.num_rows))
    always = always_named(EVENTS.ray_labels)
    labels = sorted(chosen(rows, always, MAX_LABEL_COLUMNS).spelled.values())
    kinds = schema.EVENT_TYPES | dict.fromkeys(labels, pa.string())
    target = pa.schema([(name, _held_as(name, kind)) for name, kind in kinds.items()])
    total = 0
    marks = Marks()
    with part_writer(output, target, stream, EVENTS, recipe, marks) as writer:
        for group in _groups(_in_order(paths, _kept(paths, against), target)):
            writer.write_table(group, row_group_size=len(group))
            total += len(group)
            del group
            pa.default_memory_pool().release_unused()
        marks.overflow_rows = min(total, overflow_rows_of(paths))
    return total


def _held_as(name: str, kind: pa.DataType) -> pa.DataType:
    """The type of a column while it is merged: a text that may repeat stands there once."""
    is_plain = name in EVENTS.merged.long or name == EVENTS.merged.sorted_by
    return kind if is_plain or not pa.types.is_string(kind) else TEXT


def _kept(paths: Sequence[Path], against: Sequence[Path]) -> list[Keep]:
    """Which rows of each input stay: of rows with one id, the one that arrived first.

    A part of `against` has its rows as if they had arrived before all others.
    """
    rows = [pq.read_metadata(path).num_rows for path in (*paths, *against)]
    keep = [np.ones(count, dtype=np.bool_) for count in rows]
    turns = min(MAX_TURNS, sum(rows) // IDS_AT_ONCE + 1)
    for turn in range(turns):
        inputs, places, tables = [], [], []
        for number, path in enumerate((*paths, *against)):
            for place, table in _ids(path, turn, turns):
                inputs.append(np.full(len(place), number, dtype=np.int32))
                places.append(place)
                tables.append(table)
        if not tables:
            continue
        input_, place = np.concatenate(inputs), np.concatenate(places)
        ids = pa.concat_tables(tables)
        codes = ids.column("event_id").combine_chunks().dictionary_encode().indices.to_numpy()
        arrivals = schema.in_microseconds(ids.column("p_timestamp"), schema.TIMESTAMP)
        arrived = arrivals.cast(pa.int64()).to_numpy()
        arrived = np.where(input_ < len(paths), arrived, np.iinfo(np.int64).min)
        order = np.lexsort((place, input_, arrived, codes))
        again = order[1:][codes[order[1:]] == codes[order[:-1]]]
        for number in np.unique(input_[again]).tolist():
            keep[number][place[again[input_[again] == number]]] = False
    return keep[: len(paths)]


def _ids(path: Path, turn: int, turns: int) -> Iterator[tuple[npt.NDArray[np.int64], pa.Table]]:
    """Ids and arrivals of an input whose turn it is, and in which rows they stand."""
    first = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 16, columns=["event_id", "p_timestamp"]):
            table = pa.Table.from_batches([batch]).select(["event_id", "p_timestamp"])
            place = np.arange(first, first + len(batch), dtype=np.int64)
            first += len(batch)
            if turns > 1:
                ends = pc.utf8_slice_codeunits(table.column("event_id"), start=-2)
                codes = ends.combine_chunks().dictionary_encode()
                of_ends = np.array([int(end, 16) % turns for end in codes.dictionary.to_pylist()])
                is_its_turn = of_ends[codes.indices.to_numpy()] == turn
                place, table = place[is_its_turn], table.filter(pa.array(is_its_turn))
            yield place, table


class _Input:
    """A part that is read bit by bit. `table`: rows that were read and not yet taken."""

    def __init__(self, file: pq.ParquetFile, keep: Keep, target: pa.Schema, held_bytes: int):
        metadata = file.metadata
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
        size += 4 * metadata.num_rows * len(target)  # codes of texts that the file has packed
        rows = held_bytes * metadata.num_rows // max(size, 1)
        self._batches = file.iter_batches(min(MAX_BATCH_ROWS, max(MIN_BATCH_ROWS, rows)))
        self._keep, self._target = keep, target
        # of a part of 0.1.0, which was sorted by nanoseconds
        self._is_to_sort = file.schema_arrow.field("time_unix_nano").type != schema.TIMESTAMP
        self._read = 0
        self.table = target.empty_table()

    def fill(self) -> bool:
        """Read on where all rows are taken; whether there are any."""
        while not len(self.table):
            batch = next(self._batches, None)
            if batch is None:
                return False
            keep = self._keep[self._read : self._read + len(batch)]
            self._read += len(batch)
            table = self._aligned(pa.Table.from_batches([batch]).filter(pa.array(keep)))
            if self._is_to_sort:
                table = table.take(pc.sort_indices(table, sort_keys=_SORTED_BY))
            self.table = table
        return True

    def _aligned(self, table: pa.Table) -> pa.Table:
        """With all columns of the output, in their order."""
        columns = {name.lower(): table.column(name) for name in table.column_names}
        wanted = {field.name.lower() for field in self._target}
        beyond = [name for name in table.column_names if name.lower() not in wanted]
        if beyond:
            overflow = _with_labels(columns[schema.OVERFLOW], table.select(beyond))
            columns[schema.OVERFLOW] = overflow
        arrays = []
        for field in self._target:
            column = columns.get(field.name.lower())
            if column is None:
                arrays.append(pa.nulls(len(table), field.type))
            else:
                arrays.append(schema.in_microseconds(column, field.type))
        return pa.table(arrays, schema=self._target)

    def key(self, row: int) -> Key:
        """What rows are sorted by; those without a type are the last."""
        kind = self.table.column("event_type")[row].as_py()
        time = self.table.column("time_unix_nano")[row].value
        return kind is None, kind or "", time, self.table.column("event_id")[row].as_py()

    def take(self, last: Key) -> pa.Table:
        """The rows up to a key."""
        end = bisect.bisect_right(range(len(self.table)), last, key=self.key)
        taken, self.table = self.table.slice(0, end), self.table.slice(end)
        return taken


def _opened(path: Path, target: pa.Schema) -> pq.ParquetFile:
    """A part whose texts are read as the output holds them."""
    held = {field.name.lower() for field in target if field.type == TEXT}
    texts = [name for name in pq.read_schema(path).names if name.lower() in held]
    return pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES, read_dictionary=texts)


def _with_labels(overflow: pa.ChunkedArray, labels: pa.Table) -> pa.ChunkedArray:
    """The overflow of rows with labels that have no column in the output."""
    texts = []
    rows = (labels.slice(row, 1).to_pylist()[0] for row in range(len(labels)))
    for before, row in zip(overflow.to_pylist(), rows, strict=True):
        named = {name: text for name, text in row.items() if text is not None}
        both = {**named, **(json.loads(before) if before else {})}
        told = json.dumps(both, ensure_ascii=False, sort_keys=True)
        texts.append(told if both else None)
    return pa.chunked_array([pa.array(texts, pa.string())])


def _in_order(paths: Sequence[Path], keep: Sequence[Keep], target: pa.Schema) -> Iterator[pa.Table]:
    """All rows that are kept, sorted, a stretch at a time."""
    with contextlib.ExitStack() as stack:
        held_bytes = HELD_BYTES // len(paths)
        inputs = []
        for path, kept in zip(paths, keep, strict=True):
            file = stack.enter_context(_opened(path, target))
            inputs.append(_Input(file, kept, target, held_bytes))
        while inputs := [source for source in inputs if source.fill()]:
            last = min(source.key(len(source.table) - 1) for source in inputs)
            taken = [source.take(last) for source in inputs]
            stretch = pa.concat_tables(taken).unify_dictionaries()
            order = pc.sort_indices(stretch, sort_keys=_SORTED_BY)
            yield stretch.take(order)


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, as many together as make a row group."""
    waiting: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        size += table.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries()
