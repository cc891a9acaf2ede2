"""Which signal a stream holds: first come, first served, and remembered for good."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayotel.errors import LogError, NeverAcceptable
from rayotel.ingest.wal import stream_signals
from rayotel.ingest.wal.stream_signals import StreamSignals


def opened(directory: Path) -> StreamSignals:
    """What a start knows."""
    found = StreamSignals(directory / "signals.json", {"raymetrics": "metrics"})
    found.open()
    return found


def test_a_claim_is_durable_and_blind_to_case(tmp_path: Path) -> None:
    """The first claim holds through a restart, for every spelling of the name."""
    one = opened(tmp_path)
    assert not one.knows("Mine", "events")
    one.claim("Mine", "events")
    for found in (one, opened(tmp_path)):
        assert found.knows("mine", "events")
        found.claim("MINE", "events")
        with pytest.raises(NeverAcceptable, match="holds events, not metrics"):
            found.claim("mine", "metrics")
        with pytest.raises(NeverAcceptable, match="holds metrics"):
            found.claim("raymetrics", "events")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["signals.json"]


def test_of_claims_at_once_one_wins(tmp_path: Path) -> None:
    """Two senders of one new stream never both get it."""
    found = opened(tmp_path)

    def claim(number: int) -> str | None:
        signal = ("metrics", "events")[number % 2]
        try:
            found.claim("s", signal)
        except NeverAcceptable:
            return None
        return signal

    with ThreadPoolExecutor(8) as pool:
        won = set(pool.map(claim, range(40))) - {None}
    assert won == {json.loads((tmp_path / "signals.json").read_text())["s"]}


def test_streams_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound no new stream is taken; those that are known go on."""
    monkeypatch.setattr(stream_signals, "MAX_STREAMS", 2)
    found = opened(tmp_path)
    found.claim("a", "events")
    with pytest.raises(NeverAcceptable, match="2 streams"):
        found.claim("b", "events")
    found.claim("a", "events")


@pytest.mark.parametrize("content", ["", "[]", '{"a": "logs"}', '{"a": [1]}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    """A server does not guess what streams hold."""
    (tmp_path / "signals.json").write_text(content)
    with pytest.raises(LogError, match="cannot be read") as raised:
        opened(tmp_path)
    assert raised.value.hint


def test_what_cannot_be_written_is_no_claim(tmp_path: Path) -> None:
    """A disk that fails is an error to try again, and nothing is taken."""
    found = opened(tmp_path)
    (tmp_path / "signals.new").mkdir()
    with pytest.raises(LogError, match="cannot write"):
        found.claim("a", "events")
    assert not found.knows("a", "events")
