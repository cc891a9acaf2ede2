"""Answers about what the recorded cluster never went through: small lakes, made by hand."""

from __future__ import annotations

import base64
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from support.harness import gauge_request
from support.lakes import commit, commit_events
from support.shipped import asked

SECOND = 10**9
T0 = 1_795_186_800 * SECOND  # 2026-11-20 15:00 UTC
_numbers = itertools.count(1)
SESSION = "session_2026-11-20_14-59-00_000001_1"


def gauges(at: float, *values: tuple[str, float, dict[str, str]], instance: str) -> bytes:
    """A scrape: (metric, value, labels) at `at` seconds after T0."""
    made = [
        gauge_request(
            value,
            name=metric,
            time_unix_nano=T0 + round(at * SECOND),
            instance=instance,
            SessionName=SESSION,
            **labels,
        )
        for metric, value, labels in (("ray_node_cpu_count", 4.0, {}), *values)
    ]
    return b"".join(made)  # protobuf: messages one after another are one message


def scraped(path: Path, *scrapes: bytes) -> Storage:
    """A lake of metrics."""
    lake = open_storage(str(path / "lake"))
    commit(lake, 1, *scrapes, stream="raymetrics")
    return lake


def name_of(number: int, size: int = 28) -> str:
    """An id as Ray sends it."""
    return base64.b64encode(number.to_bytes(size, "big")).decode()


def time_text(at: float) -> str:
    """A time as Ray sends it."""
    return datetime.fromtimestamp(T0 / SECOND + at, UTC).isoformat().replace("+00:00", "Z")


def event(kind: str, at: float, session: str = SESSION, **payload: Any) -> dict[str, Any]:
    """An event as Ray sends it."""
    words = kind.lower().split("_")
    return {
        "eventId": name_of(next(_numbers)),
        "sourceType": "GCS", "eventType": kind, "timestamp": time_text(at),
        "severity": "INFO", "sessionName": session, "message": "",
        words[0] + "".join(word.title() for word in words[1:]): payload,
    }  # fmt: skip


def told(path: Path, *events: dict[str, Any]) -> Storage:
    """A lake of events."""
    lake = open_storage(str(path / "lake"))
    commit_events(lake, 1, json.dumps(events).encode(), stream="rayevents")
    return lake


def task(
    number: int, attempt: int, name: str, *states: tuple[str, float], error: str = "",
    worker: int = 0, job: int = 1,
) -> list[dict[str, Any]]:  # fmt: skip
    """The events of an attempt."""
    ids: dict[str, Any] = {
        "taskId": name_of(number, 24),
        "taskAttempt": attempt,
        "jobId": name_of(job, 4),
    }
    more: dict[str, Any] = {"rayErrorInfo": {"errorType": error, "errorMessage": error.lower()}}
    return [
        event("TASK_DEFINITION_EVENT", states[0][1], taskName=name, taskType="NORMAL_TASK", **ids),
        event(
            "TASK_LIFECYCLE_EVENT",
            states[-1][1],
            stateTransitions=[{"state": s, "timestamp": time_text(at)} for s, at in states],
            **ids,
            **(more if error else {}),
            **({"workerId": name_of(worker)} if worker else {}),
        ),
    ]


def node(number: int, at: float, state: str, reason: str = "") -> list[dict[str, Any]]:
    """The events of a node's change; all nodes have one address."""
    step: dict[str, Any] = {"state": state, "timestamp": time_text(at)}
    if reason:
        step["deathInfo"] = {"reason": reason, "reasonMessage": "words"}
    ids = {"nodeId": name_of(number)}
    return [
        event("NODE_DEFINITION_EVENT", at, nodeIpAddress="192.0.2.7", **ids),
        event("NODE_LIFECYCLE_EVENT", at, stateTransitions=[step], **ids),
    ]


def test_kills_for_memory_are_counted_by_name(tmp_path: Path) -> None:
    """From metrics: each rise once, also of a series that begins with the first kill."""
    kind = {"Type": "MemoryManager.TaskEviction.Total", "Name": "hog"}
    counter = "ray_memory_manager_worker_eviction_total"
    lake = scraped(
        tmp_path,
        gauges(0, instance="a:1"),
        gauges(10, instance="a:1"),
        gauges(20, (counter, 2, kind), instance="a:1"),
        gauges(30, (counter, 2, kind), instance="a:1"),
        gauges(70, (counter, 5, kind), instance="a:1"),
    )
    rows = asked(lake, "out-of-memory")
    assert [(row["minute"].minute, row["kills"]) for row in rows] == [(0, 2), (1, 3)]
    assert {(row["node"], row["kind"], row["task"], row["source"]) for row in rows} == {
        ("a:1", "task", "hog", "metrics")
    }


def test_a_kill_for_memory_is_told_with_its_task(tmp_path: Path) -> None:
    """From events: the worker that Ray killed, and what it ran; a failure of it counts once."""
    worker = {"workerId": name_of(5), "jobId": name_of(1, 4)}
    death = {"exitType": "NODE_OUT_OF_MEMORY", "exitDetail": "too much",
             "memoryUsedBytes": "1000"}  # fmt: skip
    step = {"state": "DEAD", "timestamp": time_text(9), "deathInfo": death}
    lake = told(
        tmp_path,
        event("WORKER_DEFINITION_EVENT", 1, nodeId=name_of(7), pid=1, **worker),
        event("WORKER_LIFECYCLE_EVENT", 9, stateTransitions=[step], **worker),
        *task(1, 0, "hog", ("RUNNING", 5), ("FAILED", 9), error="OUT_OF_MEMORY", worker=5),
        # of this one's worker nobody told
        *task(2, 0, "pig", ("RUNNING", 65), ("FAILED", 69), error="OUT_OF_MEMORY", worker=6),
    )
    known, other = asked(lake, "out-of-memory")
    assert (known["task"], known["kills"], known["worker_memory_bytes"]) == ("hog", 1, 1000)
    assert (known["node"], known["job_id"]) == (f"{7:056x}", "00000001")
    assert (other["task"], other["kills"], other["minute"].minute) == ("pig", 1, 1)
    (crash,) = asked(lake, "worker-crashes")
    assert (crash["reason"], crash["task"]) == ("NODE_OUT_OF_MEMORY", "hog")


def test_a_retry_that_succeeds_is_no_failed_task(tmp_path: Path) -> None:
    """It has a failed attempt, and is fine in the end."""
    lake = told(
        tmp_path,
        *task(1, 0, "f", ("RUNNING", 1), ("FAILED", 2), error="WORKER_DIED"),
        *task(1, 1, "f", ("RUNNING", 3), ("FINISHED", 4)),
        *task(2, 0, "f", ("RUNNING", 1), ("FINISHED", 2)),
    )
    (row,) = asked(lake, "task-retries")
    assert (row["retried_tasks"], row["attempts"], row["retries"]) == (1, 2, 1)
    assert (row["finally_ok"], row["finally_failed"]) == (1, 0)
    (row,) = asked(lake, "failures-by-job")
    assert (row["failed_attempts"], row["failed_tasks"], row["example"]) == (1, 0, "worker_died")
    (row,) = asked(lake, "task-throughput")
    assert (row["finished_attempts"], row["failed_attempts"]) == (2, 1)


def test_a_session_with_events_is_not_counted_from_metrics(tmp_path: Path) -> None:
    """Events of one session say nothing of another, which is counted from its metrics."""
    lake = told(tmp_path, *task(1, 0, "f", ("RUNNING", 1), ("FAILED", 2), error="WORKER_DIED"))
    for session, number in ((SESSION, 1), ("other", 2)):
        bodies = [
            gauges(
                at,
                ("ray_tasks", value, {"Name": "g", "State": "FAILED", "IsRetry": "0"}),
                instance=f"{session}:1",
            ).replace(SESSION.encode(), session.ljust(len(SESSION), "_").encode())
            for at, value in ((0, 1.0), (10, 4.0))
        ]
        commit(lake, number, *bodies, stream="raymetrics")
    rows = asked(lake, "failures-by-job")
    assert {(row["task"], row["failed_attempts"], row["source"]) for row in rows} == {
        ("f", 1, "events"), ("g", 3, "metrics"),
    }  # fmt: skip
    rows = asked(lake, "task-throughput")
    assert {(row["task"], row["failed_attempts"]) for row in rows} == {("f", 1), ("g", 3)}


def test_a_silence_of_all_is_no_loss(tmp_path: Path) -> None:
    """Nobody scraped for five minutes; then only one target goes on."""
    times = [*range(0, 60, 10), *range(360, 420, 10)]
    lake = scraped(
        tmp_path,
        *(gauges(at, instance="a:1") for at in times),
        *(gauges(at + 1, instance="b:1") for at in [*times, *range(420, 600, 10)]),
    )
    (row,) = asked(lake, "node-losses")
    assert (row["node"], row["back_at"], row["source"]) == ("a:1", None, "metrics")
    assert row["lost_at"].timestamp() == T0 / SECOND + 410
    assert asked(lake, "node-losses", silent_seconds="300") == []


def test_a_node_that_only_ray_counted_is_lost_without_a_name(tmp_path: Path) -> None:
    """A rise of Ray's counter that no silence explains."""
    lake = scraped(
        tmp_path,
        *(
            gauges(at, ("ray_node_failure_total", at // 60, {}), instance="a:1")
            for at in range(0, 120, 10)
        ),
    )
    (row,) = asked(lake, "node-losses")
    assert (row["node"], row["lost_at"].minute, row["source"]) == (None, 1, "metrics")


def test_a_place_is_filled_when_as_many_nodes_are_there(tmp_path: Path) -> None:
    """Two nodes of one address die, one comes: it takes the place of the one that died last."""
    lake = told(
        tmp_path,
        *node(1, 0, "ALIVE"),
        *node(2, 1, "ALIVE"),
        *node(1, 100, "DEAD", "UNEXPECTED_TERMINATION"),
        *node(2, 110, "DEAD", "AUTOSCALER_DRAIN_IDLE"),
        *node(3, 150, "ALIVE"),
    )
    first, second = asked(lake, "node-losses")
    assert (first["node"], first["back_at"], first["is_expected"]) == (f"{1:056x}", None, False)
    assert (second["away_seconds"], second["is_expected"]) == (40, True)
    assert {row["address"] for row in (first, second)} == {"192.0.2.7"}


def test_crashes_that_only_the_head_counts_have_no_node(tmp_path: Path) -> None:
    """Where no node counts, the head's counter stands."""
    counter = "ray_unintentional_worker_failures_total"
    lake = scraped(
        tmp_path,
        *(gauges(at, (counter, at // 10, {}), instance="a:1") for at in (0, 10, 20, 30)),
    )
    (row,) = asked(lake, "worker-crashes")
    assert (row["workers"], row["node"], row["task"]) == (3, None, None)


def test_what_no_node_can_run_is_infeasible(tmp_path: Path) -> None:
    """The scheduler's reason, added up over the nodes."""
    infeasible = ("ray_scheduler_unscheduleable_tasks", 3.0, {"Reason": "Infeasible"})
    lake = scraped(tmp_path, gauges(0, infeasible, instance="a:1"),
                   gauges(1, infeasible, instance="b:1"))  # fmt: skip
    (row,) = asked(lake, "tasks-waiting")
    assert (row["reported_by"], row["waits_for"], row["peak_tasks"]) == (
        "scheduler", "resources that no node has", 6,
    )  # fmt: skip


def test_a_store_that_reads_back_again_and_again_thrashes(tmp_path: Path) -> None:
    """More than twice as much as it wrote or holds on disk, within an hour."""

    def scrape(at: float, spilled: float, restored: float) -> bytes:
        return gauges(
            at,
            ("ray_object_store_used_memory", 80, {}),
            ("ray_object_store_available_memory", 20, {}),
            ("ray_spill_manager_objects_bytes", spilled, {"State": "Spilled"}),
            ("ray_spill_manager_objects_bytes", restored, {"State": "Restored"}),
            ("ray_object_store_memory", spilled, {"Location": "SPILLED"}),
            instance="a:1",
        )

    lake = scraped(tmp_path, scrape(0, 0, 0), scrape(10, 100, 0), scrape(70, 100, 150),
                   scrape(130, 100, 250))  # fmt: skip
    rows = asked(lake, "object-store-spilling")
    assert [(row["spilled_bytes"], row["restored_bytes"], row["is_thrashing"]) for row in rows] == [
        (100, 0, False), (0, 150, False), (0, 100, True),
    ]  # fmt: skip
    assert {row["object_store_used_pct"] for row in rows} == {80}


def test_no_more_rows_than_asked_for(tmp_path: Path) -> None:
    """The latest minutes stay."""
    events = [
        one
        for number in range(5)
        for one in task(number, 0, "f", ("RUNNING", 60 * number), ("FINISHED", 60 * number + 1))
    ]
    rows = asked(told(tmp_path, *events), "task-throughput", limit="2")
    assert [row["minute"].minute for row in rows] == [3, 4]
