"""The signal of each stream, remembered by this receiver.

A request of another signal than its stream holds can never be accepted. The lake decides (see
`claims`): the first request of a stream asks it, for a bounded time. While the storage is away the
first request decides for now; before the first part of such a stream is written, the lake is asked
again. If the lake has another signal then, the rows go to the stream `<stream>-<signal>`, so that
nothing that was acknowledged is refused afterwards.

At most `max_streams` are remembered. Beyond it those are forgotten that the lake has decided and
that got nothing for a while; where there is none, a new stream is answered 503.

**File** `<data_dir>/wal/signals.json`: an object from the stream's name in lower case, since SQL
does not tell case apart, to `{"signal": NAME, "is_settled": BOOLEAN}`. It is replaced as a whole,
and durable before the first request of a stream is acknowledged. The streams that senders get
without asking are settled from the start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rayotel.errors import NeverAcceptable, StorageError, WalError
from rayotel.ingest.wal import json_files
from rayotel.lake.signal import BY_NAME, SIGNALS
from rayotel.logs import Failing, log_event
from rayotel.model import MAX_STREAM_NAME_CHARACTERS

LOOK_SECONDS = 2.0
LOOKS_AT_ONCE = 4
MAX_OTHER_NAMES = 3
UNUSED_SECONDS = 3600.0

Holder = Callable[[str], str | None]
_DEFAULTS = frozenset(signal.default_stream.lower() for signal in SIGNALS)
Settle = Callable[[Mapping[str, str]], Mapping[str, str]]


class _Known(NamedTuple):
    """`signal`: a signal's name. `is_settled`: whether the lake decided so."""

    signal: str
    is_settled: bool


logger = logging.getLogger(__name__)


class StreamSignals:
    """The signals of a lake's streams. Safe for several threads. `open` before, `close` after."""

    def __init__(self, path: Path, holder: Holder, settle: Settle, *, max_streams: int) -> None:
        """`holder` and `settle`: the functions of `claims`, for the lake and this receiver."""
        self._max_streams = max_streams
        self._used: dict[str, float] = {}
        self._path = path
        self._holder = holder
        self._settle = settle
        self._lock = threading.Lock()
        self._looks = ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="claims")
        self._known = {
            signal.default_stream.lower(): _Known(signal.name, True) for signal in SIGNALS
        }
        self._opened = time.monotonic()
        self._failing = Failing()

    def open(self) -> None:
        """Read the file. Raises WalError where it is damaged."""
        hint = "move it aside: the lake then decides which stream holds what"
        self._known |= json_files.kept(self._path, _all_parsed, hint=hint) or {}

    def close(self) -> None:
        """Wait for no storage any more."""
        self._looks.shutdown(wait=False, cancel_futures=True)

    def knows(self, stream: str, signal: str) -> bool:
        """Whether a stream is known to hold this signal."""
        name = stream.lower()
        known = self._known.get(name)
        if known is None or known.signal != signal:
            return False
        self._used[name] = time.monotonic()
        return True

    def claim(self, stream: str, signal: str) -> None:
        """Make durable that a stream holds a signal. Blocks, for LOOK_SECONDS and a file.

        Raises NeverAcceptable where it holds another; WalError where it cannot be written, or
        streams are too many.
        """
        name = stream.lower()
        known = self._known.get(name)
        if known is None:
            held = self._look(name)
            known = _Known(held or signal, held is not None)
            with self._lock:
                if len(self._known) >= self._max_streams and name not in self._known:
                    self._forget()
                known = self._known.get(name, known)
                self._keep({name: known})
        if known.signal != signal:
            raise NeverAcceptable(
                400,
                f"stream '{stream}' holds {known.signal}, not {signal}",
                hint="name another stream: ?stream= for events, X-P-Stream for all",
            )

    def _forget(self) -> None:
        """Make room for a stream. Raises WalError."""
        now = time.monotonic()
        kept = {
            name: known
            for name, known in self._known.items()
            if not known.is_settled
            or name in _DEFAULTS
            or now - self._used.get(name, self._opened) < UNUSED_SECONDS
        }
        if len(kept) >= self._max_streams:
            raise WalError(
                f"there are {self._max_streams} streams already: raise RAYOTEL_MAX_STREAMS, or name"
                " fewer",
            )
        self._known = kept
        self._used = {name: at for name, at in self._used.items() if name in kept}

    def _look(self, stream: str) -> str | None:
        """What the lake has, if it answers in time."""
        try:
            return self._looks.submit(self._holder, stream).result(LOOK_SECONDS)
        except (StorageError, TimeoutError, RuntimeError):  # the last: closed meanwhile
            return None

    def places(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """For each (stream, signal) the stream where such rows go. Blocks.

        The answer is made durable first, so that a commit that is done again has the same. Raises
        StorageError, LakeError, WalError.
        """
        names = {pair: pair[0] for pair in wanted}
        for _ in range(MAX_OTHER_NAMES):
            self._settle_all({name: signal for (_, signal), name in names.items()})
            lost = [pair for pair, name in names.items() if not self.knows(name, pair[1])]
            if not lost:
                return names
            for pair in lost:
                names[pair] = _other_name(names[pair], pair[1])
        return {
            pair: name if self.knows(name, pair[1]) else BY_NAME[pair[1]].default_stream
            for pair, name in names.items()
        }

    def _settle_all(self, wanted: Mapping[str, str]) -> None:
        """Ask the lake about streams that it has not decided; the first of one name counts."""
        asked: dict[str, str] = {}
        for stream, signal in wanted.items():
            known = self._known.get(stream.lower())
            if known is None or not known.is_settled:
                asked.setdefault(stream.lower(), known.signal if known else signal)
        if asked:
            settled = self._settle(asked)
            with self._lock:
                self._keep({name: _Known(signal, True) for name, signal in settled.items()})

    def _keep(self, news: Mapping[str, _Known]) -> None:
        known = {**self._known, **news}
        if known == self._known:
            return
        try:
            json_files.keep(
                self._path, {stream: entry._asdict() for stream, entry in known.items()}
            )
        except WalError as error:
            if self._failing.begin():
                words = "a new stream is answered 503"
                log_event(logger, logging.ERROR, words, reason=error.message)
            raise
        self._failing.end()
        self._known = known


def _all_parsed(entries: Mapping[str, object]) -> dict[str, _Known]:
    return {stream: _parsed(entry) for stream, entry in entries.items()}


def _parsed(entry: object) -> _Known:
    """An entry of the file; those of version 0.1.0 were the signal alone."""
    if isinstance(entry, str):
        return _Known(BY_NAME[entry].name, False)
    if not isinstance(entry, dict) or not isinstance(entry["is_settled"], bool):
        raise TypeError
    return _Known(BY_NAME[entry["signal"]].name, entry["is_settled"])


def _other_name(stream: str, signal: str) -> str:
    suffix = f"-{signal}"
    return stream[: MAX_STREAM_NAME_CHARACTERS - len(suffix)] + suffix
