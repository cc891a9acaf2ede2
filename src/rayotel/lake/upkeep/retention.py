"""Which hours a stream's policy no longer keeps: by age, by size, or both, in whole hours.

An hour is one of event time. Its size is that of its visible parts on storage; the parts that
others hide go with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayotel.lake import layout
from rayotel.lake.layout import Part
from rayotel.lake.upkeep.plan import SECONDS_PER_HOUR
from rayotel.model import Policy

SECONDS_PER_DAY = 86_400


def expired(policy: Policy, parts: Iterable[Part], now_unix: float | None) -> list[Part]:
    """All parts, of every receiver, of the hours that are not kept.

    `now_unix`: None if no clock can be trusted; then nothing goes by age.
    """
    by_hour: dict[int, list[Part]] = {}
    for part in parts:
        by_hour.setdefault(part.name.hour, []).append(part)
    gone: list[Part] = []
    size = 0
    for hour, members in sorted(by_hour.items(), reverse=True):
        size += sum(part.size_bytes for part in layout.visible(members))
        if _is_too_old(policy, hour, now_unix) or _is_too_much(policy, size):
            gone += members
    return sorted(gone, key=lambda part: part.name)


def _is_too_old(policy: Policy, hour: int, now_unix: float | None) -> bool:
    if policy.days is None or now_unix is None:
        return False
    return (hour + 1) * SECONDS_PER_HOUR <= now_unix - policy.days * SECONDS_PER_DAY


def _is_too_much(policy: Policy, size: int) -> bool:
    return policy.size_bytes is not None and size > policy.size_bytes
