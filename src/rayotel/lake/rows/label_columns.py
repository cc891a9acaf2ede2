"""The label columns of a stream, and the text of labels that have no column."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rayotel.lake import schema


class LabelColumns:
    """The label columns of a stream, first come first served, up to a bound.

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

    def spelling(self, columns: Iterable[str]) -> dict[str, str]:
        """The columns of a file that has these labels, by their names in lower case.

        A column is spelled like the first in ASCII order of the names that share it.
        """
        spelled: dict[str, str] = {}
        for column in sorted(columns):
            if self.admit(column):
                spelled.setdefault(column.lower(), column)
        return spelled


def overflow_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels without a column as JSON: a text, or a list of the texts in the order sent."""
    grouped: dict[str, list[str]] = {}
    for column, text in pairs:
        grouped.setdefault(column, []).append(text)
    flat = {column: texts[0] if len(texts) == 1 else texts for column, texts in grouped.items()}
    return json.dumps(flat, ensure_ascii=False, sort_keys=True)
