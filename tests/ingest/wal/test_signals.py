"""Which signal a stream holds: the lake decides, and every receiver on it obeys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayotel.errors import NeverAcceptable, StorageError, StorageUnavailable, WalError
from rayotel.ingest.wal import stream_signals
from rayotel.ingest.wal.stream_signals import StreamSignals
from rayotel.lake import claims, layout
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from support.harness import gauge_request
from support.lakes import OTHER, RECEIVER, commit


class Lake:
    """A lake as a receiver's memory of signals sees it. It is away while `is_away`."""

    def __init__(self, storage: Storage, receiver: str = RECEIVER) -> None:
        self.storage, self.receiver, self.is_away, self.asked = storage, receiver, False, 0

    def holder(self, stream: str) -> str | None:
        """What the lake says a stream holds."""
        self._ask()
        return claims.holder(self.storage, stream)

    def settle(self, wanted: Mapping[str, str]) -> Mapping[str, str]:
        """What it says once all have claimed."""
        self._ask()
        return claims.settle(self.storage, wanted, self.receiver, pause=id)

    def _ask(self) -> None:
        self.asked += 1
        if self.is_away:
            raise StorageUnavailable("it is away")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake(open_storage(str(tmp_path / "lake")))


def opened(directory: Path, lake: Lake, max_streams: int = 100) -> StreamSignals:
    """What a start knows."""
    directory.mkdir(exist_ok=True)
    found = StreamSignals(
        directory / "signals.json", lake.holder, lake.settle, max_streams=max_streams
    )
    found.open()
    return found


def test_a_claim_is_durable_and_blind_to_case(tmp_path: Path, lake: Lake) -> None:
    """The first claim holds through a restart, for every spelling of the name."""
    one = opened(tmp_path / "a", lake)
    assert not one.knows("Mine", "events")
    one.claim("Mine", "events")
    for found in (one, opened(tmp_path / "a", lake)):
        assert found.knows("mine", "events")
        found.claim("MINE", "events")
        with pytest.raises(NeverAcceptable, match="holds events, not metrics"):
            found.claim("mine", "metrics")
        with pytest.raises(NeverAcceptable, match="holds metrics"):
            found.claim("raymetrics", "events")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["signals.json"]


def test_of_claims_at_once_one_wins(tmp_path: Path, lake: Lake) -> None:
    """Two senders of one new stream never both get it."""
    found = opened(tmp_path / "a", lake)

    def claim(number: int) -> str | None:
        signal = ("metrics", "events")[number % 2]
        try:
            found.claim("s", signal)
        except NeverAcceptable:
            return None
        return signal

    with ThreadPoolExecutor(8) as pool:
        won = set(pool.map(claim, range(40))) - {None}
    kept = json.loads((tmp_path / "a" / "signals.json").read_text())
    assert won == {kept["s"]["signal"]}


def test_another_receiver_obeys(tmp_path: Path, lake: Lake) -> None:
    """What one receiver settled is refused by the next that shares the lake."""
    first = opened(tmp_path / "a", lake)
    first.claim("S", "metrics")
    assert first.places([("S", "metrics")]) == {("S", "metrics"): "S"}
    second = opened(tmp_path / "b", Lake(lake.storage, OTHER))
    with pytest.raises(NeverAcceptable, match="holds metrics, not events"):
        second.claim("s", "events")
    second.claim("s", "metrics")


def test_default_streams_ask_nobody(tmp_path: Path, lake: Lake) -> None:
    """The streams that senders get without asking are never claimed."""
    found = opened(tmp_path / "a", lake)
    pairs = [("raymetrics", "metrics"), ("rayevents", "events")]
    assert found.places(pairs) == {pair: pair[0] for pair in pairs}
    assert lake.asked == 0
    assert not list(lake.storage.objects(""))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_receiver_that_loses_stores_elsewhere(
    tmp_path: Path, lake: Lake, order: tuple[int, int]
) -> None:
    """Taken by two while the lake was away, a stream goes to one; the rows of both are kept."""
    lakes = [lake, Lake(lake.storage, OTHER)]
    found = [opened(tmp_path / name, one) for name, one in zip("ab", lakes, strict=True)]
    signals = ["metrics", "events"]
    for one, receiver, signal in zip(lakes, found, signals, strict=True):
        one.is_away = True
        receiver.claim("shared", signal)
        with pytest.raises(StorageError):
            receiver.places([("shared", signal)])
        one.is_away = False
    pairs = [("shared", signal) for signal in signals]
    places = {n: found[n].places([pairs[n]])[pairs[n]] for n in order}
    winner, loser = order
    assert places == {winner: "shared", loser: f"shared-{signals[loser]}"}
    again = opened(tmp_path / "ab"[loser], lakes[loser])
    assert again.places([pairs[loser]]) == {pairs[loser]: places[loser]}


def test_the_smallest_claim_wins(lake: Lake) -> None:
    """Of claims that were made at the same moment every receiver takes the same."""
    claims.settle(lake.storage, {"s": "metrics"}, RECEIVER, pause=id)

    def pause(_: float) -> None:
        key = layout.claim_key("s2", "events", OTHER)
        lake.storage.put(key, memoryview(b"s2 events\n"))

    assert claims.settle(lake.storage, {"s2": "metrics"}, RECEIVER, pause) == {"s2": "events"}
    assert claims.holder(lake.storage, "S2") == "events"
    assert claims.holder(lake.storage, "s") == "metrics"


def test_a_stream_without_a_claim_holds_what_its_parts_hold(lake: Lake) -> None:
    """Parts that were there before claims were made decide."""
    commit(lake.storage, 1, gauge_request(1.0), stream="old")
    assert claims.settle(lake.storage, {"old": "events"}, OTHER, pause=id) == {"old": "metrics"}


def test_streams_are_bounded(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a new stream waits until one that the lake knows is out of use."""
    found = opened(tmp_path / "a", lake, max_streams=3)
    found.claim("a", "events")
    with pytest.raises(WalError, match="3 streams already: raise RAYOTEL_MAX_STREAMS"):
        found.claim("b", "events")
    found.claim("a", "events")
    assert found.places([("a", "events")]) == {("a", "events"): "a"}
    with pytest.raises(WalError):
        found.claim("b", "events")
    monkeypatch.setattr(stream_signals, "UNUSED_SECONDS", -1.0)
    found.claim("b", "events")
    assert not found.knows("a", "events")
    with pytest.raises(NeverAcceptable, match="holds events"):
        opened(tmp_path / "b", lake).claim("a", "metrics")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"a": "logs"}', '{"a": [1]}', '{"a": {"signal": "events"}}']
)
def test_a_damaged_file_is_named(tmp_path: Path, lake: Lake, content: str) -> None:
    """A server does not guess what streams hold."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "signals.json").write_text(content)
    with pytest.raises(WalError, match="cannot be read") as raised:
        opened(tmp_path / "a", lake)
    assert raised.value.hint


def test_what_cannot_be_written_is_no_claim(tmp_path: Path, lake: Lake) -> None:
    """A disk that fails is an error to try again, and nothing is taken."""
    found = opened(tmp_path / "a", lake)
    (tmp_path / "a" / "signals.new").mkdir()
    with pytest.raises(WalError, match="cannot write"):
        found.claim("a", "events")
    assert not found.knows("a", "events")
