"""Between rayotel and S3 everything goes wrong, and what was acknowledged arrives, once."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rayotel.errors import QueryError, StorageUnavailable
from rayotel.lake import catalog
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.lake.upkeep.compactor import Compactor, Schedule
from rayotel.model import TimeRange
from rayotel.query.session import Session
from support.fault_proxy import HEALTHY, Fault, FaultProxy, Kind
from support.harness import (
    LIMITS,
    PROTOBUF,
    S3_KEY_ID,
    S3_SECRET,
    Server,
    ask,
    gauge_request,
    make_bucket,
    rayotel_process,
    s3_server,
    wait_until,
)
from support.lakes import EPOCH, RECEIVER, START, commit
from support.receiver_answers import counted

OLDEST = "rayotel_oldest_uncommitted_timestamp_seconds"
COMMITS = "rayotel_commits_total"
WRONG_SECRET = "SWORDFISH-that-is-in-no-log"
PART = r"\.parquet"
_numbers = itertools.count()


@dataclass(frozen=True)
class World:
    """A real S3 server, and the proxy that rayotel takes for it."""

    s3_url: str
    proxy: FaultProxy

    def settings(self, secret: str = S3_SECRET) -> dict[str, str]:
        """Settings of a process that reaches the lake through the proxy."""
        return {
            "RAYOTEL_STORAGE": "s3://bucket/lake",
            "RAYOTEL_S3_ENDPOINT": self.proxy.url,
            "AWS_ACCESS_KEY_ID": S3_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": secret,
        }

    def storage(self, endpoint: str = "") -> Storage:
        """The lake, straight from the S3 server unless told otherwise."""
        return open_storage("s3://bucket/lake", s3_endpoint=endpoint or self.s3_url)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One S3 server and one proxy for all tests here."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url, FaultProxy(url) as proxy:
        make_bucket(url, "bucket")
        yield World(url, proxy)


@pytest.fixture(autouse=True)
def _healthy(world: World) -> Iterator[None]:
    """No fault outlives its test."""
    yield
    world.proxy.heal()


@pytest.fixture(scope="module")
def shared(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server that lives through one fault after the other."""
    with Server(tmp_path_factory.mktemp("serve") / "data", env=world.settings()) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture
def stream() -> str:
    """A stream of the test's own."""
    return f"s{next(_numbers)}"


def send(server: Server, stream: str, *numbers: int) -> None:
    """Post a request per number; each must be acknowledged."""
    for number in numbers:
        answer = server.post(gauge_request(number), {**PROTOBUF, "X-P-Stream": stream})
        assert answer.status_code == 200, answer.content


def values(world: World, stream: str) -> list[float]:
    """Every value of a stream, sorted, as the S3 server has them."""
    rows = ask(world.storage(), f"SELECT data_point_value AS v FROM {stream} ORDER BY v")
    return [row["v"] for row in rows]


def wait_for_commit(server: Server) -> None:
    """Until nothing that was acknowledged waits in the log."""
    wait_until(lambda: counted(server, OLDEST)[""] == 0)


def failed_commits(server: Server) -> float:
    """How often a commit failed."""
    return counted(server, COMMITS).get('outcome="failed"', 0)


# three requests are one commit's: the first and two more that boto3 makes by itself
FAULTS = {
    "refused": Fault(Kind.REFUSED),
    "reset": Fault(Kind.RESET),
    "500": Fault(Kind.STATUS, status=500),
    "503": Fault(Kind.STATUS, status=503),
    "request-cut": Fault(Kind.CUT_REQUEST, after_bytes=1000),
    "answer-cut": Fault(Kind.CUT_RESPONSE, after_bytes=20),
    "answer-lost": Fault(Kind.LOST_ANSWER),
}
PATIENT = {
    "silent": Fault(Kind.SILENT),
    "slow": Fault(Kind.SLOW, seconds=0.2, bytes_per_second=1000),
}


@pytest.mark.parametrize("name", FAULTS)
def test_points_arrive_once_after_a_commit_failed(
    world: World, shared: Server, stream: str, name: str
) -> None:
    """While storage fails all is acknowledged; when it is back all of it is there exactly once."""
    send(shared, stream, 1)
    wait_for_commit(shared)  # so that a connection is open when it begins
    before = failed_commits(shared)
    world.proxy.play(FAULTS[name])
    send(shared, stream, 2, 3)
    wait_until(lambda: failed_commits(shared) > before)
    assert FAULTS[name].kind is Kind.REFUSED or world.proxy.met >= 3
    send(shared, stream, 4, 5)
    world.proxy.heal()
    send(shared, stream, 6)
    wait_for_commit(shared)
    assert values(world, stream) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", PATIENT)
def test_no_request_waits_for_storage_that_is_slow(
    world: World, shared: Server, stream: str, name: str
) -> None:
    """While a write hangs, points are acknowledged; they arrive once."""
    world.proxy.play(PATIENT[name])
    send(shared, stream, 1)
    wait_until(lambda: world.proxy.met)
    send(shared, stream, 2, 3)
    assert counted(shared, OLDEST)[""] > 0
    world.proxy.heal()
    wait_for_commit(shared)
    assert values(world, stream) == [1, 2, 3]


def test_wrong_credentials_keep_points_until_they_are_mended(
    world: World, tmp_path: Path, stream: str
) -> None:
    """A server that may not write acknowledges, says why it waits, and shows no secret."""
    env = {**world.settings(WRONG_SECRET), "RAYOTEL_SHUTDOWN_TIMEOUT_SECONDS": "0.1"}
    with Server(tmp_path / "data", env=env) as server:
        send(server, stream, 1, 2)
        wait_until(lambda: "storage is away" in server.log())
        send(server, stream, 3)
        assert server.stop() == 1
        assert re.search("the S3 server answered (403|SignatureDoesNotMatch)", server.log())
        assert "are committed at the next start" in server.log()
        assert WRONG_SECRET not in server.log()
    with Server(tmp_path / "data", env=world.settings()) as server:
        assert server.stop() == 0
    assert values(world, stream) == [1, 2, 3]


def large(number: int) -> bytes:
    """A request of which the log below takes nine."""
    return gauge_request(number, text="x" * 2000)


def test_a_log_that_an_outage_filled_says_when_to_come_again(
    world: World, tmp_path: Path, stream: str
) -> None:
    """Up to the log's limit all is taken, beyond it 503; then it goes on, and all arrives."""
    env = {
        **world.settings(),
        "RAYOTEL_WAL_LIMIT_BYTES": "20000",
        "RAYOTEL_WAL_SEGMENT_BYTES": "5000",
        "RAYOTEL_MAX_COMPRESSED_BODY_BYTES": "10000",
    }
    headers = {**PROTOBUF, "X-P-Stream": stream}
    world.proxy.play(FAULTS["reset"])
    with Server(tmp_path / "data", env=env) as server:
        taken = 0
        while (answer := server.post(large(taken), headers)).status_code == 200:
            taken += 1
            assert taken < 20
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        wait_until(lambda: world.proxy.met >= 3)
        wal = (server.data_dir / "wal").glob("*.wal")
        assert sum(path.stat().st_size for path in wal) <= 20_000
        world.proxy.heal()
        wait_until(lambda: server.post(large(taken), headers).status_code == 200)
        assert server.stop() == 0
    assert values(world, stream) == list(range(taken + 1))


# -- questions ------------------------------------------------------------------------------------

# the listing fails, or the parts that it named do
QUESTIONS = {
    "503": Fault(Kind.STATUS, status=503),
    "listing-cut": Fault(Kind.CUT_RESPONSE, after_bytes=300),
    "parts-reset": Fault(Kind.RESET, only=PART),
    "parts-500": Fault(Kind.STATUS, status=500, only=PART),
    "parts-cut": Fault(Kind.CUT_RESPONSE, after_bytes=2000, only="GET .*" + PART),
    # after the footers, when the question itself reads
    "rows-cut": Fault(Kind.CUT_RESPONSE, after_bytes=2000, only="GET .*" + PART, skip=2),
    "parts-silent": Fault(Kind.SILENT, only=PART),
}
ROWS = 10_000
SUM = "SELECT count(data_point_value) AS n, sum(data_point_value::BIGINT) AS s FROM many"


@pytest.fixture(scope="module")
def many(world: World) -> list[dict[str, object]]:
    """The right answer of SUM about two parts, of which no footer's neighbourhood holds all."""
    chance = random.Random(7)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", S3_KEY_ID)
        environment.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
        for number in (1, 2):
            body = gauge_request(
                *(chance.getrandbits(50) for _ in range(ROWS)), time_unix_nano=START + number
            )
            commit(world.storage(), number, body, stream="many")
        answer = ask(world.storage(), SUM)
    assert answer[0]["n"] == 2 * ROWS
    return answer


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_to_storage_that_fails_has_no_answer(
    world: World, many: list[dict[str, object]], name: str
) -> None:
    """It is an error that says what to look at, never a wrong answer, and the next is right."""
    storage = open_storage("s3://bucket/lake", s3_endpoint=world.proxy.url, longest_wait_seconds=1)
    world.proxy.play(QUESTIONS[name])
    with (
        pytest.raises((StorageUnavailable, QueryError)) as raised,
        Session(storage, TimeRange(), replace(LIMITS, timeout_seconds=1), mentioned_in=SUM) as one,
    ):
        one.run(SUM).rows()
    assert raised.value.hint
    assert "DESCRIBE" not in raised.value.message
    assert world.proxy.met
    world.proxy.heal()
    assert ask(storage, SUM) == many


@pytest.mark.parametrize("name", ["refused", "silent", "rows-cut", "wrong credentials"])
@pytest.mark.usefixtures("many")
def test_the_command_says_what_is_wrong_with_storage(world: World, name: str) -> None:
    """Exit code 1, a sentence and a hint, no secret; where all is silent, soon enough."""
    secret = WRONG_SECRET if name == "wrong credentials" else S3_SECRET
    world.proxy.play({**FAULTS, **PATIENT, **QUESTIONS}.get(name, HEALTHY))
    env = {**world.settings(secret), "RAYOTEL_QUERY_TIMEOUT_SECONDS": "1"}
    run = rayotel_process("query", SUM, env=env)
    assert (run.returncode, run.stdout) == (1, "")
    assert re.match(r"error: .*\nhint: ", run.stderr), run.stderr
    assert "Traceback" not in run.stderr
    assert secret not in run.stderr


# -- compaction -----------------------------------------------------------------------------------

NOW = Schedule(after_seconds=0, grace_seconds=0.001)
MERGING = {
    "listing": Fault(Kind.STATUS, status=500, only="GET .*list-type"),
    "fetching": Fault(Kind.CUT_RESPONSE, after_bytes=2000, only="GET .*-0-.*" + PART, skip=1),
    "writing-cut": Fault(Kind.CUT_REQUEST, after_bytes=2000, only="PUT .*-1-.*" + PART),
    "writing-lost": Fault(Kind.LOST_ANSWER, only="PUT .*-1-.*" + PART),
    "removing": Fault(Kind.STATUS, status=503, only="DELETE .*-0-.*" + PART, skip=1),
}


@pytest.mark.parametrize("name", MERGING)
def test_compaction_that_meets_a_fault_changes_no_answer(
    world: World, tmp_path: Path, stream: str, name: str
) -> None:
    """Wherever merging ends, every point is there once; the next pass finishes the work."""
    for number in (1, 2, 3):
        body = gauge_request(number, time_unix_nano=START + number)
        commit(world.storage(), number, body, stream=stream)
    compactor = Compactor(world.storage(world.proxy.url), tmp_path, NOW)

    def is_tidy() -> bool:
        compactor.run(RECEIVER, streams=[stream])
        return names_of(world, stream) == [f"{RECEIVER}-1-{EPOCH}.1.3.parquet"]

    world.proxy.play(MERGING[name])
    with pytest.raises(StorageUnavailable):
        wait_until(is_tidy)
    assert world.proxy.met
    assert values(world, stream) == [1, 2, 3]
    world.proxy.heal()
    wait_until(is_tidy)
    assert values(world, stream) == [1, 2, 3]


def names_of(world: World, stream: str) -> list[str]:
    """The names of a stream's parts, those that others hide among them."""
    found = catalog.all_parts(world.storage(), stream)
    return sorted(part.name.key.rpartition("/")[2] for part in found)
