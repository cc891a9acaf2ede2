"""Memory that the commits of a stream share, bounded in streams and series."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rayotel.lake.rows.series_index import SeriesIndex

MAX_STREAMS_REMEMBERED = 1000
# of all streams: about 25,000 series of a cluster, estimated at 630 bytes each. Measured, with ten
# labels: 290, and 560 with the series themselves where the decoder has let them go
MAX_SERIES_INDEX_BYTES = 16 << 20


class StreamMemory:
    """The earlier series of one stream, and the bound on the label columns of a part."""

    def __init__(self, max_label_columns: int) -> None:
        self.max_label_columns = max_label_columns
        self.series = SeriesIndex()

    def forget_series(self) -> None:
        """Begin anew with an empty index: rows are the same, and take longer once."""
        self.series = SeriesIndex()


class StreamMemories:
    """The memories of all streams of a committer, in bounds."""

    def __init__(self, max_label_columns: int) -> None:
        self._max_label_columns = max_label_columns
        self._by_stream: dict[str, StreamMemory] = {}

    @contextlib.contextmanager
    def of(self, stream: str) -> Iterator[StreamMemory]:
        """The memory of a stream, to make rows with."""
        if stream not in self._by_stream and len(self._by_stream) >= MAX_STREAMS_REMEMBERED:
            self._by_stream.clear()
        memory = self._by_stream.setdefault(stream, StreamMemory(self._max_label_columns))
        try:
            yield memory
        except BaseException:
            # an index that stopped halfway would give wrong rows
            memory.forget_series()
            raise
        # series in use return with the next commit; of a commit beyond the bound nothing is kept
        if sum(self.sizes()) > MAX_SERIES_INDEX_BYTES:
            for other in self._by_stream.values():
                other.forget_series()

    def sizes(self) -> Iterator[int]:
        """About how many bytes the series of each stream take."""
        return (memory.series.size_bytes for memory in self._by_stream.values())
