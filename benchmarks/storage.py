"""What a row costs on storage: the recorded cluster tiled to a day, compacted, column by column.

    storage.py [HOURS] [CLUSTERS] [--churn]

Each quarter of an hour of each cluster is the recorded one, with everything moved that varies:

- A gauge's samples are rotated by a random number of scrapes, and scaled by a factor between 0.8
  and 1.25, both drawn anew per series and quarter. One that never changes is scaled per cluster.
- A counter's increments, and those of a histogram's buckets, are rotated and scaled so too, and go
  on from where the quarter before ended. Resets are left out.
- Results are rounded to the grain that all recorded values of the series have (4096 bytes, say, or
  a hundredth); where they have none, the product's full mantissa stays.
- Every target of a cluster is scraped at a random phase, every scrape is late by its own random
  nanoseconds, and so is its arrival.
- Clusters differ in instance, worker ids and series ids. With --churn, series that did not live
  through the recorded quarter are new ones, of new workers, in every quarter.

Nothing but what is constant in a series repeats from tile to tile. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from compaction import recorded_tables
from rayotel.lake import parts
from rayotel.lake.merge.metrics import merge
from rayotel.lake.merge.series import TEXT
from rayotel.lake.recipe import ROW_GROUP_ROWS, Recipe
from rayotel.lake.schema import TIMESTAMP
from rayotel.lake.signal import METRICS
from rayotel.model import NANOSECONDS_PER_HOUR
from support.lakes import part

FIRST_HOUR = 490_000
QUARTER = NANOSECONDS_PER_HOUR // 4
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def grain(values: Floats) -> float:
    """The largest simple step that all values are multiples of; 0 where there is none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 1.0
    if (values == np.round(values)).all():
        is_constant = bool((values == values[0]).all())
        if is_constant or np.abs(values).max() >= 2**62:
            return 1.0
        return float(max(1, np.gcd.reduce(np.abs(values).astype(np.int64))))
    steps = [10.0**digits for digits in range(1, 10)] + [2.0**bits for bits in (10, 20, 30)]
    for fine in steps:
        if (np.round(values * fine) / fine == values).all():
            return 1 / fine
    return 0.0


@dataclass(slots=True)
class Column:
    """A column of values in order of series and time: of rows, or of the members of lists.

    `place`: the sample within its lane, `lane`: a series, or one bucket of one.
    """

    values: Floats
    lane: Ints
    start: Ints
    length: Ints
    is_counter: npt.NDArray[np.bool_]
    grains: Floats

    @classmethod
    def of(cls, values: Floats, lane: Ints, is_counter: npt.NDArray[np.bool_]) -> Column:
        """Sorted by lane; `is_counter` per lane."""
        _, start, length = np.unique(lane, return_index=True, return_counts=True)
        lane = np.repeat(np.arange(len(start)), length)
        grains = np.array([grain(values[a : a + n]) for a, n in zip(start, length, strict=True)])
        return cls(values, lane, start, length, is_counter, grains)

    def tile(self, constant: Floats, carried: Floats, rng: np.random.Generator) -> Floats:
        """Another quarter. `constant`: factors of gauges that never change; `carried`: counters."""
        lanes = len(self.start)
        factor, shift = rng.uniform(0.8, 1.25, lanes), rng.integers(0, 1 << 30, lanes)
        row = np.arange(len(self.values)) - self.start[self.lane]
        length = self.length[self.lane]
        source = self.start[self.lane] + (row + shift[self.lane]) % length
        lows = np.minimum.reduceat(self.values, self.start)
        highs = np.maximum.reduceat(self.values, self.start)
        factor = np.where((lows == highs) & ~self.is_counter, constant, factor)
        gauges = self._rounded(self.values[source] * factor[self.lane])
        steps = np.diff(self.values, prepend=0)
        steps[self.start] = 0
        steps = np.where(np.isfinite(steps), np.maximum(steps, 0), 0)[source] * factor[self.lane]
        steps = self._rounded(steps)
        total = np.cumsum(steps)
        before = total[self.start] - steps[self.start]
        counters = self._rounded(
            self.values[self.start][self.lane] + carried[self.lane] + total - before[self.lane]
        )
        last = self.start + self.length - 1
        carried += np.where(self.is_counter, total[last] - before, 0)
        return np.where(self.is_counter[self.lane], counters, gauges)

    def _rounded(self, values: Floats) -> Floats:
        step = self.grains[self.lane]
        safe = np.where(step > 0, step, 1)
        # a hundredth is not 1 * 0.01 but 1 / 100
        fine = np.where(safe < 1, np.round(1 / safe), 1)
        rounded = np.where(safe < 1, np.round(values * fine) / fine, np.round(values / safe) * safe)
        return np.where((step > 0) & np.isfinite(values), rounded, values)


class Recorded:
    """The recorded quarter as columns, sorted by series and time."""

    def __init__(self) -> None:
        table = pa.concat_tables(recorded_tables(), promote_options="default")
        wide = [
            pa.field(one.name, TEXT if pa.types.is_dictionary(one.type) else one.type)
            for one in table.schema
        ]
        table = table.cast(pa.schema(wide)).unify_dictionaries()
        ids = table.column("series_id").to_numpy()
        times = table.column("time_unix_nano").cast(pa.int64()).to_numpy()
        order = np.lexsort((times, ids))
        self.table = table.take(pa.array(order)).combine_chunks()
        ids, times = ids[order], times[order]
        self.first = int(times.min())
        self.ids, series = np.unique(ids, return_inverse=True)
        self.series: Ints = series.astype(np.int64)
        _, start, count = np.unique(series, return_index=True, return_counts=True)
        end = times[start + count - 1]
        margin = 30 * 10**9
        self.is_short = (times[start] > times.min() + margin) | (end < times.max() - margin)
        self.scrapes, self.scrape = np.unique(times, return_inverse=True)
        instance = self.table.column("metric_instance").combine_chunks()
        self.target = np.zeros(len(self.scrapes), dtype=np.int64)
        self.target[self.scrape] = instance.indices.to_numpy()
        kinds = np.array(self.table.column("metric_type").to_pylist(), dtype=object)[start]
        sums = self.table.column("is_monotonic").fill_null(False).to_numpy()[start]
        is_counter = sums | (kinds == "histogram")
        self.columns: dict[str, tuple[Column, Ints]] = {}
        for name in ("data_point_value", "data_point_count", "data_point_sum"):
            column = self.table.column(name)
            rows = np.flatnonzero(~column.is_null().to_numpy())
            values = column.to_numpy()[rows].astype(np.float64)
            lanes = self.series[rows]
            self.columns[name] = (Column.of(values, lanes, is_counter[np.unique(lanes)]), rows)
        self._buckets()

    def _buckets(self) -> None:
        lists = self.table.column("data_point_bucket_counts").combine_chunks()
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
        rows = np.repeat(np.arange(len(lengths)), lengths)
        bucket = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        lane = self.series[rows] * 1000 + bucket
        # from order of rows to order of lanes
        self.by_lane = np.argsort(lane, kind="stable")
        values = lists.flatten().to_numpy().astype(np.float64)[self.by_lane]
        lanes = lane[self.by_lane]
        self.buckets = Column.of(values, lanes, np.ones(len(np.unique(lanes)), dtype=bool))


class Cluster:
    """Makes quarter after quarter of one cluster."""

    def __init__(self, recorded: Recorded, number: int, *, churn: bool) -> None:
        self._of, self._number, self._churn = recorded, number, churn
        self._rng = np.random.default_rng(number)
        self._phase = self._rng.integers(0, 10 * 10**9, 64)
        columns = {name: one for name, (one, _) in recorded.columns.items()}
        columns["buckets"] = recorded.buckets
        self._factors = {n: self._rng.uniform(0.8, 1.25, len(c.start)) for n, c in columns.items()}
        self._carried = {name: np.zeros(len(c.start)) for name, c in columns.items()}
        self._ids = self._fresh_ids()
        self._workers: list[str] = []

    def _fresh_ids(self) -> Ints:
        return self._rng.integers(-(2**63), 2**63 - 1, len(self._of.ids))

    def quarter(self, number: int) -> pa.Table:
        """The rows of one quarter of an hour."""
        of, rng = self._of, self._rng
        start = FIRST_HOUR * NANOSECONDS_PER_HOUR + number * QUARTER
        moved = of.scrapes - of.first + start + self._phase[of.target]
        # what runs over the quarter's end is still of its hour
        moved = start + (moved - start) % QUARTER + rng.integers(0, 3_000_000, len(moved))
        moved = np.minimum(moved, start + QUARTER - 1)
        arrived = moved + rng.integers(2_000_000, 900_000_000, len(moved))
        changed: dict[str, pa.Array] = {
            "time_unix_nano": pa.array(moved[of.scrape]).cast(TIMESTAMP),
            "p_timestamp": pa.array(arrived[of.scrape]).cast(TIMESTAMP),
        }
        if self._churn and number:
            self._ids = np.where(of.is_short, self._fresh_ids(), self._ids)
        changed["series_id"] = pa.array(self._ids[of.series])
        changed.update(self._labels(is_first=number == 0))
        for name, (column, rows) in of.columns.items():
            values = column.tile(self._factors[name], self._carried[name], rng)
            full = np.zeros(len(of.series))
            full[rows] = values
            mask = np.ones(len(full), dtype=bool)
            mask[rows] = False
            kind = of.table.schema.field(name).type
            changed[name] = pa.array(full.astype(kind.to_pandas_dtype()), kind, mask=mask)
        buckets = of.buckets.tile(self._factors["buckets"], self._carried["buckets"], rng)
        counts = np.empty(len(buckets), dtype=np.int64)
        counts[of.by_lane] = buckets
        lists = of.table.column("data_point_bucket_counts").combine_chunks()
        changed["data_point_bucket_counts"] = pa.ListArray.from_arrays(
            lists.offsets, pa.array(counts), mask=lists.is_null()
        )
        table = of.table
        for name, array in changed.items():
            table = table.set_column(table.column_names.index(name), name, array)
        return table

    def _labels(self, *, is_first: bool) -> dict[str, pa.Array]:
        instance = self._of.table.column("metric_instance").combine_chunks()
        named = [f"c{self._number}-{text}" for text in instance.dictionary.to_pylist()]
        worker = self._of.table.column("metric_WorkerId").combine_chunks()
        if is_first:
            self._workers = [self._rng.bytes(28).hex() for _ in worker.dictionary]
        elif self._churn:
            short = np.zeros(len(worker.dictionary), dtype=bool)
            rows = np.flatnonzero(~worker.is_null().to_numpy(zero_copy_only=False))
            codes = worker.indices.fill_null(0).to_numpy()[rows]
            short[codes] = self._of.is_short[self._of.series[rows]]
            for at in np.flatnonzero(short):
                self._workers[at] = self._rng.bytes(28).hex()
        return {
            "metric_instance": pa.DictionaryArray.from_arrays(instance.indices, pa.array(named)),
            "metric_WorkerId": pa.DictionaryArray.from_arrays(
                worker.indices, pa.array(self._workers)
            ),
        }


def column_bytes(path: Path) -> Counter[str]:
    """Bytes of a part by column; what is neither is the footer and page headers' frame."""
    metadata = pq.read_metadata(path)
    found: Counter[str] = Counter()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            found[column.path_in_schema.partition(".")[0]] += column.total_compressed_size
    found["(footer)"] = path.stat().st_size - sum(found.values())
    return found


ALTERNATIVES: dict[str, tuple[Recipe, int]] = {
    "as chosen": (METRICS.merged, ROW_GROUP_ROWS),
    "65,536 rows a row group": (METRICS.merged, 65_536),
    "131,072 rows a row group": (METRICS.merged, 131_072),
    "524,288 rows a row group": (METRICS.merged, 524_288),
    "zstd 3": (replace(METRICS.merged, level=3), ROW_GROUP_ROWS),
    "zstd 15": (replace(METRICS.merged, level=15), ROW_GROUP_ROWS),
    "zstd 19": (replace(METRICS.merged, level=19), ROW_GROUP_ROWS),
    "pages of 1 MiB, 20,000 rows": (
        replace(METRICS.merged, page_bytes=None, page_rows=None),
        ROW_GROUP_ROWS,
    ),
    "times with a dictionary": (replace(METRICS.merged, plain=()), ROW_GROUP_ROWS),
    "times as differences": (
        replace(METRICS.merged, plain=(), differences=(*METRICS.merged.plain, "data_point_count")),
        ROW_GROUP_ROWS,
    ),
    "values plain": (
        replace(METRICS.merged, split=(), plain=(*METRICS.merged.plain, *METRICS.merged.split)),
        ROW_GROUP_ROWS,
    ),
    "series ids as differences": (
        replace(METRICS.merged, differences=("series_id", "data_point_count")),
        ROW_GROUP_ROWS,
    ),
}


def rewritten(path: Path, recipe: Recipe, group_rows: int) -> tuple[int, float]:
    """A merged part written otherwise, its rows as they are: bytes, CPU seconds of writing."""
    texts = [one.name for one in pq.read_schema(path) if pa.types.is_string(one.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        table = file.read().unify_dictionaries()
    held = [name for name in table.column_names if table.column(name).null_count < len(table)]
    other = path.with_suffix(".other")
    seconds = 0.0
    with parts.part_writer(
        other, table.schema, "s", METRICS, recipe.holding(held), parts.Marks()
    ) as writer:
        for start in range(0, len(table), group_rows):
            group = table.slice(start, group_rows).combine_chunks()
            for at, one in enumerate(group.schema):
                if pa.types.is_dictionary(one.type):  # only what the group holds
                    small = group.column(at).combine_chunks().dictionary_decode()
                    group = group.set_column(at, one, small.dictionary_encode())
            before = time.process_time()
            writer.write_table(group, row_group_size=group_rows)
            seconds += time.process_time() - before
    return other.stat().st_size, seconds


def compacted_hours(hours: int, clusters: int, churn: bool, work: Path) -> tuple[list[Path], int]:
    """Make hour after hour and merge each as the compactor does; the merged parts and all rows."""
    recorded = Recorded()
    made = [Cluster(recorded, number, churn=churn) for number in range(clusters)]
    found, rows = [], 0
    spill = work / "spill"
    spill.mkdir()
    for hour in range(hours):
        inputs = []
        for quarter in range(4 * hour, 4 * hour + 4):
            for number, cluster in enumerate(made):
                path = work / f"input-{quarter}-{number}.parquet"
                path.write_bytes(part(cluster.quarter(quarter)))
                inputs.append(path)
        output = work / f"hour-{hour}.parquet"
        rows += merge(inputs, output, "s", spill)
        found.append(output)
        for path in inputs:
            path.unlink()
    return found, rows


def main() -> None:
    """Make, compact, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("hours", type=int, nargs="?", default=24)
    parser.add_argument("clusters", type=int, nargs="?", default=1)
    parser.add_argument("--churn", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rayotel-bench-") as name:
        paths, rows = compacted_hours(asked.hours, asked.clusters, asked.churn, Path(name))
        bytes_by_column: Counter[str] = Counter()
        for path in paths:
            bytes_by_column.update(column_bytes(path))
        total = sum(bytes_by_column.values())
        print(f"{rows:,} rows, {asked.hours} hours, {asked.clusters} clusters\n")
        print("| column | bytes per row |\n| --- | ---: |")
        print(f"| all | {total / rows:.3f} |")
        for column, size in bytes_by_column.most_common(10):
            print(f"| {column} | {size / rows:.3f} |")
        count = pq.read_metadata(paths[-1]).num_rows
        print("\n| the last hour written otherwise | bytes per row | CPU, µs per row |")
        print("| --- | ---: | ---: |")
        for what, (recipe, group_rows) in ALTERNATIVES.items():
            size, seconds = rewritten(paths[-1], recipe, group_rows)
            print(f"| {what} | {size / count:.3f} | {seconds / count * 1e6:.2f} |")


if __name__ == "__main__":
    main()
