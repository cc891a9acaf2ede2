"""Tables: the rows of a commit, hour by hour, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rayotel.lake.parts import HourRows

# whether the rows of an hour, counted since 1970, are to be made
Wanted: TypeAlias = Callable[[int], bool]


def every_hour(hour: int) -> bool:
    """Whether an hour's rows are wanted: yes."""
    del hour
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """The rows of one stream in the hours wanted, oldest hour first; `hours` can be read once.

    `ids`: of rows with an id, in order of arrival; `left_out`: how many rows were left out because
    they repeat others of the commit or were stored before.
    """

    hours: Iterator[HourRows]
    ids: Sequence[str] = ()
    left_out: int = 0
