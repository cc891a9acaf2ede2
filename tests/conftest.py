"""Fixtures: storage of both kinds, servers, and the recorded cluster stored once a run.

A test that starts a process carries the mark `system`: by living in tests/system, by a fixture or
a name that starts processes, or by saying so itself. Any other test may start none.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from rayotel import replay
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.replay import Recording
from support import processes
from support.examples import load_profiles
from support.harness import (
    EVENTS_RECORDING,
    RECORDING,
    S3_KEY_ID,
    S3_SECRET,
    Server,
    make_bucket,
    s3_server,
)
from support.kept_answers import commit_recordings
from support.limited import limited
from support.once import once_a_run
from support.threaded import Threaded

load_profiles()
LONG = {"test_hostile.py", "test_bounded_questions.py", "test_crowds.py", "test_migration.py"}
SYSTEM = Path(__file__).parent / "system"
STARTERS = frozenset({"Server", "s3_server", "rayotel_process", "RAYOTEL", "subprocess"})
FIXTURE_SECONDS = 900
REQUESTS_OF_A_SEGMENT = 100


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes, as far as it shows; files that take long begin first."""
    for item in items:
        if isinstance(item, pytest.Function) and _starts_processes(item):
            item.add_marker(pytest.mark.system)
    items.sort(key=lambda item: SYSTEM not in item.path.parents and item.path.name not in LONG)


def _starts_processes(item: pytest.Function) -> bool:
    fixtures = item._fixtureinfo.name2fixturedefs
    functions = [item.function, *(found[-1].func for found in fixtures.values())]
    call = getattr(item, "callspec", None)
    # fixtures of both kinds of storage start the S3 server for one of them
    if SYSTEM in item.path.parents or (call is not None and "s3" in call.params.values()):
        return True
    codes = (one.__code__ for one in map(inspect.unwrap, functions) if inspect.isfunction(one))
    return any(not STARTERS.isdisjoint(_names(code)) for code in codes)


def _names(code: CodeType) -> Iterator[str]:
    """All names that a function uses, those of functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _guarded(item: pytest.Item) -> contextlib.AbstractContextManager[None]:
    is_system = item.get_closest_marker("system") is not None
    return contextlib.nullcontext() if is_system else processes.forbidden()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Fixtures of a fast test start no process."""
    with _guarded(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A fast test starts no process."""
    with _guarded(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
    """Each fixture has a limit of its own, so that no test pays for what it shares."""
    with limited(FIXTURE_SECONDS, f"the fixture {fixturedef.argname}"):
        return (yield)


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


@pytest.fixture(autouse=True)
def _no_process_for_a_question(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast test asks without a process; a system test as everybody does."""
    if request.node.get_closest_marker("system") is None:
        monkeypatch.setattr("rayotel.query.lake.Supervised", Threaded)


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
def events_recording() -> Recording:
    """Ray's own events of the recorded cluster."""
    return replay.load(EVENTS_RECORDING)


@pytest.fixture(scope="session")
def recorded_lake(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Metrics of the recorded cluster, committed without a server. Only to be read."""
    return _recorded(tmp_path_factory, "recorded", [RECORDING])


@pytest.fixture(scope="session")
def events_lake(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Metrics and events of the recorded cluster, without a server. Only to be read."""
    return _recorded(tmp_path_factory, "recorded-events", [RECORDING, EVENTS_RECORDING])


def _recorded(
    tmp_path_factory: pytest.TempPathFactory, name: str, recordings: list[Path]
) -> Storage:
    def make(directory: Path) -> None:
        commit_recordings(open_storage(str(directory)), recordings, REQUESTS_OF_A_SEGMENT)

    return open_storage(str(once_a_run(tmp_path_factory, name, make)))


@pytest.fixture(scope="session")
def served_lake(
    recording: Recording,
    events_recording: Recording,
    tmp_path_factory: pytest.TempPathFactory,
) -> Storage:
    """Metrics and events of the recorded cluster, as a real server stored them. Only to be read."""

    def make(data_dir: Path) -> None:
        with Server(data_dir) as server, ThreadPoolExecutor(2) as pool:
            both = (recording, events_recording)
            for outcome in pool.map(lambda one: replay.post(one, server.url, speed=None), both):
                assert {status for _, status in outcome.answers} == {200}
            assert server.stop() == 0

    data_dir = once_a_run(tmp_path_factory, "served", make)
    return open_storage(str(data_dir / "lake"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running server on an empty data directory."""
    with Server(tmp_path / "data") as running:
        yield running
