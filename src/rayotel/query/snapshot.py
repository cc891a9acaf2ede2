"""The part of a stream that a question reads: the parts in its time range, and their columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from rayotel.lake import cache, catalog
from rayotel.lake.cache import Cache
from rayotel.lake.footers import Footer
from rayotel.lake.layout import Part
from rayotel.lake.signal import BY_NAME, METRICS, Signal
from rayotel.lake.storage.interface import Storage
from rayotel.model import TimeRange
from rayotel.query import views


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Parts of one stream with their footers, in order of names.

    `columns`: SQL type by name; only the fixed ones for a stream that never had a part.
    """

    signal: Signal
    parts: tuple[Part, ...]
    footers: tuple[Footer, ...]
    columns: Mapping[str, str]

    def only(self, chosen: Collection[str]) -> Snapshot:
        """The same with the chosen columns, and with those that every stream of its signal has."""
        always = {*views.empty_columns(self.signal), *self.signal.ray_labels}
        kept = {name.lower() for name in (*always, *chosen)}
        columns = {name: kind for name, kind in self.columns.items() if name.lower() in kept}
        return replace(self, columns=columns)

    def within(self, range_: TimeRange) -> tuple[list[Part], TimeRange | None]:
        """The parts that touch a range, and the range itself where some reach beyond it."""
        both = zip(self.parts, self.footers, strict=True)
        touching = [pair for pair in both if pair[1].touches(range_)]
        is_within = all(footer.is_within(range_) for _, footer in touching)
        return [part for part, _ in touching], None if is_within else range_


def no_parts(signal: Signal) -> Snapshot:
    """A stream that is not there."""
    return Snapshot(signal, (), (), views.empty_columns(signal))


def snapshot(storage: Storage, stream: str, range_: TimeRange, kept: Cache | None) -> Snapshot:
    """One listing, and the footers that are not known yet. Raises StorageError, LakeError."""
    listed = catalog.parts(storage, stream, range_)
    read = cache.footers(storage, listed, kept)
    both = [pair for pair in zip(listed, read, strict=True) if pair[1].touches(range_)]
    known = read
    if not listed:
        # the columns of a stream that has nothing in the range are those of its newest part
        newest = catalog.parts(storage, stream)[-1:]
        known = cache.footers(storage, newest, kept)
    if not known:
        return no_parts(METRICS)
    return Snapshot(
        BY_NAME[known[-1].signal],
        tuple(part for part, _ in both),
        tuple(footer for _, footer in both),
        views.union(footer.schema for footer in known),
    )
