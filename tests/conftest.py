"""Fixtures: storage of both kinds, servers, and the recorded cluster replayed once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayotel import replay
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.replay import Recording
from support.harness import (
    EVENTS_RECORDING,
    RECORDING,
    S3_KEY_ID,
    S3_SECRET,
    Server,
    make_bucket,
    s3_server,
)


@pytest.fixture(autouse=True)
def _own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No test sees the settings of whoever runs it."""
    monkeypatch.setenv("RAYOTEL_CONFIG", "/dev/null")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "caches"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", S3_KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real S3 server: its URL and the directory whose folders are its buckets."""
    directory = tmp_path_factory.mktemp("s3")
    with s3_server(directory) as url:
        yield url, directory


_numbers = itertools.count()


@pytest.fixture(params=["directory", "s3"])
def make_storage(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], tuple[Storage, dict[str, str]]]]:
    """Makes empty storage of either kind, with the settings by which a process reaches it."""
    opened: list[Storage] = []

    def make() -> tuple[Storage, dict[str, str]]:
        number = next(_numbers)
        if request.param == "directory":
            settings = {"RAYOTEL_STORAGE": str(tmp_path / f"lake-{number}")}
            storage = open_storage(settings["RAYOTEL_STORAGE"])
        else:
            url, _ = request.getfixturevalue("s3")
            make_bucket(url, f"bucket{number}")
            settings = {
                "RAYOTEL_STORAGE": f"s3://bucket{number}/some/prefix",
                "RAYOTEL_S3_ENDPOINT": url,
                "AWS_ACCESS_KEY_ID": S3_KEY_ID,
                "AWS_SECRET_ACCESS_KEY": S3_SECRET,
            }
            storage = open_storage(settings["RAYOTEL_STORAGE"], s3_endpoint=url)
        opened.append(storage)
        return storage, settings

    yield make
    for storage in opened:
        storage.close()


@pytest.fixture
def storage(make_storage: Callable[[], tuple[Storage, dict[str, str]]]) -> Storage:
    """Empty storage of either kind."""
    return make_storage()[0]


@pytest.fixture(scope="session")
def recording() -> Recording:
    """The recorded cluster."""
    return replay.load(RECORDING)


@pytest.fixture(scope="session")
def recorded_lake(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """The lake of a real server after the whole recording was posted to it. Only to be read."""
    data_dir = tmp_path_factory.mktemp("recorded") / "data"
    with Server(data_dir) as server:
        replay.post(recording, server.url, speed=None)
        assert server.stop() == 0
    return open_storage(str(data_dir / "lake"))


@pytest.fixture(scope="session")
def events_recording() -> Recording:
    """Ray's own events of the recorded cluster."""
    return replay.load(EVENTS_RECORDING)


@pytest.fixture(scope="session")
def events_lake(
    recording: Recording,
    events_recording: Recording,
    tmp_path_factory: pytest.TempPathFactory,
) -> Storage:
    """Metrics and events of the recorded cluster, as a real server stored them. Only to be read."""
    data_dir = tmp_path_factory.mktemp("recorded-events") / "data"
    with Server(data_dir) as server, ThreadPoolExecutor(2) as pool:
        both = (recording, events_recording)
        for outcome in pool.map(lambda one: replay.post(one, server.url, speed=None), both):
            assert {status for _, status in outcome.answers} == {200}
        assert server.stop() == 0
    return open_storage(str(data_dir / "lake"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server on an empty data directory."""
    with Server(tmp_path / "data") as running:
        yield running
