"""The labels of a stream that have a column."""

from __future__ import annotations

from rayotel.lake import schema


class LabelColumns:
    """Which label columns a stream has, first come first served, up to a bound.

    Compared without case: names that differ only in case share a column (rule 2 of `schema`).
    """

    def __init__(self, max_columns: int) -> None:
        self._max_columns = max_columns
        self._known: set[str] = set()

    def admit(self, column: str) -> bool:
        """Whether this column may be used; a new one is remembered while there is room."""
        folded = column.lower()
        if folded in self._known:
            return True
        if len(self._known) >= self._max_columns or not schema.fits_a_column(column):
            return False
        self._known.add(folded)
        return True
