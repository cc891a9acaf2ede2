"""The rows of a question, as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rayotel.query.process import frames

if TYPE_CHECKING:
    import pyarrow as pa


class Result:
    """Rows of a query as Arrow batches, within the query's time."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """`schema`: names and types of the columns."""
        self.schema = schema
        self._first: pa.RecordBatch | None = None
        self._rest = batches

    def begin(self) -> None:
        """Wait for the first rows: what has been read by then cannot go away any more."""
        self._first = next(self._rest, None)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, in order, once. Raises QueryError for what goes wrong on the way."""
        if self._first is not None:
            yield self._first
            self._first = None
        yield from self._rest

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dictionaries; for small results."""
        return [row for batch in self.batches() for row in batch.to_pylist()]


class Text:
    """A result in a format, as bytes that come one after another.

    `shown`: how many rows a table has where it leaves some out; known at the end.
    """

    def __init__(self, receive: Callable[[], tuple[bytes, bytearray]]) -> None:
        self._receive = receive
        self.shown: int | None = None

    def pieces(self) -> Iterator[bytearray]:
        """All of it, once. Raises QueryError for what goes wrong on the way."""
        while (message := self._receive())[0] == frames.TEXT:
            yield message[1]
        self.shown = json.loads(message[1])["shown"]
