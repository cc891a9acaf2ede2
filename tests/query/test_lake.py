"""A lake is one object that serves every reader, also several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayotel.config import Settings
from rayotel.errors import QueryError
from rayotel.lake.storage.opening import open_storage
from rayotel.query.lake import Lake, lake_of
from support.harness import LIMITS, gauge_request
from support.lakes import commit


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake of two streams."""
    storage = open_storage(str(tmp_path / "lake"))
    commit(storage, 1, gauge_request(*range(100)), stream="many")
    commit(storage, 2, gauge_request(1.0), stream="few")
    return Lake(storage, LIMITS)


def test_questions_at_once_do_not_disturb_each_other(lake: Lake) -> None:
    """Each has a session of its own, whose rows, errors and end are its own."""

    def count(number: int) -> int:
        stream = ("many", "few")[number % 2]
        if number % 5 == 4:
            with pytest.raises(QueryError), lake.ask(f"SELECT nothing FROM {stream}"):
                pass
        with lake.ask(f"SELECT count(*) AS n FROM {stream}") as result:
            rows = result.rows()
        return int(rows[0]["n"])

    with ThreadPoolExecutor(6) as pool:
        counts = list(pool.map(count, range(24)))
    assert counts == [100, 1] * 12


def test_a_lake_lists_its_streams(lake: Lake) -> None:
    """What rayotel keeps for itself beside the streams is none."""
    lake.storage.put("_rayotel/claims/few/metrics-0123456789ab", memoryview(b"x"))
    assert lake.streams() == ["few", "many"]


def test_settings_name_the_lake(tmp_path: Path, lake: Lake) -> None:
    """Storage, bounds and the streams of views come from the settings."""
    settings = Settings(
        storage=lake.storage.url, metrics_stream="many", query_threads=1, cache_bytes=0
    )
    found = lake_of(settings)
    assert found.streams() == ["few", "many"]
    assert (found.reads.metrics, found.limits.threads, found.cache) == ("many", 1, None)
