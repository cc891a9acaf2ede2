"""Who is closed first, and who has waited too long: by values, without a socket."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayotel.http import crowd as crowds
from rayotel.http.crowd import Bounds, Crowd, Rank, Wait
from rayotel.http.descriptors import connections_within
from rayotel.telemetry import Telemetry


@dataclass(eq=False)
class Fake:
    """A connection that remembers whether it was ended."""

    name: str
    address: str = "10.0.0.1"
    is_ended: bool = field(default=False)
    has_unsent: bool = field(default=False)

    def abort(self) -> None:
        """End it."""
        self.is_ended = True


def new_crowd(connections: int = 100, per_address: int = 0) -> Crowd:
    """A crowd with deadlines of 10 and 75 seconds."""
    return Crowd(Bounds(connections, per_address, 10.0, 75.0), Telemetry())


def joined(crowd: Crowd, count: int, rank: Rank, now: float = 0.0) -> list[Fake]:
    """New connections of a rank; each a thousandth of a second after the one before."""
    found = [Fake(f"{rank.name} {number}") for number in range(count)]
    for number, member in enumerate(found):
        crowd.join(member, now + number / 1000)
        if rank is not Rank.STRANGER:
            crowd.ended(member, Wait.HEAD)
            crowd.move(member, rank, now + number / 1000)
    return found


def test_who_matters_least_makes_room() -> None:
    """By rank, and in one rank the oldest first; who is served with credentials goes last."""
    crowd = new_crowd(10)
    order: list[Fake] = []
    for rank in reversed(Rank):  # the most important are the oldest
        order = joined(crowd, 2, rank) + order
    for number in range(10):
        assert [one.is_ended for one in order] == [True] * number + [False] * (10 - number)
        newcomer = Fake("new")
        crowd.join(newcomer, 1.0)
        crowd.move(newcomer, Rank.SERVED, 1.0)
        assert len(crowd) == 10


def test_a_crowd_of_strangers_harms_only_strangers() -> None:
    """However many come, whoever has sent a request stays, also while it does nothing."""
    crowd = new_crowd(100)
    known = [*joined(crowd, 20, Rank.MEMBER), *joined(crowd, 20, Rank.SERVED)]
    known += joined(crowd, 20, Rank.VISITOR)
    strangers = joined(crowd, 5000, Rank.STRANGER)
    assert not any(one.is_ended for one in known)
    assert [one.is_ended for one in strangers] == [True] * 4960 + [False] * 40


def test_who_was_used_last_stays_longest() -> None:
    """Between requests a connection is as old as its last request."""
    crowd = new_crowd(3)
    first, second, third = joined(crowd, 3, Rank.MEMBER)
    crowd.move(first, Rank.SERVED, 1.0)
    crowd.move(first, Rank.MEMBER, 1.0)
    crowd.join(Fake("new"), 2.0)
    assert (first.is_ended, second.is_ended, third.is_ended) == (False, True, False)


def test_deadlines() -> None:
    """For a head, between requests, for reading an answer and for closing, and for nothing else."""
    crowd = new_crowd()
    (stranger,) = joined(crowd, 1, Rank.STRANGER)
    visitor, slow_head = joined(crowd, 2, Rank.VISITOR)
    served, unread, closing = joined(crowd, 3, Rank.SERVED)
    crowd.wait(slow_head, Wait.HEAD, 5.0)
    crowd.wait(slow_head, Wait.HEAD, 14.0)  # another byte of the same head
    crowd.wait(unread, Wait.READING, 5.0)
    crowd.wait(closing, Wait.CLOSING, 5.0)
    (slow_reader,) = joined(crowd, 1, Rank.SERVED)
    slow_reader.name, slow_reader.has_unsent = "slow reader", True
    crowd.wait(slow_reader, Wait.CLOSING, 5.0)
    ends: dict[str, float] = {}
    everybody = [stranger, visitor, slow_head, served, unread, closing, slow_reader]
    for second in range(200):
        crowd.sweep(float(second))
        for one in everybody:
            if one.is_ended:
                ends.setdefault(one.name, second)
    assert ends == {
        stranger.name: 10,
        slow_head.name: 15,
        closing.name: 5 + crowds.CLOSING_SECONDS,
        unread.name: 5 + crowds.UNREAD_SECONDS,
        slow_reader.name: 5 + crowds.UNREAD_SECONDS,
        visitor.name: 75,
    }
    assert len(crowd) == 1


def test_strangers_of_one_address_are_bounded_where_that_is_asked_for() -> None:
    """Only those who have sent no request count; the oldest of them goes."""
    crowd = new_crowd(per_address=3)
    known = joined(crowd, 10, Rank.MEMBER)
    other = Fake("other", "10.0.0.2")
    crowd.join(other, 0.0)
    strangers = joined(crowd, 5, Rank.STRANGER)
    assert [one.is_ended for one in strangers] == [True, True, False, False, False]
    crowd.move(strangers[2], Rank.VISITING, 1.0)
    (newest,) = joined(crowd, 1, Rank.STRANGER)
    assert not any(one.is_ended for one in (*known, other, *strangers[2:], newest))


def test_in_need_who_is_served_stays() -> None:
    """Where files are scarce for another reason, requests are not given up for it."""
    crowd = new_crowd()
    served = joined(crowd, 3, Rank.SERVED)
    members = joined(crowd, 3, Rank.MEMBER)
    crowd.make_room(16, Rank.MEMBER, 1.0)
    assert all(one.is_ended for one in members)
    assert not any(one.is_ended for one in served)
    new = joined(crowd, 3, Rank.STRANGER, 10.0)
    crowd.make_room(16, Rank.MEMBER, 10.1, older_than_seconds=0.5)
    assert not any(one.is_ended for one in new)


def test_bytes_ahead_are_bounded_over_all_connections() -> None:
    """What is given back can be used again."""
    crowd = new_crowd()
    assert crowd.ahead(crowds.MAX_AHEAD_BYTES)
    assert not crowd.ahead(1)
    crowd.ahead(-10)
    assert crowd.ahead(10)


def test_the_wal_and_the_lake_keep_files_for_themselves() -> None:
    """A small limit on open files bounds connections, a large one does not."""
    assert connections_within(1_048_576, 4096) == 4096
    assert connections_within(4480, 4096) == 4096
    assert connections_within(1024, 4096) == 640
    assert connections_within(256, 4096) == 128
    assert connections_within(256, 100) == 100
