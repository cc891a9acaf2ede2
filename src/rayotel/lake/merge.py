"""Merging parts into one, sorted by metric, labels and time, in bounded memory.

An external merge sort by series. The inputs are read in runs of a bounded number of rows; each run
is sorted and written to disk beside the list of its series in order. The lists are then merged, and
whenever enough series are together for a row group, each run contributes one stretch of rows, which
are put in order and written. Memory holds one run, or one row group, at a time.

Points of one series with the same time and the same values are one point: the one that arrived
first stays.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayotel.lake import schema
from rayotel.lake.parts import part_writer

RUN_ROWS = 131_072
READ_ROWS = 32_768
ROW_GROUP_ROWS = 65_536
# the merge holds one batch of every run: small ones, for runs may be many
SPILL_BATCH_ROWS = 1_024
LIST_BATCH_ROWS = 128
TEXT = pa.dictionary(pa.int32(), pa.string())
Ints = npt.NDArray[np.int64]

# what may differ between two points that are otherwise one: how the request travelled
_ARRIVAL = ("p_timestamp", "p_src_ip", "p_user_agent")
_VALUES = tuple(
    column.name
    for column in schema.METRIC_COLUMNS
    if (column.name.startswith(("data_point_", "positive_", "negative_")))
    or column.name == "start_time_unix_nano"
)


@dataclass(frozen=True, slots=True)
class _SeriesRows:
    """How many rows of a series a run holds. Ordered by `key`: metric, labels, id."""

    key: bytes
    series_id: int
    rows: int


@dataclass(slots=True)
class _Run:
    """A sorted run on disk. `taken`: rows already merged."""

    path: Path
    taken: int = 0


def merge(inputs: Sequence[Path], output: Path, stream: str, spill: Path) -> int:
    """Merge Parquet parts into one; returns its rows. `spill` is an empty directory to work in."""
    columns = _union([pq.read_schema(path) for path in inputs])
    runs = []
    for number, table in enumerate(_run_tables(inputs, columns)):
        runs.append(_write_run(table, spill / f"run-{number:06d}.arrow"))
        pa.default_memory_pool().release_unused()
    total = 0
    target = pa.schema([(name, _target_type(name)) for name in columns])
    with part_writer(output, target, stream) as writer:
        for ids, stretches in _blocks(runs):
            table = _ordered(stretches, ids, target)
            table = _without_repeats(table)
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            total += table.num_rows
    for run in runs:
        run.path.unlink()
        _list_path(run).unlink()
    return total


def _target_type(name: str) -> pa.DataType:
    kind = schema.METRIC_TYPES.get(name, pa.string())
    return TEXT if pa.types.is_string(kind) else kind


def _union(schemas: Iterable[pa.Schema]) -> list[str]:
    """All columns: the fixed ones, then labels; of names that differ in case the first in ASCII."""
    labels: dict[str, str] = {}
    for name in sorted({name for one in schemas for name in one.names}):
        if name not in schema.METRIC_TYPES:
            labels.setdefault(name.lower(), name)
    return [*schema.METRIC_TYPES, *sorted(labels.values())]


def _run_tables(inputs: Sequence[Path], columns: list[str]) -> Iterator[pa.Table]:
    """The rows of all inputs in tables of at most RUN_ROWS and a little more."""
    waiting: list[pa.Table] = []
    for path in inputs:
        texts = [field.name for field in pq.read_schema(path) if pa.types.is_string(field.type)]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(READ_ROWS):
                waiting.append(_conformed(pa.table(batch), columns))
                if sum(table.num_rows for table in waiting) >= RUN_ROWS:
                    yield _joined(waiting)
                    waiting = []
    if waiting:
        yield _joined(waiting)


def _conformed(table: pa.Table, columns: list[str]) -> pa.Table:
    """The table's columns that hold anything, spelled as wanted and in that order.

    A label that is spelled otherwise is noted in the overflow.
    """
    spelled = {name.lower(): name for name in columns}
    for name in table.column_names:
        wanted = spelled[name.lower()]
        if wanted != name:
            table = _respelled(table, name, wanted)
    held = [
        name
        for name in columns
        if name in table.column_names and table.column(name).null_count < len(table)
    ]
    return pa.table([table.column(name).cast(_target_type(name)) for name in held], names=held)


def _respelled(table: pa.Table, name: str, wanted: str) -> pa.Table:
    values = table.column(name).to_pylist()
    position = table.column_names.index(schema.OVERFLOW)
    overflow = table.column(schema.OVERFLOW).to_pylist()
    for row, value in enumerate(values):
        if value is not None:
            noted = json.loads(overflow[row]) if overflow[row] else {}
            noted.setdefault(name, value)
            overflow[row] = json.dumps(noted, ensure_ascii=False, sort_keys=True)
    texts = pa.array(overflow, pa.string()).dictionary_encode()
    table = table.set_column(position, schema.OVERFLOW, texts)
    return table.rename_columns([wanted if one == name else one for one in table.column_names])


def _joined(tables: list[pa.Table]) -> pa.Table:
    joined = pa.concat_tables(tables, promote_options="default")
    return joined.unify_dictionaries().combine_chunks()


def _integers(table: pa.Table, name: str) -> Ints:
    column = table.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    values: Ints = column.to_numpy()
    return values


def _write_run(table: pa.Table, path: Path) -> _Run:
    """Sort a table by series and time, and write it with the list of its series."""
    ids = _integers(table, "series_id")
    distinct, first, inverse, counts = np.unique(
        ids, return_index=True, return_inverse=True, return_counts=True
    )
    keys = _series_keys(table, first, distinct)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    rows = np.lexsort((_integers(table, "time_unix_nano"), rank[inverse]))
    run = _Run(path)
    table = table.take(pa.array(rows))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=SPILL_BATCH_ROWS)
    series = pa.table(
        {
            "key": pa.array([keys[i] for i in order], pa.binary()),
            "series_id": pa.array(distinct[order]),
            "rows": pa.array(counts[order]),
        }
    )
    with (
        pa.OSFile(str(_list_path(run)), "wb") as sink,
        pa.ipc.new_file(sink, series.schema) as writer,
    ):
        writer.write_table(series, max_chunksize=LIST_BATCH_ROWS)
    return run


def _list_path(run: _Run) -> Path:
    return run.path.with_suffix(".series")


def _series_keys(table: pa.Table, first: Ints, ids: Ints) -> list[bytes]:
    """A key per series that orders by metric, then labels, then id."""
    rows = table.take(pa.array(first))
    labels = [name for name in table.column_names if name not in schema.METRIC_TYPES]
    parts: list[list[bytes]] = [
        [str(name or "").encode()] for name in rows.column("metric_name").to_pylist()
    ]
    for label in labels:
        column = rows.column(label).combine_chunks()
        # each distinct value becomes text once; series share it
        texts = [f"{label}={value}".encode() for value in column.dictionary.to_pylist()]
        for part, index in zip(parts, column.indices.to_pylist(), strict=True):
            if index is not None:
                part.append(texts[index])
    for part, one in zip(parts, ids, strict=True):
        part.append(int(one).to_bytes(8, "big", signed=True))
    return [b"\0".join(part) for part in parts]


def _listed(run: _Run, number: int) -> Iterator[tuple[bytes, int, _SeriesRows]]:
    with pa.OSFile(str(_list_path(run))) as source:
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            for row in reader.get_batch(index).to_pylist():
                yield row["key"], number, _SeriesRows(row["key"], row["series_id"], row["rows"])


def _blocks(runs: list[_Run]) -> Iterator[tuple[list[int], list[pa.Table]]]:
    """Whole series in order, enough for a row group: their ids, and a stretch of each run."""
    ids: dict[int, None] = {}
    counts = [0] * len(runs)
    last_key = b""
    for key, number, one in heapq.merge(*(_listed(run, n) for n, run in enumerate(runs))):
        if key != last_key and sum(counts) >= ROW_GROUP_ROWS:
            yield list(ids), _stretches(runs, counts)
            ids, counts = {}, [0] * len(runs)
        last_key = key
        ids[one.series_id] = None
        counts[number] += one.rows
    if ids:
        yield list(ids), _stretches(runs, counts)


def _stretches(runs: list[_Run], counts: list[int]) -> list[pa.Table]:
    found = []
    for run, count in zip(runs, counts, strict=True):
        if count:
            found.append(_stretch(run, count))
            run.taken += count
    return found


def _stretch(run: _Run, count: int) -> pa.Table:
    """The next `count` rows of a run."""
    with pa.OSFile(str(run.path)) as source:
        reader = pa.ipc.open_file(source)
        first = run.taken // SPILL_BATCH_ROWS
        last = (run.taken + count - 1) // SPILL_BATCH_ROWS
        batches = [reader.get_batch(index) for index in range(first, last + 1)]
        return pa.Table.from_batches(batches).slice(run.taken % SPILL_BATCH_ROWS, count)


def _ordered(stretches: list[pa.Table], ids: list[int], target: pa.Schema) -> pa.Table:
    """All rows by series (in the order of `ids`), time and arrival, with all columns."""
    table = _joined(stretches)
    ranks = {series: rank for rank, series in enumerate(ids)}
    rank = np.array([ranks[int(one)] for one in _integers(table, "series_id")], dtype=np.int64)
    arrived = _integers(table, "p_timestamp")
    order = np.lexsort((arrived, _integers(table, "time_unix_nano"), rank))
    table = table.take(pa.array(order)).combine_chunks()
    arrays = [
        table.column(field.name)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(len(table), field.type)])
        for field in target
    ]
    return pa.table(arrays, schema=target)


def _without_repeats(table: pa.Table) -> pa.Table:
    """The table without rows that say what the row before says; it is in order."""
    ids, times = _integers(table, "series_id"), _integers(table, "time_unix_nano")
    same = np.flatnonzero((ids[1:] == ids[:-1]) & (times[1:] == times[:-1])) + 1
    if not len(same):
        return table
    here, before = pa.array(same), pa.array(same - 1)
    repeated = np.ones(len(same), dtype=bool)
    for name in _VALUES:
        column = table.column(name).combine_chunks()
        if column.null_count < len(column):
            repeated &= _equal(column.take(here), column.take(before))
    keep = np.ones(len(table), dtype=bool)
    keep[same[repeated]] = False
    return table.filter(pa.array(keep)).combine_chunks()


def _equal(one: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
    """Row by row, whether two columns hold the same; null equals null and NaN equals NaN."""
    nulls, other_nulls = _flags(one.is_null()), _flags(other.is_null())
    result: npt.NDArray[np.bool_] = nulls == other_nulls
    rows = np.flatnonzero(result & ~nulls)
    one, other = one.take(pa.array(rows)), other.take(pa.array(rows))
    if pa.types.is_list(one.type):
        result[rows] = _equal_lists(one, other)
    else:
        result[rows] = _bits(one) == _bits(other)
    return result


def _equal_lists(one: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
    if pa.types.is_nested(one.type.value_type):  # exemplars, which are few
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.array([repr(a) == repr(b) for a, b in pairs], dtype=bool)
    lengths = pc.list_value_length(one).to_numpy()
    result: npt.NDArray[np.bool_] = lengths == pc.list_value_length(other).to_numpy()
    rows = np.flatnonzero(result & (lengths > 0))
    if len(rows):
        take = pa.array(rows)
        items = _bits(one.take(take).flatten()) == _bits(other.take(take).flatten())
        starts = np.concatenate(([0], np.cumsum(lengths[rows])[:-1]))
        result[rows] = np.logical_and.reduceat(items, starts)
    return result


def _flags(mask: pa.Array) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = mask.to_numpy(zero_copy_only=False)
    return flags


def _bits(values: pa.Array) -> npt.NDArray[Any]:
    """Values without nulls as something that compares bit by bit."""
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array.view(np.int64) if array.dtype == np.float64 else array
