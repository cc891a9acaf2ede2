"""What one request has used of the bounds of a whole request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rayotel.ingest.decode.limits import bounds
from rayotel.ingest.decode.limits.bounds import CHARACTER_BYTES, LABEL_TEXT_BYTES, Rejected
from rayotel.model import NANOSECONDS_PER_HOUR, Points, Series

if TYPE_CHECKING:
    from rayotel.model import Int64s


class Budget:
    """Counts what is accepted, and refuses the first thing beyond a bound and all like it.

    The order of a body alone decides, never what is remembered of earlier requests. So decoding
    again gives the same rows. `was_exceeded`: whether anything was refused.
    """

    def __init__(self) -> None:
        self.was_exceeded = False
        self._scopes = self._metrics = self._points = self._series = 0
        self._text_bytes = self._numbers = self._exemplars = 0
        self._columns: set[str] = set()
        self._hours: set[int] = set()

    def _reject(self, reason: str) -> Rejected:
        self.was_exceeded = True
        return Rejected(reason)

    def scope(self) -> None:
        """One more scope. Raises Rejected, as all of these do."""
        if self._scopes >= bounds.MAX_REQUEST_SCOPES:
            raise self._reject(bounds.REQUEST_SCOPES)
        self._scopes += 1

    def metric(self) -> None:
        """One more metric."""
        if self._metrics >= bounds.MAX_REQUEST_METRICS:
            raise self._reject(bounds.REQUEST_METRICS)
        self._metrics += 1

    def point(self, time: int, numbers: int, exemplars: int) -> None:
        """One more point, with this many buckets or quantiles and exemplars."""
        if numbers > bounds.MAX_POINT_NUMBERS:
            raise Rejected(bounds.MANY_NUMBERS)
        if exemplars > bounds.MAX_POINT_EXEMPLARS:
            raise Rejected(bounds.MANY_EXEMPLARS)
        hour = time // NANOSECONDS_PER_HOUR
        if self._points >= bounds.MAX_REQUEST_POINTS:
            raise self._reject(bounds.REQUEST_POINTS)
        if self._numbers + numbers > bounds.MAX_REQUEST_NUMBERS:
            raise self._reject(bounds.REQUEST_NUMBERS)
        if self._exemplars + exemplars > bounds.MAX_REQUEST_EXEMPLARS:
            raise self._reject(bounds.REQUEST_EXEMPLARS)
        if hour not in self._hours:
            if len(self._hours) >= bounds.MAX_REQUEST_HOURS:
                raise self._reject(bounds.REQUEST_HOURS)
            self._hours.add(hour)
        self._points += 1
        self._numbers += numbers
        self._exemplars += exemplars

    def new_series(self, shared_text_bytes: int = 0) -> None:
        """One more series, before it is made; it counts also where it is rejected then.

        `shared_text_bytes`: what its scope gives to its texts.
        """
        if self._series >= bounds.MAX_REQUEST_SERIES:
            raise self._reject(bounds.REQUEST_SERIES)
        self._series += 1
        if self._text_bytes + shared_text_bytes > bounds.MAX_REQUEST_TEXT_BYTES:
            raise self._reject(bounds.LONG_REQUEST)

    def texts(self, series: Series) -> None:
        """The texts and columns of one more series."""
        text = text_bytes(series)
        if self._text_bytes + text > bounds.MAX_REQUEST_TEXT_BYTES:
            raise self._reject(bounds.LONG_REQUEST)
        columns = self._columns
        new = {pair[0] for pair in series.labels if pair[0] not in columns}
        new.update(pair[0] for pair in series.spare)
        new -= columns
        if new and len(columns) + len(new) > bounds.MAX_REQUEST_COLUMNS:
            raise self._reject(bounds.REQUEST_COLUMNS)
        columns |= new
        self._text_bytes += text


def text_bytes(series: Series) -> int:
    """What the texts of a series cost, those that it shares with others too."""
    return text_of_labels(series.labels) + text_of_labels(series.spare)


def text_of_labels(labels: Iterable[tuple[str, str]]) -> int:
    """What columns and texts cost a series."""
    return sum([LABEL_TEXT_BYTES + len(column) + _bytes_of(text) for column, text in labels])


def _bytes_of(text: str) -> int:
    """An upper estimate of a text's size."""
    return len(text) if text.isascii() else CHARACTER_BYTES * len(text)


def is_within(series: Iterable[Series], chunks: Sequence[Points]) -> bool:
    """Whether series and points of a whole request surely stay within a `Budget`."""
    budget = Budget()
    try:
        for distinct in {id(one): one for one in series}.values():
            budget.new_series()
            budget.texts(distinct)
    except Rejected:
        return False
    return sum(map(len, chunks)) <= bounds.MAX_REQUEST_POINTS and are_few_hours(
        [points.time for points in chunks]
    )


def are_few_hours(times: Sequence[Int64s]) -> bool:
    """Whether these times are of no more hours than a request may have."""
    if sum(map(len, times)) <= bounds.MAX_REQUEST_HOURS:
        return True
    hours = np.unique(np.concatenate(times) // NANOSECONDS_PER_HOUR)
    return len(hours) <= bounds.MAX_REQUEST_HOURS
