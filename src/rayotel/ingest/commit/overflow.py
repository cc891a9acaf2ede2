"""Rows whose labels are more than a part may have columns: counted, and told once per stream."""

from __future__ import annotations

import logging

from rayotel.logs import Once, log_event
from rayotel.telemetry import Telemetry

logger = logging.getLogger(__name__)


class OverflowTelling:
    """What an operator is told of labels without a column. For one thread."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._told = Once()

    def stored(self, stream: str, rows: int) -> None:
        """A part of this stream was written, in which so many rows have labels beyond the bound."""
        if not rows:
            return
        self._telemetry.count_overflow(stream, rows)
        if not self._told.is_news(stream):
            return
        log_event(
            logger,
            logging.WARNING,
            "labels beyond max_label_columns are stored in labels_overflow",
            stream=stream,
            rows=rows,
            hint="drop labels with the setting drop_labels, or raise max_label_columns",
        )
