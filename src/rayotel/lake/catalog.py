"""The streams on storage, and the visible parts of a stream, from listings alone."""

from __future__ import annotations

from rayotel.lake import layout
from rayotel.lake.layout import Part
from rayotel.lake.storage.interface import Storage, side_by_side
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange, is_stream_name

# Beyond this many hours one listing of the whole stream costs less than one per hour or day.
MAX_HOURS_LISTED_SINGLY = 6
MAX_DAYS_LISTED_SINGLY = 31


def streams(storage: Storage) -> list[str]:
    """Names of all streams that have or had parts, sorted."""
    return sorted(name for name in storage.folders("") if is_stream_name(name))


def parts(storage: Storage, stream: str, range_: TimeRange | None = None) -> list[Part]:
    """The visible parts of a stream whose hour touches the range, in order of their names."""
    return layout.visible(all_parts(storage, stream, range_))


def all_parts(storage: Storage, stream: str, range_: TimeRange | None = None) -> list[Part]:
    """The same with the parts that others cover, in no promised order."""
    wanted = range_ or TimeRange()
    by_key: dict[str, Part] = {}
    prefixes = _prefixes(stream, wanted)
    in_turn = map if storage.access() is None or len(prefixes) == 1 else side_by_side
    for items in in_turn(lambda prefix: list(storage.objects(prefix)), prefixes):
        for item in items:
            name = layout.parse_key(item.key)
            if name is not None and name.stream == stream and wanted.touches_hour(name.hour):
                by_key[item.key] = Part(name, item.size_bytes, item.written_unix)
    return list(by_key.values())


def _prefixes(stream: str, range_: TimeRange) -> list[str]:
    """The listings that together show every part of the range, and little else."""
    if range_.start is None or range_.end is None:
        return [layout.stream_prefix(stream)]
    first = range_.start // NANOSECONDS_PER_HOUR
    last = max(first, (range_.end - 1) // NANOSECONDS_PER_HOUR)
    hours = range(first, last + 1)
    if len(hours) <= MAX_HOURS_LISTED_SINGLY:
        return [layout.hour_prefix(stream, hour) for hour in hours]
    if len(hours) <= MAX_DAYS_LISTED_SINGLY * 24:
        return sorted({layout.date_prefix(stream, hour) for hour in (*hours[::24], last)})
    return [layout.stream_prefix(stream)]
