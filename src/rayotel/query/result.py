"""The rows of a question, as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from rayotel.errors import QueryError
from rayotel.query.translate import translated


class Result:
    """Rows of a query as Arrow batches, within the query's time."""

    def __init__(
        self, reader: pa.RecordBatchReader, ended: Callable[[Exception | None], QueryError]
    ) -> None:
        self._reader = reader
        self._ended = ended
        self._first: pa.RecordBatch | None = None
        self._rest = self._read()

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._reader.schema

    def begin(self) -> None:
        """Wait for the first rows: what has been read by then cannot go away any more."""
        self._first = next(self._rest, None)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, in order, once. Raises QueryError for what goes wrong on the way."""
        if self._first is not None:
            yield self._first
            self._first = None
        try:
            yield from self._rest
        finally:
            self._ended(None)

    def _read(self) -> Iterator[pa.RecordBatch]:
        try:
            with translated():
                yield from self._reader
        except OSError as error:  # how Arrow passes on an interrupt or an error of DuckDB
            raise self._ended(error) from None

    def rows(self) -> list[dict[str, Any]]:
        """All rows as dictionaries; for small results."""
        return [row for batch in self.batches() for row in batch.to_pylist()]
