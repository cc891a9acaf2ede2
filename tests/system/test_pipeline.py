"""From acknowledgement to part, through crashes and faults, on a directory and on S3."""

from __future__ import annotations

import gzip
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from rayotel.ingest.wal import segments
from rayotel.lake import catalog
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from support.committing import keys
from support.event_bodies import of_numbers
from support.harness import (
    JSON,
    PROTOBUF,
    Server,
    ask,
    gauge_request,
    rayotel_process,
    s3_server,
    wait_until,
)

MakeStorage = Callable[[], tuple[Storage, dict[str, str]]]
GZIPPED = {**PROTOBUF, "Content-Encoding": "gzip"}
NEVER = ("--commit-interval-seconds", "3600")


def values(storage: Storage, stream: str = "raymetrics") -> list[float]:
    """Every value of a stream, sorted."""
    rows = ask(storage, f'SELECT data_point_value AS v FROM "{stream}" ORDER BY v')
    return [row["v"] for row in rows]


def send(server: Server, *numbers: float) -> None:
    """Post one request per number; each must be acknowledged."""
    for number in numbers:
        answer = server.post(gauge_request(number), PROTOBUF)
        assert answer.status_code == 200, answer.content


def segments_of(server: Server) -> list[Path]:
    """The segments of the server's log."""
    return sorted((server.data_dir / "wal").glob("*.wal"))


def test_acknowledged_points_are_in_parts_after_sigterm(
    make_storage: MakeStorage, tmp_path: Path
) -> None:
    """SIGTERM commits everything that was acknowledged and then exits 0."""
    storage, settings = make_storage()
    with Server(tmp_path / "data", *NEVER, env=settings) as server:
        send(server, 1, 2, 3)
        assert server.stop() == 0
    assert values(storage) == [1, 2, 3]


def test_points_appear_while_the_server_runs(make_storage: MakeStorage, tmp_path: Path) -> None:
    """A commit needs no stop: within the interval a point can be asked for."""
    storage, settings = make_storage()
    with Server(tmp_path / "data", env=settings) as server:
        send(server, 1)
        wait_until(lambda: keys(storage))
        assert values(storage) == [1]
        wait_until(lambda: "rayotel_oldest_uncommitted_timestamp_seconds 0.0" in metrics(server))


def metrics(server: Server) -> str:
    """The server's own metrics."""
    return server.get("/metrics").text


def test_kill_9_loses_nothing(make_storage: MakeStorage, tmp_path: Path) -> None:
    """What was acknowledged and not committed is committed by the next start."""
    storage, settings = make_storage()
    with Server(tmp_path / "data", *NEVER, env=settings) as server:
        send(server, 1, 2, 3)
        server.kill()
        server.start()
        send(server, 4)
        assert server.stop() == 0
    assert values(storage) == [1, 2, 3, 4]


def test_a_commit_done_twice_stores_once(make_storage: MakeStorage, tmp_path: Path) -> None:
    """A crash after the upload and before the release repeats the commit under the same names."""
    storage, settings = make_storage()
    with Server(tmp_path / "data", *NEVER, env=settings) as server:
        send(server, 1, 2)
        kept = [(path, path.read_bytes()) for path in segments_of(server)]
        assert server.stop() == 0
        before = sorted(item.key for item in storage.objects(""))
        for path, content in kept:  # as if the release had not happened
            path.write_bytes(content)
        server.start()
        assert server.stop() == 0
    assert sorted(item.key for item in storage.objects("")) == before
    assert values(storage) == [1, 2]


def test_segment_numbers_are_never_used_again(tmp_path: Path) -> None:
    """However often a server restarts, each part has a name of its own."""
    storage = open_storage(str(tmp_path / "data" / "lake"))
    with Server(tmp_path / "data") as server:
        for number in range(3):
            send(server, number)
            assert server.stop() == 0
            server.start()
        server.stop()
    assert values(storage) == [0, 1, 2]
    assert len(keys(storage)) == 3


def test_columns_beyond_the_bound_are_decoded_again(tmp_path: Path) -> None:
    """Rows decoded from the log are the rows that memory would have given."""
    columns = "SELECT * EXCLUDE (p_timestamp) FROM raymetrics ORDER BY ALL"
    body = gauge_request(1, 2, 3, time_unix_nano=1_790_000_000_123_456_789, Name="a", name="b")
    answers = []
    for number, bound in enumerate(("1", "20000000")):
        env = {"RAYOTEL_MAX_WAITING_COLUMNS_BYTES": bound}
        with Server(tmp_path / str(number) / "data", *NEVER, env=env) as server:
            assert server.post(body, {**PROTOBUF, "X-P-Env": "dev"}).status_code == 200
            assert server.stop() == 0
        answers.append(ask(open_storage(str(server.data_dir / "lake")), columns))
    assert answers[0] == answers[1]
    assert len(answers[0]) == 3


def test_a_log_segment_is_no_larger_than_a_commit_can_hold(tmp_path: Path) -> None:
    """Small bodies of many points fill a segment by what they take decoded."""
    with Server(tmp_path / "data", *NEVER) as server:
        for number in range(3):
            body = gauge_request(*[number] * 300_000)
            assert server.post(gzip.compress(body, 1), GZIPPED).status_code == 200
        send(server, 3)
        assert segments_of(server)[-1].stem == "000000000004"
        assert server.stop() == 0
    storage = open_storage(str(tmp_path / "data" / "lake"))
    counts = ask(storage, "SELECT count(*) AS n FROM raymetrics GROUP BY data_point_value")
    assert sorted(row["n"] for row in counts) == [1, *[300_000] * 3]


def test_a_damaged_middle_is_moved_aside(tmp_path: Path) -> None:
    """Flipped bits cost one record, are kept in a file, counted and told; the start goes on."""
    with Server(tmp_path / "data", *NEVER) as server:
        send(server, 1, 2, 3)
        server.kill()
        (path,) = segments_of(server)
        content = bytearray(path.read_bytes())
        items = list(segments.read_segment(bytes(content), int(path.stem)))
        assert len(items) == 3
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        server.start()
        wait_until(lambda: 'rayotel_commits_total{outcome="done"} 1.0' in metrics(server))
        assert 'rayotel_wal_damaged_bytes_total{place="middle"}' in metrics(server)
        assert "WAL segment is damaged" in server.log()
        assert server.stop() == 0
    assert values(open_storage(str(tmp_path / "data" / "lake"))) == [1, 3]
    assert list((tmp_path / "data" / "wal" / "damaged").iterdir())


def test_a_full_disk_is_answered_503_and_heals(tmp_path: Path) -> None:
    """A log that cannot grow refuses politely, keeps what it took, and goes on when it can."""
    with Server(tmp_path / "data", *NEVER) as server:
        send(server, 1)
        (path,) = segments_of(server)
        limit = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (path.stat().st_size + 40, limit[1]))
        refused = server.post(gauge_request(2), PROTOBUF)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, limit)
        send(server, 3)
        server.kill()
        server.start()
        assert server.stop() == 0
    assert values(open_storage(str(tmp_path / "data" / "lake"))) == [1, 3]


def test_a_full_log_is_answered_503(tmp_path: Path) -> None:
    """While storage refuses, the log grows to its limit and no further; all of it arrives later."""
    blocked = tmp_path / "lake"
    blocked.write_text("a file where the lake should be")
    env = {
        "RAYOTEL_STORAGE": str(blocked),
        "RAYOTEL_WAL_LIMIT_BYTES": "20000",
        "RAYOTEL_WAL_SEGMENT_BYTES": "5000",
        "RAYOTEL_MAX_COMPRESSED_BODY_BYTES": "10000",
    }
    with Server(tmp_path / "data", env=env) as server:
        taken = 0
        while (answer := server.post(gauge_request(taken), PROTOBUF)).status_code == 200:
            taken += 1
            assert taken < 200
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert b"full" in answer.content
        assert server.get("/api/v1/readiness").status_code == 200
        assert sum(path.stat().st_size for path in segments_of(server)) <= 20_000
        blocked.unlink()
        wait_until(lambda: server.post(gauge_request(taken), PROTOBUF).status_code == 200)
        assert server.stop() == 0
    assert values(open_storage(str(blocked))) == list(range(taken + 1))


def stopped_s3(directory: Path) -> dict[str, str]:
    """Settings for an S3 server that is not there any more."""
    with s3_server(directory) as url:
        gone = url
    return {
        "RAYOTEL_STORAGE": "s3://bucket/lake",
        "RAYOTEL_S3_ENDPOINT": gone,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7NOTTHERE",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-in-no-log",
        "RAYOTEL_SHUTDOWN_TIMEOUT_SECONDS": "1",
    }


def test_unreachable_storage_stops_no_receiver(tmp_path: Path) -> None:
    """Without its storage a server starts, takes points, says so at its end, and loses nothing."""
    (tmp_path / "s3").mkdir()
    settings = stopped_s3(tmp_path / "s3")
    with Server(tmp_path / "data", env=settings) as server:
        send(server, 1, 2)
        wait_until(lambda: "storage is away" in server.log())
        assert server.stop() == 1
        assert "are committed at the next start" in server.log()
        assert settings["AWS_SECRET_ACCESS_KEY"] not in server.log()
    with Server(tmp_path / "data") as server:
        assert server.stop() == 0
    assert values(open_storage(str(tmp_path / "data" / "lake"))) == [1, 2]


def test_one_request_spreads_over_streams_and_hours(
    make_storage: MakeStorage, tmp_path: Path
) -> None:
    """Points land in the hour of their own time and the stream of their header."""
    storage, settings = make_storage()
    hour = 3600 * 10**9
    times = [1_790_000_000 * 10**9, 1_790_000_000 * 10**9 + hour, 1_700_000_000 * 10**9]
    with Server(tmp_path / "data", *NEVER, env=settings) as server:
        for number, moment in enumerate(times):
            body = gauge_request(number, time_unix_nano=moment)
            for stream in ("one", "two"):
                headers = {**PROTOBUF, "X-P-Stream": stream}
                assert server.post(body, headers).status_code == 200
        assert server.stop() == 0
    keys = [item.key for item in storage.objects("") if item.key.endswith(".parquet")]
    assert len(keys) == 6
    assert sum("one/date=2023-11-14/hour=22/" in key for key in keys) == 1
    assert values(storage, "one") == values(storage, "two") == [0, 1, 2]


def test_two_servers_on_one_data_directory(server: Server) -> None:
    """The second server is refused with words, and the first goes on."""
    second = rayotel_process("serve", "--port", "0", "--data-dir", str(server.data_dir))
    assert second.returncode == 1
    assert "another rayotel serves the data directory" in second.stderr
    send(server, 1)


def test_two_receivers_share_a_bucket(make_storage: MakeStorage, tmp_path: Path) -> None:
    """Servers with data directories of their own write to one lake, and a question sees both."""
    storage, settings = make_storage()
    with (
        Server(tmp_path / "a" / "data", env=settings) as first,
        Server(tmp_path / "b" / "data", env=settings) as second,
    ):
        send(first, 1)
        send(second, 2)
        assert (first.stop(), second.stop()) == (0, 0)
    assert values(storage) == [1, 2]


def test_a_lost_log_directory_never_overwrites_parts(tmp_path: Path) -> None:
    """A new log makes a new receiver, so its parts cannot take the names of older ones."""
    with Server(tmp_path / "data") as server:
        send(server, 1)
        assert server.stop() == 0
        shutil.rmtree(tmp_path / "data" / "wal")
        server.start()
        send(server, 2)
        assert server.stop() == 0
    assert values(open_storage(str(tmp_path / "data" / "lake"))) == [1, 2]


def test_an_unusable_data_directory_is_told(tmp_path: Path) -> None:
    """A data directory that cannot be made gets a sentence and a hint, not a traceback."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    run = rayotel_process("serve", "--port", "0", "--data-dir", str(blocked / "data"))
    assert run.returncode == 1
    assert "cannot use the data directory" in run.stderr
    assert "hint:" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_settings_name_the_default_streams(tmp_path: Path) -> None:
    """What names no stream goes where the settings say, and questions find it by its usual name."""
    env = {"RAYOTEL_METRICS_STREAM": "ours", "RAYOTEL_EVENTS_STREAM": "theirs"}
    with Server(tmp_path / "data", env=env) as server:
        assert server.post(gauge_request(1.0), PROTOBUF).status_code == 200
        assert server.post(of_numbers([1, 2]), JSON, "/v1/events").status_code == 200
        assert server.stop() == 0
    lake = tmp_path / "data" / "lake"
    assert catalog.streams(open_storage(str(lake))) == ["ours", "theirs"]
    sql = "SELECT (SELECT count(*) FROM raymetrics) AS m, (SELECT count(*) FROM rayevents) AS e"
    done = rayotel_process("query", sql, "--storage", str(lake), "--format", "ndjson", env=env)
    assert json.loads(done.stdout) == {"m": 1, "e": 2}
