"""Which labels of an hour get a column of their own, and the text of those that have none.

The choice looks at the rows of one part alone. So a part that is made again has the same columns,
whatever came before it, and labels that a sender invents once never keep others out for good. A
stream can have more columns than one part; no part has more than the bounds.

- Labels that Ray gives always have a column.
- So have the labels of headers, up to MAX_HEADER_COLUMNS.
- All others have one up to the setting `max_label_columns`.

Beyond a bound the labels of most series come first, and of equals the first in ASCII order.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rayotel.lake import schema

MAX_HEADER_COLUMNS = 100
# the least bound of merged parts: commits have a setting, whose default it is
MAX_LABEL_COLUMNS = 512


@dataclass(frozen=True, slots=True)
class ChosenLabels:
    """The label columns of a part. `spelled`: by their names in lower case.

    A column is spelled like the first in ASCII order of the labels that share it. `beyond`: names
    in lower case that have no column because of a bound.
    """

    spelled: Mapping[str, str]
    beyond: frozenset[str]


def chosen(counts: Mapping[str, int], always: Collection[str], max_columns: int) -> ChosenLabels:
    """The label columns of rows whose labels have these names, each on so many series.

    `always`: names in lower case that have a column whatever the bounds.
    """
    spelled: dict[str, str] = {}
    folded_counts: dict[str, int] = {}
    for name in sorted(counts):
        if schema.fits_a_column(name):
            folded = name.lower()
            spelled.setdefault(folded, name)
            folded_counts[folded] = folded_counts.get(folded, 0) + counts[name]
    beyond: set[str] = set()
    if len(spelled) > min(max_columns, MAX_HEADER_COLUMNS):
        bounded = [name for name in spelled if name not in always]
        headers = [name for name in bounded if schema.is_of_header(name)]
        others = [name for name in bounded if not schema.is_of_header(name)]
        for names, bound in ((headers, MAX_HEADER_COLUMNS), (others, max_columns)):
            names.sort(key=lambda name: (-folded_counts[name], name))
            beyond.update(names[bound:])
    kept = {folded: name for folded, name in spelled.items() if folded not in beyond}
    return ChosenLabels(kept, frozenset(beyond))


def always_named(labels: Iterable[str]) -> frozenset[str]:
    """Labels that have a column whatever the bounds, as `chosen` wants them."""
    return frozenset(label.lower() for label in labels)


def overflow_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels without a column as JSON: a text, or a list of the texts in the order sent."""
    grouped: dict[str, list[str]] = {}
    for column, text in pairs:
        grouped.setdefault(column, []).append(text)
    flat = {column: texts[0] if len(texts) == 1 else texts for column, texts in grouped.items()}
    return json.dumps(flat, ensure_ascii=False, sort_keys=True)


def member_text(column: str, text: str) -> str:
    """One label as a member of such an object."""
    return f"{json.dumps(column, ensure_ascii=False)}: {json.dumps(text, ensure_ascii=False)}"
