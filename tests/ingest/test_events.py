"""Ray's own events: from the socket to the table."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayotel.ingest.decode import events as ray_events
from rayotel.lake import parts
from rayotel.lake.rows import events as event_rows
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.rows.tables import every_hour
from rayotel.lake.signal import EVENTS
from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.model import Arrival
from rayotel.replay import Recording
from support import event_bodies as made
from support.command import rayotel
from support.examples import examples
from support.harness import (
    JSON,
    PROTOBUF,
    WAIT_SECONDS,
    Server,
    ask,
    free_port,
    gauge_request,
    rayotel_process,
    wait_until,
)

NEVER = ("--commit-interval-seconds", "3600")
TOKEN = "sEcret-Segment_0123456789"
CREDENTIALS = {"RAYOTEL_USERNAME": "user", "RAYOTEL_PASSWORD": "password"}
BASIC = ("user", "password")
LIFTED = ("nodeId", "jobId", "taskId", "actorId", "workerId", "placementGroupId")


def send(server: Server, content: bytes, path: str = "/v1/events", **more: Any) -> httpx.Response:
    """Post events as Ray does."""
    return server.post(content, JSON, path, **more)


def rows(server: Server, stream: str = "rayevents") -> list[dict[str, Any]]:
    """Stop the server; all rows of a stream in order of time and id."""
    assert server.stop() == 0, server.log()
    lake = open_storage(str(server.data_dir / "lake"))
    return ask(lake, f'SELECT * FROM "{stream}" ORDER BY time_unix_nano, event_id')


def snake(name: str) -> str:
    """A name as in protobuf's definitions."""
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in name)


def decoded(event: dict[str, Any]) -> dict[str, Any]:
    """What the row of a recorded event must hold, by other means than rayotel's."""
    kind = event["eventType"].lower().split("_")
    payload = event[kind[0] + "".join(part.title() for part in kind[1:])]
    transitions = payload.get("stateTransitions")
    found = {
        "time_unix_nano": made.unix_nano(event["timestamp"]),
        "event_type": event["eventType"],
        "source_type": event["sourceType"],
        "session_name": event["sessionName"],
        "message": event["message"] or None,
        "reporter_node_id": base64.b64decode(event["nodeId"]).hex(),
        "task_attempt": payload.get("taskAttempt"),
        "state": transitions[-1]["state"] if transitions else None,
    }
    for name in LIFTED:
        found[snake(name)] = base64.b64decode(payload.get(name, "")).hex() or None
    return found


def test_every_recorded_event_is_one_row(served_lake: Storage, events_recording: Recording) -> None:
    """Each recorded event is one row with the ids and the time that another decoder reads."""
    wanted = {}
    for request in events_recording.requests:
        for event in json.loads(request.body):
            wanted[base64.b64decode(event["eventId"]).hex()] = decoded(event)
    found = ask(
        served_lake,
        "SELECT * REPLACE (epoch_us(time_unix_nano) AS time_unix_nano) FROM rayevents",
    )
    assert len(found) == len(wanted) == 23_781
    for row in found:
        one = wanted[row["event_id"]]
        one["time_unix_nano"] //= 1000
        assert {name: row[name] for name in one} == one
    assert {row["problem"] for row in found} == {None}
    (points,) = ask(served_lake, "SELECT count(*) AS n FROM raymetrics")
    assert points == {"n": 111_713}


def test_nested_identifiers_are_hexadecimal(events_lake: Storage) -> None:
    """Ids are hexadecimal at any depth; labels and everything else stay as they were sent."""
    (owner,) = ask(
        events_lake,
        "SELECT DISTINCT json_extract_string(event,"
        " '$.stateTransitions[0].deathCause.actorDiedErrorContext.ownerId') AS id FROM rayevents"
        " WHERE event_type = 'ACTOR_LIFECYCLE_EVENT' AND job_id IS NULL AND event LIKE '%ownerId%'"
        " AND event LIKE '%nightly-etl-1%'",
    )
    assert owner["id"] == "03000000" + "f" * 48
    (label,) = ask(
        events_lake,
        "SELECT event->'$.labels'->>'$.\"ray.io/node-id\"' AS label, node_id FROM rayevents"
        " WHERE event_type = 'NODE_DEFINITION_EVENT' ORDER BY time_unix_nano LIMIT 1",
    )
    assert label["label"] == label["node_id"]


def test_names_of_protobuf_become_camel_case(server: Server) -> None:
    """With names as in protobuf's definitions the row is the same; names in maps are the user's."""
    plain = made.event(1, nodeDefinitionEvent=None)
    plain["taskLifecycleEvent"]["resources"] = {"object_store_memory": 1.5, "job_id": "AQAAAA=="}

    def renamed(value: Any, *, is_map: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                name if is_map else snake(name): renamed(member, is_map=name == "resources")
                for name, member in value.items()
            }
        return [renamed(one) for one in value] if isinstance(value, list) else value

    other = {**plain, "eventId": made.encoded(made.event_id(2))}
    assert send(server, made.body(plain, renamed(other))).status_code == 200
    first, second = sorted(rows(server), key=lambda row: row["event_id"])
    differing = {name for name in first if first[name] != second[name]}
    assert differing == {"event_id"}
    assert json.loads(first["event"])["resources"] == {
        "object_store_memory": 1.5,
        "job_id": "AQAAAA==",
    }


def test_payloads_by_other_names(server: Server) -> None:
    """A payload is found in the plural, or as the only object; what stands beside it is kept."""
    task = {"taskId": made.encoded(b"t" * 24), "attemptNumber": 2}
    content = [
        made.event(
            1,
            eventType="TASK_PROFILE_EVENT",
            taskLifecycleEvent=None,
            taskProfileEvents=task,
            other={"jobId": "AQAAAA=="},
        ),
        made.event(2, eventType="NEW_EVENT", taskLifecycleEvent=None, somethingNew=task),
        made.event(3, taskLifecycleEvent=None, message=5, nodeId="not base64"),
    ]
    answer = server.post(made.body(*content), {**JSON, "X-P-date": "x"}, "/v1/events")
    assert answer.status_code == 200
    found = {row["event_id"]: row for row in rows(server)}
    first, second, third = (found[made.event_id(number).hex()] for number in (1, 2, 3))
    for row in (first, second):
        assert (row["task_id"], row["task_attempt"]) == ((b"t" * 24).hex(), 2)
    assert json.loads(first["labels_overflow"]) == {"other": {"jobId": "01000000"}}
    assert second["labels_overflow"] is None
    assert (third["event"], third["message"], third["reporter_node_id"]) == (
        "{}",
        "5",
        "not base64",
    )
    assert first["header_date"] == "x"


def test_times_keep_microseconds(server: Server) -> None:
    """A time of nine digits, or with an offset, is exact in the part to the microsecond."""
    import pyarrow.parquet as pq

    texts = [made.TIME, "2026-01-02T05:04:05.1+02:00", "2026-01-02T03:04:05Z"]
    content = [made.event(number, timestamp=text) for number, text in enumerate(texts)]
    assert send(server, made.body(*content)).status_code == 200
    assert server.stop() == 0
    (part,) = (server.data_dir / "lake").rglob("*.parquet")
    found = pq.read_table(part).column("time_unix_nano").cast("int64").to_pylist()
    base = made.TIME_UNIX_NANO // 10**9 * 10**6
    assert sorted(found) == [base, base + 100_000, made.TIME_UNIX_NANO // 1000]


def test_headers_and_parameters_become_columns(server: Server) -> None:
    """A parameter of the address does what an X-P- header does, and wins over it."""
    headers = {**JSON, "X-P-Stream": "other", "X-P-Cluster-Id": "header", "X-P-Team": "ml"}
    answer = server.post(
        made.of_numbers([1]), headers, "/v1/events?stream=mine&cluster_id=prod&severity=mine"
    )
    assert (answer.status_code, answer.content) == (200, b"{}")
    (row,) = rows(server, "mine")
    assert (row["cluster_id"], row["team"], row["header_severity"]) == ("prod", "ml", "mine")
    assert row["severity"] == "INFO"


def test_bounds_of_parameters(server: Server) -> None:
    """Names of streams, and parameters beyond their bounds, are refused as headers are."""
    for query in ("stream=a/b", "x=" + "y" * 101, "&".join(f"p{n}=1" for n in range(11)), "=1"):
        assert send(server, made.of_numbers([1]), f"/v1/events?{query}").status_code == 400


def test_compressed_bodies(server: Server) -> None:
    """A body may be compressed, is refused where it is not what it says, and is bounded."""
    zipped = {**JSON, "Content-Encoding": "gzip"}
    good = gzip.compress(made.of_numbers([1]))
    assert server.post(good, zipped, "/v1/events").status_code == 200
    assert server.post(b"no gzip", zipped, "/v1/events").status_code == 400
    bomb = gzip.compress(b" " * (33 << 20))
    assert server.post(bomb, zipped, "/v1/events").status_code == 413
    assert len(rows(server)) == 1


def test_any_content_type(server: Server) -> None:
    """What the Content-Type says does not matter."""
    for number, kind in enumerate(("text/plain", "application/x-protobuf", "")):
        headers = {"Content-Type": kind} if kind else {}
        answer = server.post(made.of_numbers([number]), headers, "/v1/events")
        assert (answer.status_code, answer.json()) == (200, {})
    assert len(rows(server)) == 3


POISON = {
    b"no JSON": "the body is not JSON",
    b"": "the body is not JSON",
    b"[NaN]": "the body is not JSON",
    b'["\xff"]': "the body is not UTF-8; kept in base64",
    b"{}": "the body is no array",
    b"[17]": "the event is no object",
    made.body(made.event(1, eventId="")): "the event has no readable eventId",
    made.body(made.event(1, eventId="%%%")): "the event has no readable eventId",
    made.body(made.event(1, eventId=None)): "the event has no readable eventId",
    made.body(made.event(1, eventType=7)): "the event has no eventType",
    made.body(made.event(1, timestamp="now")): "the event has no readable timestamp",
    made.body(made.event(1, timestamp="2026-02-30T00:00:00Z")): (
        "the event has no readable timestamp"
    ),
    made.body(made.event(1, timestamp="1999-12-31T23:59:59Z")): (
        "the event's timestamp is before 2000 or more than a day ahead"
    ),
    b'[{"a":' * 300 + b"1" + b"}]" * 300: "an event is nested too deeply",
}


def test_poison_is_kept_and_never_blocks(server: Server) -> None:
    """What cannot be read is answered 200 and is a row with its text, the reason and an id."""
    for content in POISON:
        assert send(server, content).status_code == 200
    counted = server.get("/metrics").text
    assert 'rayotel_events_unreadable_total{reason="the body is not JSON"} 3.0' in counted
    found = rows(server)
    assert sorted(row["problem"] for row in found) == sorted(POISON.values())
    assert {row["event_type"] for row in found} == {None}
    assert {len(row["event_id"]) for row in found} == {56}
    texts = {row["event"] for row in found}
    assert {"no JSON", "", "{}", "17", base64.b64encode(b'["\xff"]').decode()} <= texts


def test_poison_beside_good_events(server: Server) -> None:
    """One bad event does not hide the others of its batch."""
    deep: Any = 1
    for _ in range(500):
        deep = {"a": deep}
    content = made.body(made.event(1), 17, made.event(2, taskLifecycleEvent=deep), made.event(3))
    assert send(server, content).status_code == 200
    found = rows(server)
    assert sorted(row["problem"] or "" for row in found) == [
        "", "", "an event is nested too deeply", "the event is no object",
    ]  # fmt: skip


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
_NAMES = st.sampled_from(
    ["eventId", "eventType", "timestamp", "nodeId", "message", "taskLifecycleEvent", "event_id"]
)
_EVENTS = st.fixed_dictionaries({}).flatmap(
    lambda _: st.dictionaries(_NAMES, _VALUES, max_size=4).map(lambda some: made.event(1) | some)
)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server for many bodies, and in the end a look at what it kept."""
    with Server(tmp_path_factory.mktemp("poison") / "data", *NEVER) as running:
        yield running


@given(
    content=st.binary(max_size=200)
    | st.lists(_VALUES | _EVENTS, max_size=4).map(lambda value: json.dumps(value).encode())
)
@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_comes_is_accepted(poisoned: Server, content: bytes) -> None:
    """Any bytes and any JSON are answered 200."""
    assert send(poisoned, content).status_code == 200


@given(
    content=st.binary(max_size=200)
    | (_VALUES | st.lists(_EVENTS, max_size=3)).map(lambda value: json.dumps(value).encode())
)
@settings(max_examples=examples(200), deadline=None)
def test_whatever_comes_is_kept(content: bytes) -> None:
    """Any bytes and any JSON become rows, the same each time, unless they are an empty array."""
    arrival = Arrival("events", "s", "application/json", "identity", 1_800_000_000 * 10**9, "", "")
    batch = ray_events.decode(content, arrival)
    again = ray_events.decode(content, arrival)
    assert list(batch.events) == list(again.events)
    assert set(batch.unreadable) <= set(ray_events.REASONS)
    with contextlib.suppress(ValueError):
        if json.loads(content) == []:
            return
    assert batch.events
    for row in batch.events:
        assert row.event_type is not None or row.problem is not None
    assert ray_events.DEFECT not in batch.unreadable
    made = event_rows.tables([batch], StreamMemory(9), lambda _: False, every_hour)
    hours = list(made.hours)
    rows = sum(hour.rows for hour in hours)
    assert rows == len(made.ids) == len(batch.events) - made.left_out
    for hour in hours:
        assert parts.to_parquet(hour, "s", EVENTS, "")


def test_a_request_sent_again_is_stored_once(server: Server) -> None:
    """The same bytes, and other batches with the same events, give each event once."""
    for numbers in ([1, 2, 3], [1, 2, 3], [2, 3, 4], [4], [1, 5, 5]):
        assert send(server, made.of_numbers(numbers)).status_code == 200
        wait_until(lambda: "rayotel_oldest_uncommitted_timestamp_seconds 0.0" in told(server))
    assert 'rayotel_rows_repeated_total{where="commit"} 5.0' in told(server)
    assert "rayotel_requests_duplicate_total 1.0" in told(server)
    found = [row["event_id"] for row in rows(server)]
    assert sorted(found) == sorted(made.event_id(number).hex() for number in range(1, 6))


def told(server: Server) -> str:
    """The server's own metrics."""
    return server.get("/metrics").text


def test_repetitions_are_found_after_a_restart(tmp_path: Path) -> None:
    """What was stored is remembered through a stop and through kill -9."""
    with Server(tmp_path / "data") as server:
        assert send(server, made.of_numbers([1, 2])).status_code == 200
        assert server.stop() == 0
        server.start()
        assert send(server, made.of_numbers([2, 3])).status_code == 200
        server.kill()
        server.start()
        assert send(server, made.of_numbers([3, 4, 1])).status_code == 200
        assert len(rows(server)) == 4


def test_killed_under_load_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """kill -9 again and again, a sender that cuts its batches anew: each event is there once."""
    server = Server(tmp_path / "data", env={"RAYOTEL_COMPACTION_AFTER_SECONDS": "0.001"})
    acknowledged: set[int] = set()
    stopping = threading.Event()

    def post() -> None:
        first, turn = 0, 0
        with httpx.Client(base_url=server.url, trust_env=False, timeout=WAIT_SECONDS) as client:
            while not stopping.is_set():
                # a try that failed is repeated with a batch of another size
                batch = range(first, first + 1 + turn % 7)
                turn += 1
                with contextlib.suppress(httpx.TransportError):
                    answer = client.post("/v1/events", content=made.of_numbers(batch))
                    if answer.status_code == 200:
                        acknowledged.update(batch)
                        first = max(0, first + len(batch) - turn % 2)
                        continue
                time.sleep(0.01)

    with server:
        sender = threading.Thread(target=post)
        sender.start()
        for number in range(8):
            time.sleep(0.15 + 0.07 * number)
            server.kill()
            server.start()
        wait_until(lambda: len(acknowledged) > 50)
        stopping.set()
        sender.join()
        found = [row["event_id"] for row in rows(server)]
    assert len(found) == len(set(found))
    assert {made.event_id(number).hex() for number in acknowledged} <= set(found)


@pytest.mark.parametrize("credentials", [False, True])
@pytest.mark.parametrize("token", ["", TOKEN])
def test_who_may_send(tmp_path: Path, token: str, credentials: bool) -> None:
    """Open, by Basic credentials, or by the secret segment; a wrong segment is not found."""
    env = {
        **(CREDENTIALS if credentials else {}),
        **({"RAYOTEL_EVENTS_TOKEN": token} if token else {}),
    }
    with Server(tmp_path / "data", env=env) as server:
        content = made.of_numbers([1])
        assert send(server, content).status_code == (401 if credentials else 200)
        assert send(server, content, auth=BASIC).status_code == 200
        by_token = send(server, content, f"/v1/events/{TOKEN}?cluster_id=prod")
        assert by_token.status_code == (200 if token else 404)
        for wrong in ("wrong", TOKEN + "x", TOKEN[:-1], TOKEN + "/x", "%ff", "ü"):
            assert send(server, content, f"/v1/events/{wrong}").status_code == 404
        assert send(server, content, f"/v1/metrics/{TOKEN}").status_code in (401, 404)
        counted = server.get("/metrics", auth=BASIC).text
        assert 'path="/v1/events/{token}"' in counted
        assert TOKEN not in counted
        assert server.stop() == 0
        assert TOKEN not in server.log()


def test_the_token_is_checked_and_never_shown(tmp_path: Path) -> None:
    """A token that is too short or has other characters is refused without being shown."""
    for token in ("short", "x" * 201, "with/slash-0123456789"):
        done = rayotel_process(
            "serve", env={"RAYOTEL_EVENTS_TOKEN": token, "RAYOTEL_DATA_DIR": str(tmp_path)}
        )
        assert done.returncode == 2
        assert token not in done.stderr + done.stdout
        assert "events_token" in done.stderr


def test_a_stream_holds_one_signal(tmp_path: Path) -> None:
    """Whoever comes first decides, through a restart and whatever the case of the name."""
    with Server(tmp_path / "data") as server:
        assert send(server, made.of_numbers([1]), "/v1/events?stream=Mine").status_code == 200
        server.kill()
        server.start()
        points = gauge_request(1.0)
        refused = server.post(points, {**PROTOBUF, "X-P-Stream": "mine"})
        assert refused.status_code == 400
        assert b"holds events" in refused.content
        assert server.post(points, PROTOBUF).status_code == 200
        for stream in ("raymetrics", "RAYMETRICS"):
            path = f"/v1/events?stream={stream}"
            assert send(server, made.of_numbers([2]), path).status_code == 400
        assert server.post(points, {**PROTOBUF, "X-P-Stream": "rayevents"}).status_code == 400
        assert send(server, made.of_numbers([2])).status_code == 200
        assert len(rows(server)) == 1


def test_streams_and_schema(events_lake: Storage) -> None:
    """`rayotel streams --schema` knows what the columns of events hold."""
    done = rayotel(
        "streams", "rayevents", "--schema", "--storage", events_lake.url, "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    found = {row["column"]: row["holds"] for row in json.loads(done.stdout)}
    assert found["event_id"] == "id of the event, hexadecimal; each event is stored once"
    assert found["cluster_id"] == "header X-P-cluster_id"
    done = rayotel("verify", "--storage", events_lake.url)
    assert done.returncode == 0, done.stdout


def test_a_full_disk_is_no_error_of_the_sender(tmp_path: Path) -> None:
    """A log without room answers 503 with Retry-After, and the event is taken later."""
    env = {
        "RAYOTEL_STORAGE": "s3://none/x",
        "RAYOTEL_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "RAYOTEL_WAL_LIMIT_BYTES": "20000",
        "RAYOTEL_WAL_SEGMENT_BYTES": "10000",
        "RAYOTEL_MAX_COMPRESSED_BODY_BYTES": "20000",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "RAYOTEL_SHUTDOWN_TIMEOUT_SECONDS": "0.1",
    }
    with Server(tmp_path / "data", env=env) as server:
        statuses = []
        for number in range(6):
            answer = send(server, made.body(made.event(number, message="x" * 6000)))
            statuses.append(answer.status_code)
        assert statuses[0] == 200
        assert statuses[-1] == 503
        assert int(answer.headers["retry-after"]) > 0


def test_a_recording_of_events_can_be_moved_to_now(events_recording: Recording) -> None:
    """All times of an event move alike, to the nanosecond; nothing else changes."""
    shift = 3_600 * 10**9 + 1
    request = events_recording.requests[0]
    before, after = request.body, request.sent_body(shift)
    for one, other in zip(json.loads(before), json.loads(after), strict=True):
        assert made.unix_nano(other["timestamp"]) == made.unix_nano(one["timestamp"]) + shift
        assert other["eventId"] == one["eventId"]
    assert request.sent_body() == before
    last = max(
        made.unix_nano(event["timestamp"])
        for event in json.loads(events_recording.requests[-1].body)
    )
    assert events_recording.last_event_unix_nano >= last


def test_a_defect_blocks_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of our own costs the reading of one event, not its batch and not the queue."""
    read = ray_events._state

    def failing(payload: dict[str, Any]) -> str | None:
        return read(payload) if payload["taskAttempt"] else str(1 // 0)

    monkeypatch.setattr(ray_events, "_state", failing)
    task = {**made.event(2)["taskLifecycleEvent"], "taskAttempt": 0}
    arrival = Arrival("events", "s", "application/json", "identity", 1_800_000_000 * 10**9, "", "")
    content = made.body(made.event(1), made.event(2, taskLifecycleEvent=task))
    batch = ray_events.decode(content, arrival)
    assert [row.problem for row in batch.events] == [None, ray_events.DEFECT]
