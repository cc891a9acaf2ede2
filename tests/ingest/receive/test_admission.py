"""Places and bytes of requests: taken by what has arrived, given back whatever happens."""

from __future__ import annotations

import time

import pytest

from rayotel.errors import TryLater
from rayotel.ingest.receive import admission
from rayotel.ingest.receive.admission import Admission, Ticket
from rayotel.telemetry import Telemetry


def new_admission(max_requests: int = 2, max_bytes: int = 100) -> Admission:
    """Bounds of two requests and a hundred bytes."""
    return Admission(max_requests=max_requests, max_bytes=max_bytes, telemetry=Telemetry())


def test_a_place_is_taken_when_the_body_is_there() -> None:
    """However many bodies are on their way, as many requests are worked on as may be."""
    entrance = new_admission()
    arriving = [entrance.enter() for _ in range(1000)]
    first, second, third = arriving[:3]
    first.begin()
    second.begin()
    with pytest.raises(TryLater, match="requests in flight"):
        third.begin()
    with first:
        pass
    third.begin()


def test_bytes_are_given_back() -> None:
    """With the request, once, also where there was no room for all of it."""
    entrance = new_admission()
    for _ in range(3):
        with entrance.enter() as ticket:
            ticket.reserve(100)
            with pytest.raises(TryLater, match="bytes in flight"):
                ticket.reserve(1)


def test_bodies_that_are_slow_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slowest first, as many as it takes; never one that is worked on, nor a new one."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    entrance = new_admission()
    given_up: list[str] = []

    def entered(name: str, size_bytes: int) -> Ticket:
        ticket = entrance.enter(lambda: given_up.append(name))
        ticket.reserve(size_bytes)
        return ticket

    entered("worked on", 20).begin()
    slow = [entered(f"slow {number}", 20) for number in range(3)]
    now = 1.0
    newer = entered("newer", 20)
    with pytest.raises(TryLater):
        entrance.enter().reserve(10)
    assert given_up == []
    now = admission.SLOW_SECONDS + 0.5
    wanting = entrance.enter()
    wanting.reserve(30)
    assert given_up == ["slow 0", "slow 1"]
    with pytest.raises(TryLater):
        slow[2].reserve(60)  # nobody else is slow, and nobody makes room for himself
    assert given_up == ["slow 0", "slow 1"]
    for ticket in (*slow, newer, wanting):
        with ticket:
            pass
    entrance.enter().reserve(80)
    with pytest.raises(TryLater):
        entrance.enter().reserve(1)
