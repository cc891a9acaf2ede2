"""From a record to a batch, whatever its signal. A record is the body as sent, and how it arrived.

The receiver decodes a record before it acknowledges. The committer decodes what only the WAL still
holds. Both call this decoder, so both get the same rows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from rayotel.ingest.decode.limits.drops import NO_DROPS, Drops
from rayotel.ingest.decode.limits.inflate import BodyTooLarge, MalformedBody, inflate
from rayotel.lake.signal import SIGNALS
from rayotel.model import Arrival, Batch, Record

# what an event loop may spend on inflating and comparing
MAX_RECOGNISED_BYTES = 64 * 1024
LARGE_BODY_BYTES = 1024 * 1024  # one at a time
MAX_RECOGNISED_INFLATED_BYTES = 1024 * 1024
MAX_RECOGNISED_MEMBERS = 16


class BodyDecoder(Protocol):
    """What a signal's file in this room has. Safe for several threads."""

    def decode(self, body: bytes, arrival: Arrival) -> Batch:
        """The batch of a body without its Content-Encoding. Raises ValueError; deterministic."""

    def recognised(self, body: bytes, arrival: Arrival) -> Batch | None:
        """The same where it costs well below a millisecond; else None."""


class Recognised(NamedTuple):
    """The batch of a request, and how many bytes it inflated to."""

    batch: Batch
    inflated_bytes: int


def no_reservation(size_bytes: int) -> None:
    """A reservation without an account, for callers that hold one body at a time."""


class Decoder:
    """Decodes records; remembers series between them. Safe for several threads."""

    def __init__(
        self,
        *,
        max_inflated_body_bytes: int,
        max_series_cached_bytes: int,
        drops: Drops = NO_DROPS,
    ) -> None:
        self._max_inflated_body_bytes = max_inflated_body_bytes
        self._large_bodies = threading.Lock()
        self._by_signal: dict[str, BodyDecoder] = {
            signal.name: signal.piece("rayotel.ingest.decode").BodyDecoder(
                max_series_cached_bytes=max_series_cached_bytes, drops=drops
            )
            for signal in SIGNALS
        }

    def decode(self, record: Record, reserve: Callable[[int], None] = no_reservation) -> Batch:
        """The batch of a record. Raises a ValueError of `inflate` or of its signal's decoder.

        `reserve` is called with the size of each piece that is inflated, and may raise to stop.
        """
        arrival = record.arrival
        body = inflate(
            record.body, arrival.content_encoding, self._max_inflated_body_bytes, reserve
        )
        # what a large body takes while it is decoded is several times its size
        is_large = len(body) > LARGE_BODY_BYTES
        with self._large_bodies if is_large else contextlib.nullcontext():
            return self._by_signal[arrival.signal].decode(body, arrival)

    def recognised(self, record: Record) -> Recognised | None:
        """The batch of a small record that has a template; None for any other.

        It costs well below a millisecond, so an event loop may wait for it.
        """
        arrival = record.arrival
        if len(record.body) > MAX_RECOGNISED_BYTES:
            return None
        sizes: list[int] = []
        try:
            body = inflate(
                record.body,
                arrival.content_encoding,
                MAX_RECOGNISED_INFLATED_BYTES,
                sizes.append,
                MAX_RECOGNISED_MEMBERS,
            )
        except (BodyTooLarge, MalformedBody):
            return None
        batch = self._by_signal[arrival.signal].recognised(body, arrival)
        return None if batch is None else Recognised(batch, sum(sizes))
