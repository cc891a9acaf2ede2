"""All connections of a server: who goes first where there are too many, or waits too long.

A new connection is always taken; the one that matters least makes room for it. Who has sent no
request goes first, the oldest of them first, then who has shown no credentials, then who is between
two requests. Whoever is in the middle of a request with credentials goes last. So a crowd of
connections shuts out neither liveness nor a sender.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from rayotel.logs import Failing, log_event
from rayotel.telemetry import Telemetry

UNREAD_SECONDS = 30.0  # a client that does not read its answer
CLOSING_SECONDS = 2.0  # time to read the last answer
CALM_SECONDS = 10.0
MAX_AHEAD_BYTES = 32 * 1024 * 1024  # requests sent before the answers of earlier ones

logger = logging.getLogger(__name__)


class Rank(IntEnum):
    """How much a connection matters; the lowest makes room first."""

    STRANGER = 0  # has sent no whole request, or is about to close
    VISITOR = 1  # between requests, none of which had credentials
    VISITING = 2
    MEMBER = 3  # between requests, one of which had credentials
    SERVED = 4


class Wait(IntEnum):
    """What a connection must end in time, beside being between requests."""

    HEAD = 0
    READING = 1
    CLOSING = 2


_WORDS = {Wait.HEAD: "no whole head", Wait.READING: "answer not read", Wait.CLOSING: ""}


class Member(Protocol):
    """A connection. `address`: of its client."""

    address: str

    @property
    def has_unsent(self) -> bool:
        """Whether its client has not taken all of its last answer yet."""

    def abort(self) -> None:
        """End it now."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a crowd. `max_strangers_per_address` of 0: there is none."""

    max_connections: int
    max_strangers_per_address: int
    head_timeout_seconds: float
    idle_timeout_seconds: float


class Crowd:
    """The account of connections. `now`: seconds of any one clock that never goes back."""

    def __init__(self, bounds: Bounds, telemetry: Telemetry) -> None:
        self._bounds = bounds
        self._telemetry = telemetry
        self._ranks: dict[Member, Rank] = {}
        # by rank, and by what is waited for; since when, the oldest first
        self._by_rank: dict[Rank, OrderedDict[Member, float]] = {r: OrderedDict() for r in Rank}
        self._waits: dict[Wait, OrderedDict[Member, float]] = {w: OrderedDict() for w in Wait}
        self._strangers: dict[str, OrderedDict[Member, None]] = {}
        self._ahead_bytes = 0
        self._crowding = Failing()
        self._made_room_at = 0.0
        self._closed = 0

    def __len__(self) -> int:
        return len(self._ranks)

    @property
    def members(self) -> list[Member]:
        """All connections."""
        return list(self._ranks)

    def join(self, member: Member, now: float) -> None:
        """A new connection; others make room for it."""
        self.make_room(len(self._ranks) + 1 - self._bounds.max_connections, Rank.SERVED, now)
        self._ranks[member] = Rank.STRANGER
        self._by_rank[Rank.STRANGER][member] = now
        self._waits[Wait.HEAD][member] = now
        if bound := self._bounds.max_strangers_per_address:
            same = self._strangers.setdefault(member.address, OrderedDict())
            same[member] = None
            if len(same) > bound:
                self._close(next(iter(same)), "address has too many")
        self._telemetry.connections.set(len(self._ranks))

    def leave(self, member: Member) -> None:
        """A connection is gone, or as good as gone. May be said again."""
        rank = self._ranks.pop(member, None)
        if rank is None:
            return
        del self._by_rank[rank][member]
        if rank is Rank.STRANGER:
            self._known(member)
        for waiting in self._waits.values():
            waiting.pop(member, None)
        self._telemetry.connections.set(len(self._ranks))

    def move(self, member: Member, rank: Rank, now: float) -> None:
        """A connection matters more or less than before, or a new span of it begins."""
        before = self._ranks.get(member)
        if before is None:
            return
        del self._by_rank[before][member]
        if before is Rank.STRANGER:
            self._known(member)
        self._ranks[member] = rank
        self._by_rank[rank][member] = now

    def _known(self, member: Member) -> None:
        same = self._strangers.get(member.address)
        if same is not None:
            same.pop(member, None)
            if not same:
                del self._strangers[member.address]

    def wait(self, member: Member, what: Wait, now: float) -> None:
        """From now on this must end in time; if it had begun before, from then on."""
        if member in self._ranks:
            self._waits[what].setdefault(member, now)

    def ended(self, member: Member, what: Wait) -> None:
        """It has ended in time."""
        self._waits[what].pop(member, None)

    def ahead(self, size_bytes: int) -> bool:
        """Account for bytes sent ahead of their turn; whether they may be kept."""
        if size_bytes > 0 and self._ahead_bytes + size_bytes > MAX_AHEAD_BYTES:
            return False
        self._ahead_bytes += size_bytes
        return True

    def sweep(self, now: float) -> None:
        """End what has lasted too long."""
        bounds = self._bounds
        closing = self._waits[Wait.CLOSING]
        for member, since in list(closing.items()):
            if since > now - CLOSING_SECONDS:
                break
            if member.has_unsent:
                del closing[member]
                self.wait(member, Wait.READING, since)
        for what, seconds in (
            (Wait.HEAD, bounds.head_timeout_seconds),
            (Wait.READING, UNREAD_SECONDS),
            (Wait.CLOSING, CLOSING_SECONDS),
        ):
            self._end(self._waits[what], now - seconds, _WORDS[what])
        for rank in (Rank.VISITOR, Rank.MEMBER):
            self._end(self._by_rank[rank], now - bounds.idle_timeout_seconds, "idle")
        if self._closed and now - self._made_room_at > CALM_SECONDS:
            log_event(
                logger, logging.INFO, "connections are no longer closed to make room",
                crowded_seconds=self._crowding.end(), closed=self._closed,
            )  # fmt: skip
            self._closed = 0

    def _end(self, waiting: OrderedDict[Member, float], before: float, reason: str) -> None:
        while waiting:
            member, since = next(iter(waiting.items()))
            if since > before:
                return
            self._close(member, reason)

    def make_room(
        self, count: int, up_to: Rank, now: float, *, older_than_seconds: float = 0.0
    ) -> None:
        """Close `count` connections at most, of `up_to` or lower ranks, the lowest first.

        Those stay that came, or were used, in the last `older_than_seconds`.
        """
        for rank in Rank:
            while count > 0 and rank <= up_to and self._by_rank[rank]:
                member, since = next(iter(self._by_rank[rank].items()))
                if since > now - older_than_seconds:
                    break
                self._close(member, "room for others")
                self._made_room_at = now
                self._closed += 1
                count -= 1
                if self._crowding.begin():
                    log_event(
                        logger, logging.WARNING, "connections are closed to make room for others",
                        connections=len(self._ranks), max_connections=self._bounds.max_connections,
                    )  # fmt: skip

    def _close(self, member: Member, reason: str) -> None:
        self.leave(member)
        member.abort()
        if reason:
            self._telemetry.connections_closed.labels(reason).inc()
