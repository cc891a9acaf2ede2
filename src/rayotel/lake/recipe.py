"""How the columns of a part become bytes.

In all parts, text is dictionary-encoded and doubles are split by byte. An empty column gets no
dictionary. Arrow's own schema is left out of the file, so every reader gets plain Parquet types.

A committed part is small and soon merged, so it is written for speed with snappy. Setting up zstd
for each of 90 columns costs more than it saves, both in writing and in merging.

A merged part is written for size, as measured by `benchmarks/storage.py` on values that vary:

- zstd 9. Higher levels save a few percent of the bytes for twice the time.
- One page per column and row group. zstd finds the times of a series again in the next series of
  its target, and the worker ids of a metric in the next metric, but never across pages.
- Times are plain. A dictionary of times would be written once per row group, and be most of it.
- Counts of histograms have no dictionary, because values hardly ever repeat. Totals are packed as
  differences, counts of buckets are plain. (Split by byte the latter would be smaller, but DuckDB
  1.5 reads that encoding of floating point only.)
- 262,144 rows a row group. Against 131,072 this halves the bytes that are written once per row
  group (footer, dictionaries, distinct times). One metric of an hour is still a small part of it.
- Statistics of the metric's name and of every column except text. Rows are sorted by metric first,
  so statistics of labels would prune next to nothing, and cost a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow as pa

ROW_GROUP_ROWS = 262_144


@dataclass(frozen=True, slots=True)
class Recipe:
    """How columns become bytes. `differences`: integers packed so. `split`: doubles, by byte.

    `long`: texts that are long and all different. `sorted_by`: the text by which rows are sorted
    first, and the only one with statistics. `held`: the columns that are not all null; None:
    unknown.
    """

    compression: str
    level: int | None
    sorted_by: str
    plain: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    long: tuple[str, ...] = ()
    page_bytes: int | None = None
    page_rows: int | None = None
    held: frozenset[str] | None = None

    def holding(self, columns: Iterable[str]) -> Recipe:
        """The same for a part whose columns that are not all null are known."""
        return replace(self, held=frozenset(columns))

    def has_dictionary(self, column: str) -> bool:
        """Whether a column is dictionary-encoded."""
        is_held = self.held is None or column in self.held
        special = (*self.split, *self.long, *self.plain, *self.differences)
        return is_held and column not in special

    def has_statistics(self, field: pa.Field) -> bool:
        """Whether a column has its least and greatest value written down."""
        is_text = pa.types.is_dictionary(field.type) or field.name in self.long
        return field.name == self.sorted_by or not is_text


def committed(recipe: Recipe) -> Recipe:
    """The recipe of fresh parts by that of merged ones."""
    return replace(
        recipe, compression="snappy", level=None, plain=(), differences=(), page_bytes=None,
        page_rows=None,
    )  # fmt: skip
