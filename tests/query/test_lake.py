"""A lake is one object that serves every reader, also several at once."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayotel.config import Settings
from rayotel.errors import QueryError
from rayotel.lake.storage.opening import open_storage
from rayotel.model import NANOSECONDS_PER_HOUR
from rayotel.query.lake import Lake, lake_of
from support.command import rayotel
from support.harness import LIMITS, gauge_request
from support.lakes import T0, commit, gauge, write


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


def test_the_files_that_count_are_listed(tmp_path: Path) -> None:
    """Key, rows, bytes and event times of each part; one that another covers is not shown."""
    storage = open_storage(str(tmp_path / "parts"))
    write(storage, gauge(1), gauge(2, at=T0 + 1000), first=1)
    write(storage, gauge(3), first=2)
    (key,) = write(
        storage, *(gauge(n, at=T0 + n * 1000) for n in range(3)), first=1, last=2, level=1
    )
    (late,) = write(storage, gauge(4, at=T0 + NANOSECONDS_PER_HOUR), first=3)
    done = rayotel("streams", "raymetrics", "--files", "--format", "json", "--storage", storage.url)
    listed = json.loads(done.stdout)
    assert [(part["key"], part["rows"]) for part in listed] == [(key, 3), (late, 1)]
    assert listed[0]["bytes"] == len(storage.read(key))
    assert listed[0]["first_event"] == "2026-11-20T15:00:00Z"
    assert listed[0]["last_event"] == "2026-11-20T15:00:00.000002Z"
    options = ("--since", "1h", "--storage", storage.url)
    assert "no files of stream" in rayotel("streams", "raymetrics", "--files", *options).stderr
    assert rayotel("streams", "--files", "--storage", storage.url).returncode == 2
    assert rayotel("streams", "nope", "--files", "--storage", storage.url).returncode == 1


def test_an_output_that_is_a_pipe_is_written_and_stays_one(tmp_path: Path, lake: Lake) -> None:
    """A device such as /dev/null is not replaced by a file of its name."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    options = ("--format", "csv", "--output", str(pipe), "--storage", lake.storage.url)
    assert rayotel("query", "SELECT count(*) AS n FROM few", *options).returncode == 0
    assert os.read(reader, 100) == b"n\r\n1\r\n"
    os.close(reader)
    assert pipe.is_fifo()
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == []
