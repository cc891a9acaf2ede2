"""Results as a table, fitted to the terminal; in a pipe as wide as it needs to be."""

from __future__ import annotations

import itertools
from typing import IO

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayotel.query.output.formats import MAX_TABLE_ROWS, Batches, rows, short

WIDTH_IN_A_PIPE = 100_000


def write_table(
    schema: pa.Schema, batches: Batches, out: IO[str], *, width: int | None = None
) -> int | None:
    """Write at most MAX_TABLE_ROWS rows; returns how many were shown where some were left out.

    `width`: of the terminal that `out` leads to, where it is not itself the terminal.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for field in schema:
        is_number = (
            pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_decimal(field.type)
        )
        table.add_column(
            Text(field.name), justify="right" if is_number else "left", overflow="fold"
        )
    shown = rows(batches)
    for row in itertools.islice(shown, MAX_TABLE_ROWS):
        table.add_row(*(Text(short(value)) for value in row))
    left_out = next(shown, None) is not None
    is_terminal = None if width is None else True
    console = Console(file=out, highlight=False, width=width, force_terminal=is_terminal)
    if not console.is_terminal:
        console = Console(file=out, highlight=False, width=WIDTH_IN_A_PIPE)
    console.print(table)
    return MAX_TABLE_ROWS if left_out else None
