"""Ray's own events: from the socket to the table."""

from __future__ import annotations

from harness import ask
from rayotel.lake.storage import Storage


def test_every_recorded_event_is_one_row(events_lake: Storage) -> None:
    """Each recorded event is in the lake once, beside the metrics of the same cluster."""
    (found,) = ask(
        events_lake,
        "SELECT count(*) AS n, count(DISTINCT event_id) AS ids, count(problem) AS bad,"
        " (SELECT count(*) FROM raymetrics) AS points FROM rayevents",
    )
    assert found == {"n": 23_781, "ids": 23_781, "bad": 0, "points": 111_713}
