"""How long a stream is kept: by age, by size, or both, in whole hours of event time.

A policy is written `30d`, `500GB`, or both, `90d 1TB`. With both, an hour that exceeds either is
removed. The empty policy keeps everything. A day has 24 hours. Sizes are of the parts on storage,
in powers of 1000.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rayotel.errors import UsageError
from rayotel.lake import layout
from rayotel.lake.layout import Part
from rayotel.lake.upkeep.plan import SECONDS_PER_HOUR

_TERM = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>d|MB|GB|TB)")
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_HINT = "write for example 30d, 500GB or '90d 1TB'"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept of a stream; None: no limit of that kind."""

    days: float | None = None
    size_bytes: int | None = None

    def expired(self, parts: Iterable[Part], now_unix: float) -> list[Part]:
        """All parts, of every receiver, of the hours that are not kept."""
        by_hour: dict[int, list[Part]] = {}
        for part in parts:
            by_hour.setdefault(part.name.hour, []).append(part)
        expired: list[Part] = []
        size = 0
        for hour, found in sorted(by_hour.items(), reverse=True):
            size += sum(part.size_bytes for part in layout.visible(found))
            if self._is_too_old(hour, now_unix) or self._is_too_much(size):
                expired += found
        return sorted(expired, key=lambda part: part.name)

    def _is_too_old(self, hour: int, now_unix: float) -> bool:
        return self.days is not None and (hour + 1) * SECONDS_PER_HOUR <= (
            now_unix - self.days * 86400
        )

    def _is_too_much(self, size: int) -> bool:
        return self.size_bytes is not None and size > self.size_bytes


@dataclass(frozen=True, slots=True)
class Policies:
    """The policy of each stream."""

    default: Policy
    by_stream: Mapping[str, Policy]

    def of(self, stream: str) -> Policy:
        """The stream's own policy, or the default."""
        return self.by_stream.get(stream, self.default)

    @property
    def keep_everything(self) -> bool:
        """Whether no policy lets anything go."""
        return all(one == Policy() for one in (self.default, *self.by_stream.values()))


def parse_policy(text: str) -> Policy:
    """A policy from its text. Raises UsageError."""
    days: float | None = None
    size: int | None = None
    for term in text.split():
        match = _TERM.fullmatch(term)
        if match is None or float(match["number"]) <= 0:
            raise UsageError(f"'{term[:40]}' is no retention", hint=_HINT)
        if match["unit"] == "d":
            days = float(match["number"])
        else:
            size = int(float(match["number"]) * _BYTES[match["unit"]])
    return Policy(days, size)


def parse_policies(default: str, by_stream: str) -> Policies:
    """Policies from the settings `retention` and `retention_by_stream`. Raises UsageError.

    `by_stream` is written `raylogs: 7d; raytraces: 3d 50GB`; an empty policy keeps everything.
    """
    found: dict[str, Policy] = {}
    for entry in filter(None, (one.strip() for one in by_stream.split(";"))):
        name, colon, text = entry.partition(":")
        if not colon or not layout.is_stream_name(name.strip()):
            raise UsageError(
                f"'{entry[:60]}' is not STREAM: POLICY", hint="for example 'raylogs: 7d'"
            )
        found[name.strip()] = parse_policy(text)
    return Policies(parse_policy(default), found)
