"""Merging parts of a metrics stream into one, sorted by metric, labels and time, in bounded memory.

This is an external merge sort by series:

1. The inputs are read in runs of a bounded size. Columns that are constant in a series are kept
   once per run (see `series`); a row is its point's own columns and a number.
2. Each run is sorted and written to disk, beside the list of its series in order.
3. The lists are merged. When enough series for a row group are together, each run contributes one
   stretch of rows. These rows are put in order, get their labels back, and are written.

Memory holds one run, or one row group, at a time. Points of one series with the same time and the
same values are one point: the one that arrived first stays.

Parts that stay beside the output are read in runs of their own, as far as they have series of the
inputs. Their rows come before all others of their time, so what repeats them goes; then they go.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayotel.lake import schema
from rayotel.lake.label_columns import MAX_LABEL_COLUMNS, always_named, chosen
from rayotel.lake.merge import repeats
from rayotel.lake.merge.series import (
    POINT_COLUMNS,
    TEXT,
    Entry,
    LongTexts,
    SeriesTable,
    is_of_series,
    series_columns,
)
from rayotel.lake.parts import Marks, overflow_rows_of, part_writer
from rayotel.lake.recipe import ROW_GROUP_ROWS
from rayotel.lake.signal import METRICS

# a run ends with whichever comes first: rows, bytes of its points, bytes of its series
RUN_ROWS = 262_144
RUN_POINT_BYTES = 48 << 20
RUN_SERIES_BYTES = 48 << 20
READ_ROWS, READ_BYTES = 32_768, 24 << 20
RUN_STEP_ROWS = 32_768
# a row group ends with whichever comes first, too: bytes of its series, of its points, of codes
BLOCK_SERIES_BYTES = 24 << 20
BLOCK_POINT_BYTES = 64 << 20
BLOCK_CODE_BYTES = 96 << 20
# the merge holds one batch of every run: small ones, for runs may be many
SPILL_BATCH_ROWS, SPILL_BATCH_BYTES = 1_024, 256 << 10
LIST_BATCH_ROWS, LIST_BATCH_BYTES = 64, 64 << 10
_EXEMPLAR_BYTES = 400
_LISTED = pa.schema(
    [("key", pa.binary()), ("content", pa.binary()), ("rows", pa.int64()), ("bytes", pa.int64())]
)
_SERIES = "series"  # the column of a run with the number of the row's series
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]


@dataclass(slots=True)
class _Run:
    """A sorted run on disk, in batches of `batch_rows`. `taken`, `listed`: rows and series that are
    already merged. `is_beside`: its rows stand in a part that stays.
    """

    path: Path
    is_beside: bool = False
    batch_rows: int = SPILL_BATCH_ROWS
    taken: int = 0
    listed: int = 0

    @property
    def list_path(self) -> Path:
        """Path of the list of its series."""
        return self.path.with_suffix(".series")


@dataclass(slots=True)
class _Block:
    """Whole series in order, enough for a row group.

    `columns`: how many the output has. `contents` are distinct; `ranks` tells their order, for one
    series may have several; `numbers` are per run those of its next series, in order, and `rows`
    how many rows these have.
    """

    columns: int
    contents: dict[bytes, int] = field(default_factory=dict)
    ranks: list[int] = field(default_factory=list)
    numbers: dict[int, list[int]] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    total_rows: int = 0
    total_bytes: int = 0
    point_bytes: int = 0

    def add(self, run: int, entry: Entry, rows: int, size: int, *, is_new_key: bool) -> None:
        """Take the next series of a run."""
        number = self.contents.setdefault(entry.content, len(self.contents))
        if number == len(self.ranks):
            last = self.ranks[-1] if self.ranks else 0
            self.ranks.append(last + is_new_key)
            self.total_bytes += 2 * len(entry.content) + 4 * self.columns
        self.numbers.setdefault(run, []).append(number)
        self.rows[run] = self.rows.get(run, 0) + rows
        self.total_rows += rows
        self.point_bytes += size

    def is_full(self) -> bool:
        """Whether it should be written before another series is added."""
        return (
            self.total_rows >= ROW_GROUP_ROWS
            or self.total_bytes >= BLOCK_SERIES_BYTES
            or self.point_bytes >= BLOCK_POINT_BYTES
            or self.total_rows * self.columns * 4 >= BLOCK_CODE_BYTES
        )


def merge(
    inputs: Sequence[Path],
    output: Path,
    stream: str,
    spill: Path,
    against: Sequence[Path] = (),
) -> int:
    """Merge Parquet parts into one; returns its rows. `spill` is an empty directory to work in.

    Points that repeat one of a part of `against` are left out.
    """
    held: set[str] = set()
    labels: Counter[str] = Counter()
    long = LongTexts()
    runs: list[_Run] = []
    for table, series in _run_tables(inputs, held, long):
        labels.update(series.label_counts())
        runs.append(_write_run(table, series, spill / f"run-{len(runs):06d}.arrow"))
        pa.default_memory_pool().release_unused()
    if against:
        wanted = _series_ids(inputs)
        for table, series in _run_tables(against, set(), long, wanted):
            run = _write_run(table, series, spill / f"run-{len(runs):06d}.arrow")
            run.is_beside = True
            runs.append(run)
            pa.default_memory_pool().release_unused()
    always = always_named(METRICS.ray_labels)
    spelled = chosen(labels, always, _max_label_columns(inputs)).spelled
    columns = [*schema.METRIC_TYPES, *sorted(spelled.values())]
    target = pa.schema([(name, _target_type(name)) for name in columns])
    held = {spelled.get(name.lower(), name) for name in held}
    # labels that other parts gave no column may get none here: an overflow has something then
    held.add(schema.OVERFLOW)
    total = 0
    marks = Marks()
    recipe = METRICS.merged.holding(held)
    with part_writer(output, target, stream, METRICS, recipe, marks) as writer:
        for block in _blocks(runs, len(columns)):
            table = _ordered(runs, block, spelled, target, long)
            if not len(table):
                continue
            groups = max(1, len(table) // ROW_GROUP_ROWS)
            writer.write_table(table, row_group_size=-(-len(table) // groups))
            total += len(table)
            del table
            pa.default_memory_pool().release_unused()
        marks.overflow_rows = min(total, overflow_rows_of(inputs))
    for run in runs:
        run.path.unlink()
        run.list_path.unlink()
    return total


def _max_label_columns(inputs: Sequence[Path]) -> int:
    """The bound on label columns: that of commits by default, or of the widest input."""
    always = always_named(METRICS.ray_labels)
    widest = MAX_LABEL_COLUMNS
    for path in inputs:
        names = pq.read_schema(path).names
        labels = [
            name
            for name in names
            if name not in schema.METRIC_TYPES
            and name.lower() not in always
            and not schema.is_of_header(name)
        ]
        widest = max(widest, len(labels))
    return widest


def _target_type(name: str) -> pa.DataType:
    kind = schema.METRIC_TYPES.get(name, pa.string())
    return TEXT if pa.types.is_string(kind) else kind


def _series_ids(inputs: Sequence[Path]) -> pa.Array:
    """The ids of all series of some parts; equal rows have equal ids."""
    ids: set[int] = set()
    for path in inputs:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(READ_ROWS, columns=["series_id"]):
                ids.update(batch.column("series_id").unique().to_pylist())
    return pa.array(ids, pa.int64())


def _run_tables(
    inputs: Sequence[Path], held: set[str], long: LongTexts, wanted: pa.Array | None = None
) -> Iterator[tuple[pa.Table, SeriesTable]]:
    """The points of all inputs in tables that fit a run, and their series.

    `wanted`: ids of series; None for all. Adds to `held` the columns that hold anything.
    """
    waiting: list[pa.Table] = []
    series = SeriesTable(long)
    rows = size = 0
    for number, path in enumerate(inputs):
        for batch in _batches(path, held):
            if wanted is not None:
                batch = batch.filter(pc.is_in(batch.column("series_id"), wanted))
                if not len(batch):
                    continue
            points = _points(batch, series, number)
            waiting.append(points)
            rows, size = rows + len(points), size + points.nbytes
            enough = rows >= RUN_ROWS or size >= RUN_POINT_BYTES
            if enough or series.size_bytes >= RUN_SERIES_BYTES:
                yield _joined(waiting), series
                waiting, series, rows, size = [], SeriesTable(long), 0, 0
    if waiting:
        yield _joined(waiting), series


def _batches(path: Path, held: set[str]) -> Iterator[pa.RecordBatch]:
    """A part's rows, with the columns that hold anything."""
    metadata = pq.read_metadata(path)
    columns = metadata.schema.to_arrow_schema()
    present = _held(metadata)
    held |= present
    held_columns = [column for column in columns if column.name in present]
    texts = [column.name for column in held_columns if pa.types.is_string(column.type)]
    with pq.ParquetFile(path, metadata=metadata, read_dictionary=texts) as file:
        wanted = [name for name in columns.names if name in present]
        rows = _rows_at_once(metadata, len(wanted))
        for batch in file.iter_batches(rows, columns=wanted):
            if len(batch):
                yield batch


def _rows_at_once(metadata: pq.FileMetaData, columns: int) -> int:
    """How many rows of a part fit READ_BYTES, as codes, numbers and lists."""
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    # what has no dictionary is as large in memory as in the file before compression
    plain = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(READ_ROWS, READ_BYTES // (plain + 4 * columns + 1)))


def _held(metadata: pq.FileMetaData) -> set[str]:
    """The columns that are not known to be null throughout."""
    names: set[str] = set()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            told = column.statistics
            if told is None or not told.has_null_count or told.null_count < column.num_values:
                names.add(column.path_in_schema.partition(".")[0])
    return names


def _points(batch: pa.RecordBatch, series: SeriesTable, number: int) -> pa.Table:
    """A batch of an input whose columns of series are replaced by one number."""
    own = [name for name in POINT_COLUMNS if name in batch.schema.names]
    numbers = series.numbers(batch.select([n for n in batch.schema.names if is_of_series(n)]))
    rest = _below_a_microsecond(batch.column("time_unix_nano"))
    arrays = [pa.array(numbers), pa.array(np.full(len(batch), number, np.int32)), pa.array(rest)]
    for name in own:
        arrays.append(schema.in_microseconds(batch.column(name), _target_type(name)))
    return pa.table(arrays, names=[_SERIES, repeats.INPUT, repeats.REST, *own])


def _below_a_microsecond(time: pa.Array) -> npt.NDArray[np.int16]:
    """The nanoseconds below a microsecond, of a part of 0.1.0; -1 where they were not kept."""
    if time.type.unit != "ns":
        return np.full(len(time), -1, np.int16)
    rest: npt.NDArray[np.int16] = (time.cast(pa.int64()).to_numpy() % 1000).astype(np.int16)
    return rest


def _joined(tables: list[pa.Table]) -> pa.Table:
    joined = pa.concat_tables(tables, promote_options="default")
    return joined.unify_dictionaries().combine_chunks()


def _integers(table: pa.Table, name: str) -> Ints:
    column = table.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    values: Ints = column.to_numpy()
    return values


def _write_run(table: pa.Table, series: SeriesTable, path: Path) -> _Run:
    """Sort points by series and time, and write them with the list of their series."""
    run = _Run(path)
    order, entries = series.in_order()
    position = np.empty(len(order), dtype=np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)
    numbers = position[_integers(table, _SERIES)]
    counts = np.bincount(numbers, minlength=len(order))
    sizes = np.bincount(numbers, _row_bytes(table), minlength=len(order)).astype(np.int64)
    rows = _order(numbers, _integers(table, "time_unix_nano"))
    table = table.set_column(0, _SERIES, pa.array(numbers))
    fitting = max(1, min(SPILL_BATCH_ROWS, SPILL_BATCH_BYTES * len(table) // (table.nbytes + 1)))
    run.batch_rows = 1 << (fitting.bit_length() - 1)  # so that steps are whole batches
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        # a stretch at a time: the rows in order would be a second copy of all
        for first in range(0, len(rows), RUN_STEP_ROWS):
            some = table.take(pa.array(rows[first : first + RUN_STEP_ROWS])).combine_chunks()
            writer.write_table(some, max_chunksize=run.batch_rows)
    _write_list(run, entries, counts.tolist(), sizes.tolist())
    return run


def _row_bytes(table: pa.Table) -> Ints:
    """About how many bytes each row of points takes."""
    sizes = np.full(len(table), 8 * table.num_columns, np.int64)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_list(column.type) and column.null_count < len(column):
            member = _EXEMPLAR_BYTES if name == "data_point_exemplars" else 8
            sizes += pc.list_value_length(column).fill_null(0).to_numpy() * member
    return sizes


def _write_list(run: _Run, entries: Iterator[Entry], counts: list[int], sizes: list[int]) -> None:
    """Write the list of a run's series, in batches of a bounded size."""
    waiting: list[tuple[bytes, bytes, int, int]] = []
    waiting_bytes = 0
    with pa.OSFile(str(run.list_path), "wb") as sink, pa.ipc.new_file(sink, _LISTED) as writer:

        def write() -> None:
            columns = zip(zip(*waiting, strict=True), _LISTED.types, strict=True)
            arrays = [pa.array(values, kind) for values, kind in columns]
            writer.write_batch(pa.record_batch(arrays, schema=_LISTED))
            waiting.clear()

        for entry, count, size in zip(entries, counts, sizes, strict=True):
            waiting.append((entry.key, entry.content, count, size))
            waiting_bytes += len(entry.key) + len(entry.content)
            if waiting_bytes >= LIST_BATCH_BYTES or len(waiting) >= LIST_BATCH_ROWS:
                write()
                waiting_bytes = 0
        if waiting:
            write()


def _order(ranks: npt.NDArray[np.integer], time: Ints, arrived: Ints | None = None) -> Ints:
    """Rows by rank, time and arrival; what is equal in all of them stays as it is."""
    start = int(time.min())
    span = int(time.max()) - start + 1
    if (int(ranks.max()) + 1) * span >= 2**63:
        return np.lexsort((time, ranks) if arrived is None else (arrived, time, ranks))
    both = ranks.astype(np.int64) * span + (time - start)
    order: Ints = np.argsort(both, kind="stable")
    if arrived is not None:
        both = both[order]
        if (both[1:] == both[:-1]).any():
            return np.lexsort((arrived, time, ranks))
    return order


def _listed(run: _Run, number: int) -> Iterator[tuple[bytes, int, Entry, int, int]]:
    with pa.OSFile(str(run.list_path)) as source:
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            columns = [column.to_pylist() for column in reader.get_batch(index).columns]
            for key, content, rows, size in zip(*columns, strict=True):
                yield key, number, Entry(key, content), rows, size


def _blocks(runs: list[_Run], columns: int) -> Iterator[_Block]:
    block, last_key = _Block(columns), b""
    listed = (_listed(run, number) for number, run in enumerate(runs))
    for key, number, entry, rows, size in heapq.merge(*listed, key=lambda record: record[:2]):
        if key != last_key and block.is_full():
            yield block
            block = _Block(columns)
        block.add(number, entry, rows, size, is_new_key=key != last_key)
        last_key = key
    if block.contents:
        yield block


def _stretch(run: _Run, rows: int, numbers: list[int]) -> pa.Table:
    """The next rows of a run, their series numbered as in the block."""
    with pa.OSFile(str(run.path)) as source:
        reader = pa.ipc.open_file(source)
        first = run.taken // run.batch_rows
        last = (run.taken + rows - 1) // run.batch_rows
        batches = [reader.get_batch(index) for index in range(first, last + 1)]
        table = pa.Table.from_batches(batches).slice(run.taken % run.batch_rows, rows)
    own = np.array(numbers, dtype=np.int32)[_integers(table, _SERIES) - run.listed]
    run.taken += rows
    run.listed += len(numbers)
    return table.set_column(0, _SERIES, pa.array(own))


def _ordered(
    runs: list[_Run],
    block: _Block,
    spelled: Mapping[str, str],
    target: pa.Schema,
    long: LongTexts,
) -> pa.Table:
    """All rows of a block by series, time and arrival, each point once, with all columns."""
    points = _joined(
        [_stretch(runs[run], rows, block.numbers[run]) for run, rows in block.rows.items()]
    )
    beside = np.repeat([runs[run].is_beside for run in block.rows], list(block.rows.values()))
    numbers = _integers(points, _SERIES)
    ranks = np.array(block.ranks, dtype=np.int64)[numbers]
    times = _integers(points, "time_unix_nano")
    arrived = np.where(beside, np.iinfo(np.int64).min, _integers(points, "p_timestamp"))
    order = _order(ranks, times, arrived)
    points = points.take(pa.array(order)).combine_chunks()
    ranks, times, numbers, beside = ranks[order], times[order], numbers[order], beside[order]
    same = (ranks[1:] == ranks[:-1]) & (times[1:] == times[:-1])
    keep = repeats.kept(points, same, beside)
    if not keep.all():
        points, numbers = points.filter(pa.array(keep)).combine_chunks(), numbers[keep]
    # a series that only parts beside have may have columns that the output lacks
    used, numbers = np.unique(numbers, return_inverse=True)
    contents = list(block.contents)
    of_series = series_columns([contents[number] for number in used.tolist()], spelled, long)
    place = pa.array(numbers)
    arrays = []
    nulls: dict[pa.DataType, pa.Array] = {}
    for column in target:
        if column.name in of_series:
            arrays.append(of_series[column.name].take(place))
        elif column.name in points.column_names:
            arrays.append(points.column(column.name))
        else:
            # one array serves all columns of a type
            if column.type not in nulls:
                nulls[column.type] = pa.nulls(len(points), column.type)
            arrays.append(nulls[column.type])
    return pa.table(arrays, schema=target)
