"""Which segments the name of a part spans.

A part's name says that it holds all rows that its segments have for its stream and hour. Segments
without such rows can be spanned too, and are: so the parts of an hour follow one another without
gaps, and merge to one part whose name is short. Only what this run itself committed, in order, is
known well enough for that. Of an earlier run's segments the name lists what the group has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rayotel.ingest.wal.waiting import Segment
from rayotel.lake.layout import Span, Spans, joined

MAX_PLACES_REMEMBERED = 100_000  # streams and hours; about 150 bytes each
Place = tuple[str, int]


class Names:
    """The spans of the parts of one run. `open` before use."""

    def __init__(self) -> None:
        self._epoch = ""
        self._first = 0
        self._next: dict[Place, int] = {}

    def open(self, epoch: str, first: int) -> None:
        """This run's epoch, and its first segment: no place had a part of it before."""
        self._epoch, self._first = epoch, first

    def spans(self, group: Sequence[Segment], place: Place) -> Spans:
        """What the name of a group's part of a stream and hour spans."""
        own = [segment.number for segment in group if segment.epoch == self._epoch]
        spans = [Span(s.epoch, s.number, s.number) for s in group if s.epoch != self._epoch]
        if own:
            start = self._next.get(place, self._first)
            spans.append(Span(self._epoch, min(start, own[0]), own[-1]))
        return joined(spans)

    def written(self, group: Sequence[Segment], places: Iterable[Place]) -> None:
        """All parts of a group are on storage; `places`: of its parts."""
        own = [segment.number for segment in group if segment.epoch == self._epoch]
        if not own:
            return
        if len(self._next) > MAX_PLACES_REMEMBERED:
            # what is forgotten may have had a part up to here
            self._first = max(self._next.values())
            self._next.clear()
        self._next.update(dict.fromkeys(places, own[-1] + 1))
