"""Tables: the rows of a commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Tables:
    """Tables of one stream by hour since 1970.

    `ids`: of rows with an id, in order of arrival; `left_out`: the number of rows that were stored
    before.
    """

    by_hour: Mapping[int, pa.Table]
    ids: Sequence[str] = ()
    left_out: int = 0
