"""Claims: the lake records the signal of each stream, for all servers that write to it.

A part hides all parts that its range of segments covers, of any signal, so points and events must
never share a stream. A claim is an object whose name has the stream, the signal and the receiver;
of several claims the smallest name wins, for every receiver. Claims are never changed nor removed.
The streams that senders get without asking need none.

Two receivers that claim a stream at the same moment both look again after a pause, and so both see
both claims. A stream older than claims has the signal of its newest part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rayotel.lake import cache, catalog, layout
from rayotel.lake.signal import BY_NAME
from rayotel.lake.storage.interface import Storage, side_by_side

SETTLE_SECONDS = 0.5


def holder(storage: Storage, stream: str) -> str | None:
    """The name of the signal that a stream holds by its claims; None: nobody claims it.

    Raises StorageError.
    """
    keys = sorted(item.key for item in storage.objects(layout.claims_prefix(stream)))
    signals = (layout.claimed_signal(key) for key in keys)
    return next((signal for signal in signals if signal in BY_NAME), None)


def settle(
    storage: Storage,
    wanted: Mapping[str, str],
    receiver: str,
    pause: Callable[[float], object] = time.sleep,
) -> dict[str, str]:
    """The signal of each stream, which is claimed where nobody did. Raises StorageError, LakeError.

    `wanted`: the names of the signals that this receiver has for the streams.
    """
    settled = _holders(storage, wanted)
    missing = [stream for stream in wanted if stream not in settled]
    for stream in missing:
        signal = _of_parts(storage, stream) or wanted[stream]
        content = f"{stream} {signal} {receiver}\n".encode()
        storage.put(layout.claim_key(stream, signal, receiver), memoryview(content))
    if missing:
        pause(SETTLE_SECONDS)
        settled |= _holders(storage, dict.fromkeys(missing, ""))
    return settled


def _holders(storage: Storage, streams: Mapping[str, str]) -> dict[str, str]:
    signals = side_by_side(lambda stream: holder(storage, stream), streams)
    return {
        stream: signal
        for stream, signal in zip(streams, signals, strict=True)
        if signal is not None
    }


def _of_parts(storage: Storage, stream: str) -> str | None:
    newest = catalog.parts(storage, stream)[-1:]
    return next((footer.signal for footer in cache.footers(storage, newest, None)), None)
