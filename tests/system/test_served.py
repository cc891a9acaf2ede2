"""The lake that tests make without a server is the lake that a server makes."""

from __future__ import annotations

import csv
import io

import pytest

from rayotel.lake.storage.interface import Storage
from rayotel.query.ray import questions
from support.harness import ask
from support.kept_answers import answer, kept
from support.shipped import every_question

# what a row says of its own arrival
ARRIVAL = "p_timestamp, p_src_ip, p_user_agent"
# labels whose names differ in case alone share a column of their part, so it depends on the part
OF_THE_PART = "labels_overflow"


@pytest.mark.parametrize("stream", ["raymetrics", "rayevents"])
def test_a_server_stores_the_same_rows(
    served_lake: Storage, events_lake: Storage, stream: str
) -> None:
    """All columns of all rows are equal, but for how they arrived and with which others."""
    described = f"DESCRIBE SELECT * EXCLUDE ({ARRIVAL}, {OF_THE_PART}) FROM {stream}"
    names, others = (
        sorted(row["column_name"] for row in ask(lake, described))
        for lake in (served_lake, events_lake)
    )
    assert names == others
    key = "series_id" if stream == "raymetrics" else "event_id"
    # with its series and time, so that a value in the wrong row is seen; a column each, to name it
    sums = (
        f'sum(hash({key}, time_unix_nano, "{name}")::HUGEINT)::VARCHAR AS "{name}"'
        for name in names
    )
    sql = f"SELECT count(*)::VARCHAR AS all_rows, {', '.join(sums)} FROM {stream}"
    (served,), (made,) = (ask(lake, sql) for lake in (served_lake, events_lake))
    assert {name for name in served if served[name] != made[name]} == set()


@every_question
def test_a_server_gives_the_kept_answers(
    served_lake: Storage, question: questions.ShippedQuery
) -> None:
    """Parts of a server's cut and other times of arrival change no answer."""
    found = _without_arrival(answer(served_lake, question))
    assert found == _without_arrival(kept("both", question.name))


def _without_arrival(text: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    for row in rows:
        row.pop("latest_arrival_seconds", None)
    return rows
