"""What a server reports: one line for each change of state, as text or JSON, and never a secret."""

from __future__ import annotations

import io
import itertools
import json
import logging
import re
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayotel import logs
from rayotel.errors import StorageUnavailable, TryLater
from rayotel.ingest.receive import admission
from rayotel.ingest.receive.admission import Admission
from rayotel.ingest.wal.fill import FillLevel
from rayotel.lake.storage.opening import open_storage
from rayotel.lake.upkeep.compactor import Compactor, Schedule, Tidied
from rayotel.lake.upkeep.thread import CompactorThread
from rayotel.logs import Failing, log_event
from rayotel.telemetry import Telemetry
from support.fault_proxy import HEALTHY, Fault, FaultProxy, Kind
from support.harness import (
    PROTOBUF,
    S3_KEY_ID,
    S3_SECRET,
    Server,
    gauge_request,
    make_bucket,
    rayotel_process,
    s3_server,
    wait_until,
)

OWN = logging.getLogger("rayotel.some.room")
OTHER = logging.getLogger("library")
JSON_FORMAT = {"RAYOTEL_LOG_FORMAT": "json"}
MOMENT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
PASSWORD = "SWORDFISH-that-is-in-no-line"
TOKEN = "token-that-is-in-no-line"


def lines_of(server: Server) -> list[dict[str, Any]]:
    """All that a server with log_format=json said; each of its lines is an object."""
    return [json.loads(line) for line in server.log().splitlines()]


def with_message(server: Server, start: str) -> list[dict[str, Any]]:
    """Its lines whose message begins so."""
    return [line for line in lines_of(server) if line["message"].startswith(start)]


def send(server: Server, *numbers: int) -> None:
    """Post a request per number; each must be acknowledged."""
    for number in numbers:
        assert server.post(gauge_request(number), PROTOBUF).status_code == 200


# -- lines -----------------------------------------------------------------------------------------


class Written:
    """What was written since the set-up."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def set_up(self, level: str = "info", format_: str = "json") -> None:
        """As `rayotel serve` does."""
        logs.set_up(level, format_, self.stream)

    @property
    def lines(self) -> list[str]:
        """Line by line."""
        return self.stream.getvalue().splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The same, of JSON."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """Logging as a server sets it up, undone at the end."""
    root, own = logging.getLogger(), logging.getLogger("rayotel")
    handlers, levels = list(root.handlers), (root.level, own.level)
    for module, hook in ((sys, "excepthook"), (threading, "excepthook")):
        monkeypatch.setattr(module, hook, getattr(module, hook))
    made = Written()
    made.set_up()
    yield made
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def test_a_line_of_text_is_for_people(written: Written) -> None:
    """Time, level, message, fields; quotes where a value would be taken for several."""
    written.set_up(format_="text")
    log_event(OWN, logging.INFO, "storage is back", away_seconds=31.2, waiting_bytes=1234)
    log_event(OWN, logging.WARNING, "it fails", reason='no "x" of = y', hint=None, is_last=True)
    log_event(OWN, logging.ERROR, "no\nfield\x1b[2J", name="a\nb", empty="", word="ü\x9b")
    first, second, third = written.lines
    assert re.fullmatch(
        MOMENT + " INFO  storage is back  away_seconds=31.2 waiting_bytes=1234", first
    )
    assert second[24:] == r' WARN  it fails  reason="no \"x\" of = y" is_last=true'
    assert third[24:] == r' ERROR no\nfield\x1b[2J  name="a\nb" empty="" word="\u00fc\u009b"'


def test_a_line_of_json_is_one_object(written: Written) -> None:
    """Fixed keys first, then the fields with their types; no field hides a fixed key."""
    log_event(OWN, logging.INFO, "100 % done\n", bytes=3, share=0.5, ok=True, to=None, time="x")
    log_event(OWN, logging.ERROR, "odd", n=float("nan"), text="\ud800 \n", big=2**80)
    first, second = written.objects
    assert re.fullmatch(MOMENT, first.pop("time"))
    assert first == {
        "level": "info", "logger": "rayotel.some.room", "message": "100 % done\n",
        "bytes": 3, "share": 0.5, "ok": True,
    }  # fmt: skip
    assert list(second)[:4] == ["time", "level", "logger", "message"]
    assert (second["n"], second["big"]) == ("nan", 2**80)


def test_a_level_leaves_out_what_is_below_it(written: Written) -> None:
    """Of rayotel's own; libraries show warnings at most, for their details may hold credentials."""
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    counts = {}
    for name in ("debug", "info", "warning", "error"):
        written.set_up(name)
        before = len(written.lines)
        for level, to in itertools.product(levels, (OWN, OTHER)):
            log_event(to, level, f"{name} {level}")
        counts[name] = [
            sum(line["logger"].startswith(to) for line in written.objects[before:])
            for to in ("rayotel", "library")
        ]
    assert counts == {"debug": [4, 2], "info": [3, 2], "warning": [2, 2], "error": [1, 1]}


def test_a_defect_shows_its_traceback_once(written: Written) -> None:
    """What every request causes is one line a minute, with how many others there were."""

    def fail(number: int) -> None:
        try:
            raise ValueError(f"defect {number}")
        except ValueError as error:
            log_event(OWN, logging.ERROR, "unexpected error", error=error, n=number)

    for number in range(3):
        fail(number)
    (line,) = written.objects
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: defect 0")
    (repeats,) = logging.getLogger().handlers[0].filters
    assert isinstance(repeats, logs.RepeatFilter)
    ((kind, (at, left_out)),) = repeats._passed.items()
    assert left_out == 2
    repeats._passed[kind] = (at - logs.REPEAT_SECONDS, left_out)
    fail(3)
    assert (written.objects[1]["n"], written.objects[1]["repeated"]) == (3, 2)


def test_other_libraries_repeat_nothing(written: Written) -> None:
    """A stranger's bad requests do not fill a disk; rayotel's own lines are never left out."""
    for number in range(3):
        OTHER.warning("invalid request")
        log_event(OWN, logging.INFO, "changed", number=number)
    assert [line["message"] for line in written.objects].count("invalid request") == 1
    assert [line["number"] for line in written.objects if "number" in line] == [0, 1, 2]


def test_what_nobody_caught_is_a_line_too(written: Written) -> None:
    """Errors that end a thread or the process, and Python's warnings."""
    thread = threading.Thread(target=lambda: 1 / 0, name="worker")
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError("x"), None)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("careful", stacklevel=1)
    first, second, third = written.objects
    assert (first["thread"], "ZeroDivisionError" in first["exception"]) == ("worker", True)
    assert "ValueError: x" in second["exception"]
    assert "careful" in third["message"]


# -- changes of state ------------------------------------------------------------------------------


def test_a_failure_is_news_once() -> None:
    """Its first time, each time that it changes its kind, and its end."""
    failing = Failing()
    assert failing.end() is None
    assert [failing.begin(kind) for kind in "aabba"] == [True, False, True, False, True]
    assert failing.end() is not None
    assert failing.end() is None
    assert failing.begin("a")


def test_the_levels_of_the_wal_are_told_once(written: Written) -> None:
    """At 50, 80 and 100 percent, and below each; little ups and downs are no news."""
    fill = FillLevel(1000)
    for size in (0, 499, 500, 510, 490, 450, 800, 795, 1000, 950, 1000, 899, 600, 0):
        fill.update(size)
    told = [
        (line["level"], line.get("percent"), line.get("below_percent"), line["wal_bytes"])
        for line in written.objects
    ]
    assert told == [
        ("warning", 50, None, 500), ("warning", 80, None, 800), ("error", 100, None, 1000),
        ("info", None, 100, 899), ("info", None, 80, 600), ("info", None, 50, 0),
    ]  # fmt: skip


def test_a_wal_without_room_for_a_request_is_full(written: Written) -> None:
    """Whatever its share; it is full until a good deal less is in it, and may then fill again."""
    fill = FillLevel(1000)
    for _ in range(2):
        for _ in range(3):
            fill.refused(700)
            fill.update(695)
        fill.update(100)
    messages = [line["message"] for line in written.objects]
    assert messages == ["the WAL is full: requests are answered 503", "the WAL is less full"] * 2


def test_an_overload_is_two_lines(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first refusal, and the first request after a while without any."""
    entrance = Admission(max_requests=1, max_bytes=10, telemetry=Telemetry())
    with entrance.enter() as ticket:
        for _ in range(3):
            with pytest.raises(TryLater):
                entrance.enter()
            with pytest.raises(TryLater):
                ticket.reserve(11)
    with entrance.enter():
        pass
    assert len(written.lines) == 1
    monkeypatch.setattr(admission, "CALM_SECONDS", 0.0)
    for _ in range(2):
        with entrance.enter():
            pass
    began, ended = written.objects
    assert (began["level"], began["reason"]) == ("warning", "too many requests in flight")
    assert ended["refused"] == 6


class Unsteady(Compactor):
    """A compactor whose passes do, in turn, what a list says."""

    def __init__(self, tmp_path: Path, outcomes: list[Tidied | Exception]) -> None:
        super().__init__(open_storage(str(tmp_path)), tmp_path / "work", Schedule(0, 1))
        self._outcomes = outcomes

    def move_old_lake(self, *_: Any) -> None:
        """Nothing is old."""

    def tidy(self, *_: Any, **__: Any) -> Tidied:
        """The next outcome."""
        outcome = self._outcomes.pop(0) if self._outcomes else Tidied()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def tidy_young(self, *_: Any) -> Tidied:
        """The same."""
        return self.tidy()


def test_compaction_tells_what_it_did_and_when_it_fails(written: Written, tmp_path: Path) -> None:
    """A pass without work is no line; failures of one kind are one line until it works again."""
    away = StorageUnavailable("no answer", hint="look")
    done = Tidied(hours=2, inputs=9, rows=100, removed=3)
    outcomes: list[Tidied | Exception] = [Tidied(), done, away, away, OSError("disk"), Tidied()]
    thread = CompactorThread(Unsteady(tmp_path, outcomes), lambda: "r", 0.01, lambda _: None)
    thread.start()
    wait_until(lambda: not outcomes)
    wait_until(lambda: len(written.lines) >= 4)
    thread.stop()
    merged, failed, failed_otherwise, works = written.objects
    assert (merged["hours"], merged["parts_merged"], merged["rows"]) == (2, 9, 100)
    assert (failed["reason"], failed["hint"], failed["level"]) == ("no answer", "look", "warning")
    assert failed_otherwise["reason"] == "disk"
    assert works["message"] == "compaction works again"


# -- real servers ----------------------------------------------------------------------------------


def test_a_life_of_a_server_is_told_in_json(tmp_path: Path) -> None:
    """Start, a bad request, what a kill left, stop: each line an object, none with a secret."""
    env = {
        **JSON_FORMAT,
        "RAYOTEL_USERNAME": "user",
        "RAYOTEL_PASSWORD": PASSWORD,
        "RAYOTEL_EVENTS_TOKEN": TOKEN,
        "RAYOTEL_RETENTION": "30d 1TB",
    }
    never = ("--commit-interval-seconds", "3600")
    with Server(tmp_path / "data", *never, env=env) as server:
        for number in (1, 2):
            answer = server.post(gauge_request(number), PROTOBUF, auth=("user", PASSWORD))
            assert answer.status_code == 200
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.sendall(b"nonsense\r\n\r\n")
            stranger.recv(1000)
        server.kill()
        server.start()
        assert server.stop() == 0
    started, again = with_message(server, "rayotel has started")
    assert started["url"] == server.url
    assert started["storage"] == str(tmp_path / "data" / "lake")
    assert (started["credentials"], started["retention"]) == (True, "30d 1000GB")
    assert re.fullmatch("[0-9a-f]{12}", started["receiver"])
    assert again["receiver"] == started["receiver"]
    (found,) = with_message(server, "the WAL holds requests of an earlier run")
    assert (found["records"], found["damaged_bytes"]) == (2, 0)
    assert found["bytes"] > found["segments"] > 0
    (stopping,) = with_message(server, "rayotel stops")
    assert stopping["waiting_bytes"] >= 0
    (stopped,) = with_message(server, "rayotel has stopped")
    assert stopped["everything_is_stored"] is True
    assert [line["logger"] for line in lines_of(server) if line["level"] == "warning"] == [
        "uvicorn.error"
    ]
    assert PASSWORD not in server.log()
    assert TOKEN not in server.log()


def test_text_is_the_default_and_a_level_silences(tmp_path: Path) -> None:
    """A quiet server says nothing, a usual one a line at its start and two at its end."""
    with Server(tmp_path / "a" / "data") as usual:
        assert usual.stop() == 0
    messages = [line[31:].partition("  ")[0] for line in usual.log().splitlines()]
    assert messages == [
        "rayotel has started",
        "rayotel stops: what waits in the WAL is committed",
        "rayotel has stopped",
    ]
    with Server(tmp_path / "b" / "data", env={"RAYOTEL_LOG_LEVEL": "warning"}) as quiet:
        send(quiet, 1)
        assert quiet.stop() == 0
    assert quiet.log() == ""


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[tuple[FaultProxy, dict[str, str]]]:
    """A proxy before an S3 server, and the settings of a process that reaches it."""
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as url, FaultProxy(url) as proxy:
        make_bucket(url, "bucket")
        yield (
            proxy,
            {
                **JSON_FORMAT,
                "RAYOTEL_STORAGE": "s3://bucket/lake",
                "RAYOTEL_S3_ENDPOINT": proxy.url,
                "AWS_ACCESS_KEY_ID": S3_KEY_ID,
                "AWS_SECRET_ACCESS_KEY": S3_SECRET,
            },
        )


def test_storage_that_is_away_and_back_is_two_lines(
    tmp_path: Path, faulty: tuple[FaultProxy, dict[str, str]]
) -> None:
    """However many commits fail between the two; the second has the duration and the backlog."""
    proxy, env = faulty
    with Server(tmp_path / "data", env=env) as server:
        send(server, 1)
        wait_until(lambda: 'commits_total{outcome="done"}' in server.get("/metrics").text)
        proxy.play(Fault(Kind.STATUS, status=500))
        send(server, 2)

        def failures() -> float:
            text = server.get("/metrics").text
            match = re.search(r'rayotel_commits_total{outcome="failed"} (\S+)', text)
            return float(match[1]) if match else 0

        wait_until(lambda: failures() >= 2)
        send(server, 3)
        proxy.play(HEALTHY)
        wait_until(lambda: with_message(server, "storage is back"))
        send(server, 4)
        assert server.stop() == 0
    (away,) = with_message(server, "storage is away")
    (back,) = with_message(server, "storage is back")
    assert away["level"] == "warning"
    assert away["reason"]
    assert away["hint"]
    assert back["away_seconds"] > 0
    assert back["waiting_bytes"] > away["waiting_bytes"] > 0
    assert S3_SECRET not in server.log()


def test_a_full_wal_is_a_line_and_no_request_is_one(
    tmp_path: Path, faulty: tuple[FaultProxy, dict[str, str]]
) -> None:
    """A hundred refusals change nothing; the levels on the way up and down are told."""
    proxy, env = faulty
    limits = {
        "RAYOTEL_WAL_LIMIT_BYTES": "20000",
        "RAYOTEL_WAL_SEGMENT_BYTES": "5000",
        "RAYOTEL_MAX_COMPRESSED_BODY_BYTES": "10000",
    }
    proxy.play(Fault(Kind.RESET))
    with Server(tmp_path / "data", env={**env, **limits}) as server:
        numbers = itertools.count()
        while server.post(gauge_request(next(numbers)), PROTOBUF).status_code == 200:
            assert next(numbers) < 500
        for _ in range(100):
            assert server.post(gauge_request(next(numbers)), PROTOBUF).status_code == 503
        proxy.play(HEALTHY)
        wait_until(lambda: with_message(server, "the WAL is less full"))
        assert server.stop() == 0
    percents = [line["percent"] for line in with_message(server, "the WAL is fil")]
    assert percents == [50, 80]
    assert len(with_message(server, "the WAL is full")) == 1
    assert len(lines_of(server)) < 20


def test_a_wrong_setting_shows_before_the_port_does(tmp_path: Path) -> None:
    """Exit code 2 and the setting, not an address that somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = ("serve", "--port", str(taken.getsockname()[1]), "--data-dir", str(tmp_path / "d"))
        for name, value in (
            ("STORAGE", "gs://x/y"),
            ("RETENTION", "soon"),
            ("DROP_LABELS", "*"),
            ("LOG_LEVEL", "loud"),
        ):
            done = rayotel_process(*flags, env={f"RAYOTEL_{name}": value})
            assert done.returncode == 2
            assert f"setting '{name.lower()}'" in done.stderr
            assert "in use" not in done.stderr
        no_profile = {"RAYOTEL_STORAGE": "s3://bucket/x", "AWS_PROFILE": "nobody"}
        done = rayotel_process(*flags, env=no_profile)
        assert done.returncode == 1
        assert "no S3 credentials" in done.stderr
        assert "in use" not in done.stderr
    assert not (tmp_path / "d").exists()


def test_a_start_that_fails_is_told_in_the_form_of_the_lines(tmp_path: Path) -> None:
    """As JSON where the settings name that, else as every command does it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = ("serve", "--port", port, "--data-dir", str(tmp_path / "data"))
        done, as_text = rayotel_process(*command, env=JSON_FORMAT), rayotel_process(*command)
    assert re.match("error: cannot listen on .*\nhint: .*--port", as_text.stderr)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert done.returncode == 1
    assert (line["level"], f"port {port}" in line["message"]) == ("error", True)
    assert "--port" in line["hint"]


def test_damage_is_told_with_its_place(tmp_path: Path) -> None:
    """A segment with flipped bits: how much was found, and where the damage was moved to."""
    never = ("--commit-interval-seconds", "3600")
    with Server(tmp_path / "data", *never, env=JSON_FORMAT) as server:
        send(server, 1, 2, 3)
        server.kill()
        (path,) = (
            path for path in (tmp_path / "data" / "wal").glob("*.wal") if path.stat().st_size > 100
        )
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        server.start()
        assert server.stop() == 0
    (found,) = with_message(server, "the WAL holds requests of an earlier run")
    (damage,) = with_message(server, "a WAL segment is damaged")
    assert found["records"] == 2
    assert found["damaged_bytes"] == damage["bytes"] > 0
    assert Path(damage["moved_to"]).stat().st_size == damage["bytes"]
    assert damage["level"] == "error"
