"""The kinds of data: one list, and a file of each in the rooms that treat them apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rayotel
from rayotel.config import Settings
from rayotel.lake import schema, signal
from rayotel.lake.signal import SIGNALS, Signal
from rayotel.model import is_stream_name

SOURCE = Path(rayotel.__file__).parent
PIECES = {
    "rayotel.ingest.decode": "BodyDecoder",
    "rayotel.lake.rows": "tables",
    "rayotel.lake.merge": "merge",
}
every_signal = pytest.mark.parametrize("one", SIGNALS, ids=lambda one: one.name)


@every_signal
@pytest.mark.parametrize("room", PIECES)
def test_each_room_has_a_file_of_each_signal(room: str, one: Signal) -> None:
    """What treats signals differently stands in a file that is named as the signal."""
    piece = getattr(one.piece(room), PIECES[room])
    assert callable(piece)
    assert SOURCE.parent.joinpath(*room.split("."), f"{one.name}.py").is_file()


@every_signal
def test_a_signal_fits_the_rest(one: Signal) -> None:
    """Its stream, setting, path and columns are those that other rooms count on."""
    assert is_stream_name(one.default_stream)
    assert getattr(Settings(), f"{one.name}_stream") == one.default_stream
    assert one.path == f"/v1/{one.name}"
    assert {"p_timestamp", "time_unix_nano", schema.OVERFLOW} <= set(one.types)
    assert one.merged.sorted_by in one.types
    assert bool(one.rejected_field) == one.is_otlp


def test_a_column_identifies_its_signal() -> None:
    """A part whose footer names no signal is known by a column that no other signal has."""
    for one in SIGNALS:
        assert signal.of_columns([*one.types, "metric_x", "cluster_id"]) is one
        assert not [two.name for two in SIGNALS if two is not one and one.identity in two.types]


def test_no_other_module_lists_the_kinds() -> None:
    """The names of signals are written in one place."""
    names = "|".join(one.name for one in SIGNALS)
    listing = re.compile(rf"[\"']({names})[\"'].*[\"']({names})[\"']")
    modules = [path for path in SOURCE.rglob("*.py") if listing.search(path.read_text("utf-8"))]
    assert [path.name for path in modules] == []
    assert listing.search("('metrics', 'events')")
