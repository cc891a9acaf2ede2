"""Which signal each stream holds, first come first served, remembered for good.

A part hides what its range of segments covers, whatever that holds, so points and events must never
share a stream. The first request decides; a request of the other signal can never be accepted.

**File** `<data_dir>/wal/signals.json`: an object from the stream's name in lower case, since SQL
does not tell case apart, to `metrics` or `events`. It is replaced as a whole, and durable before
the first request of a stream is acknowledged. The streams that senders get without asking are taken
from the start.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

from rayotel.durable import sync_directory
from rayotel.errors import LogError, NeverAcceptable
from rayotel.lake.schema import COLUMNS
from rayotel.logs import Failing, log_event

MAX_STREAMS = 10_000

logger = logging.getLogger(__name__)


class StreamSignals:
    """The signals of one data directory's streams. Safe for several threads. `open` before use."""

    def __init__(self, path: Path, defaults: dict[str, str]) -> None:
        """`defaults`: signal by stream."""
        self._path = path
        self._lock = threading.Lock()
        self._signals = {stream.lower(): signal for stream, signal in defaults.items()}
        self._failing = Failing()

    def open(self) -> None:
        """Read the file. Raises LogError where it is damaged."""
        try:
            found = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or not all(one in tuple(COLUMNS) for one in found.values()):
            raise LogError(
                f"'{self._path}' cannot be read",
                hint="move it aside: streams are then taken by whoever sends first",
            )
        self._signals.update(found)

    def knows(self, stream: str, signal: str) -> bool:
        """Whether a stream is known to hold this signal."""
        return self._signals.get(stream.lower()) == signal

    def claim(self, stream: str, signal: str) -> None:
        """Make durable that a stream holds a signal. Blocks.

        Raises NeverAcceptable where it holds another, or streams are too many; LogError where it
        cannot be written.
        """
        name = stream.lower()
        with self._lock:
            known = self._signals.get(name)
            if known == signal:
                return
            if known is not None:
                raise NeverAcceptable(
                    400,
                    f"stream '{stream}' holds {known}, not {signal}",
                    hint="give another stream: ?stream= for events, X-P-Stream for both",
                )
            if len(self._signals) >= MAX_STREAMS:
                raise NeverAcceptable(400, f"there are {MAX_STREAMS} streams already")
            signals = {**self._signals, name: signal}
            try:
                self._write(signals)
            except OSError as error:
                words = f"cannot write '{self._path}': {error.strerror}"
                if self._failing.begin():
                    log_event(logger, logging.ERROR, "a new stream is answered 503", reason=words)
                raise LogError(words) from None
            self._failing.end()
            self._signals = signals

    def _write(self, signals: dict[str, str]) -> None:
        temporary = self._path.with_suffix(".new")
        with temporary.open("w", encoding="ascii") as file:
            json.dump(signals, file, indent=0, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        sync_directory(self._path.parent)
