"""Time ranges as people write them: `1h`, `2d12h`, `2026-11-20T15:00`, `now`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from rayotel.errors import UsageError
from rayotel.model import NANOSECONDS_PER_SECOND, TimeRange

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?:\d+[smhdw])+")
_STEP = re.compile(r"(\d+)([smhdw])")
MAX_DURATION_SECONDS = 100 * 365 * 86400


def duration_seconds(text: str) -> int:
    """Seconds of a duration such as `90s`, `15m`, `1h30m`, `2d` or `1w`."""
    if _DURATION.fullmatch(text):
        total = sum(int(n) * _UNIT_SECONDS[unit] for n, unit in _STEP.findall(text))
        if 0 < total <= MAX_DURATION_SECONDS:
            return total
    raise UsageError(
        f"'{text[:40]}' is not a duration", hint="write for example 90s, 15m, 1h30m, 2d or 1w"
    )


def moment_unix_nano(text: str, now_unix_nano: int) -> int:
    """A moment: ISO 8601 (UTC where no zone is given) or `now`."""
    if text == "now":
        return now_unix_nano
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"'{text[:40]}' is not a time",
            hint="write for example 2026-11-20, 2026-11-20T15:00 or 2026-11-20T15:00:00+01:00; UTC"
            " where no zone is given",
        ) from None
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    if not 1970 <= aware.year < 2262:
        raise UsageError(f"'{text[:40]}' is out of range", hint="from 1970 to 2261")
    microseconds = round((aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    return microseconds * 1000


def time_range(
    since: str | None, from_: str | None, to: str | None, now_unix_nano: int
) -> TimeRange:
    """The range that `--since`, `--from` and `--to` name together."""
    if since is not None and from_ is not None:
        raise UsageError("--since and --from exclude each other")
    start = None
    end = None if to is None else moment_unix_nano(to, now_unix_nano)
    if from_ is not None:
        start = moment_unix_nano(from_, now_unix_nano)
    if since is not None:
        before = now_unix_nano if end is None else end
        start = max(0, before - duration_seconds(since) * NANOSECONDS_PER_SECOND)
    if start is not None and end is None:
        # points of clocks that are ahead are wanted too; beyond a day no point is accepted
        end = now_unix_nano + 25 * 3600 * NANOSECONDS_PER_SECOND
    if start is not None and end is not None and start >= end:
        raise UsageError("the time range is empty: it ends before it begins")
    return TimeRange(start, end)
