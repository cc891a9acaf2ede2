"""The streams on storage, and the visible parts of a stream, from listings alone.

A part is written to its settled place before its recent copies go. So the recent place is listed
first: whatever moves meanwhile is seen in one place or in both, where its name tells which counts.
"""

from __future__ import annotations

from rayotel.lake import layout, version
from rayotel.lake.layout import Part
from rayotel.lake.storage.interface import Storage, side_by_side
from rayotel.model import NANOSECONDS_PER_HOUR, TimeRange, is_stream_name

# Beyond this many hours one listing of the whole stream costs less than one per hour or day.
MAX_HOURS_LISTED_SINGLY = 6
MAX_DAYS_LISTED_SINGLY = 31


def streams(storage: Storage) -> list[str]:
    """Names of all streams that have parts, sorted; a directory may know some that had parts.

    Raises StorageError, and LakeError for a lake of a newer rayotel, like all functions here.
    """
    version.check(storage)
    names = {name for place in (layout.RECENT, "") for name in storage.folders(place)}
    return sorted(name for name in names if is_stream_name(name))


def parts(storage: Storage, stream: str, range_: TimeRange | None = None) -> list[Part]:
    """The visible parts of a stream whose hour touches the range, in order of their names."""
    return layout.visible(all_parts(storage, stream, range_))


def all_parts(storage: Storage, stream: str, range_: TimeRange | None = None) -> list[Part]:
    """The same with the parts that others cover, in no promised order."""
    version.check(storage)
    wanted = range_ or TimeRange()
    by_key: dict[str, Part] = {}
    for is_settled in (False, True):
        prefixes = _prefixes(stream, wanted, is_settled=is_settled)
        in_turn = map if storage.access() is None or len(prefixes) == 1 else side_by_side
        for items in in_turn(lambda prefix: list(storage.objects(prefix)), prefixes):
            for item in items:
                name = layout.parse_key(item.key)
                if name is not None and name.stream == stream and wanted.touches_hour(name.hour):
                    by_key[item.key] = Part(name, item.size_bytes, item.written_unix)
    return list(by_key.values())


def of_hour(hour: int) -> TimeRange:
    """The range of an hour, which counts from 1970."""
    return TimeRange(hour * NANOSECONDS_PER_HOUR, (hour + 1) * NANOSECONDS_PER_HOUR)


def _prefixes(stream: str, range_: TimeRange, *, is_settled: bool) -> list[str]:
    """The listings that together show every part of the range in one place, and little else."""
    if range_.start is None or range_.end is None:
        return [layout.stream_prefix(stream, is_settled=is_settled)]
    first = range_.start // NANOSECONDS_PER_HOUR
    last = max(first, (range_.end - 1) // NANOSECONDS_PER_HOUR)
    hours = range(first, last + 1)
    if len(hours) <= MAX_HOURS_LISTED_SINGLY:
        return [layout.hour_prefix(stream, hour, is_settled=is_settled) for hour in hours]
    if len(hours) <= MAX_DAYS_LISTED_SINGLY * 24:
        days = (*hours[::24], last)
        return sorted({layout.date_prefix(stream, hour, is_settled=is_settled) for hour in days})
    return [layout.stream_prefix(stream, is_settled=is_settled)]
