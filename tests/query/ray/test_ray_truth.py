"""Tasks, jobs, actors, workers and nodes of the recorded cluster: every answer against the truth.

From events the answers are exact: the same numbers that plain Python finds in what Ray sent, and
what the workload says it did. From metrics they are as exact as a scrape allows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest

from rayotel.lake.storage.interface import Storage
from rayotel.model import TimeRange
from rayotel.query.session import Session
from rayotel.replay import Recording
from support.harness import LIMITS, ask
from support.ray_truth import (
    HEAD,
    KILLED,
    REPORT_SECONDS,
    SCRAPE_SECONDS,
    Attempt,
    Event,
    attempts,
    did,
    events_of,
    hexadecimal,
    moment,
    steps,
)
from support.shipped import QUESTIONS, Rows, asked

LINGER_SECONDS = 31  # Ray forgets a gauge 20 s after its last report, then comes the next scrape
Attempts = dict[tuple[str, int], Attempt]


@pytest.fixture(scope="module")
def events(events_recording: Recording) -> list[Event]:
    """Every event as Ray sent it."""
    return events_of(events_recording)


@pytest.fixture(scope="module")
def tried(events: list[Event]) -> Attempts:
    """Every attempt of every task."""
    return attempts(events)


def minute(at: float) -> float:
    """Start of the minute."""
    return at // 60 * 60


def sources(rows: Rows) -> set[str]:
    """Where the answers are from."""
    return {row["source"] for row in rows}


# -- tasks ----------------------------------------------------------------------------------------


def test_throughput_of_events_is_that_of_the_raw_events(
    events_lake: Storage, tried: Attempts
) -> None:
    """Attempts by minute of their end and task: exactly those that Ray told of."""
    wanted: dict[tuple[float, str], list[int]] = defaultdict(lambda: [0, 0])
    for one in tried.values():
        if one.kind != "DRIVER_TASK" and (one.finished_at or one.failed_at):
            at = one.finished_at or one.failed_at or 0.0
            wanted[minute(at), one.task][one.failed_at is not None] += 1
    rows = asked(events_lake, "task-throughput")
    shown = {
        (row["minute"].timestamp(), row["task"]): [row["finished_attempts"], row["failed_attempts"]]
        for row in rows
    }
    assert shown == wanted
    assert sources(rows) == {"events"}
    assert sum(failed for _, failed in wanted.values()) == 441 + 165 + 72 + 20 + 12


def test_throughput_of_events_is_what_the_workload_did(events_lake: Storage) -> None:
    """Over all minutes: every attempt that a round made fail or succeed, by its own account."""
    done: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for row in asked(events_lake, "task-throughput"):
        done[row["task"]] += row["finished_attempts"]
        failed[row["task"]] += row["failed_attempts"]
    rounds, serving = did("round"), did("job2_round")
    assert done["train_step"] == sum(one["ok"] for one in rounds) == 2560
    assert done["score_batch"] == sum(one["ok"] for one in serving) == 1485
    assert failed["load_shard"] == sum(one["failed"] for one in rounds) == 441
    assert failed["native_crash"] == 3 * sum(one["crashed"] for one in rounds) == 72
    assert failed["ParameterServer.die"] == sum(one["restarted"] for one in rounds) == 20
    assert failed["score_batch"] == sum(one["failed"] for one in serving) == 165


def test_throughput_of_metrics_lags_by_a_report_and_loses_nothing(
    recorded_lake: Storage, tried: Attempts
) -> None:
    """At every minute's end, no more than had ended, and all that ended 25 s before.

    What the first scrape reported is history.
    """
    rows = asked(recorded_lake, "task-throughput")
    assert sources(rows) == {"metrics"}
    first = ask(recorded_lake, "SELECT min(time_unix_nano) AS at FROM raymetrics")[0]["at"]
    start = first.timestamp()
    for task in ("train_step", "score_batch", "load_shard", "native_crash", "transform"):
        for column, state in (("finished_attempts", "FINISHED"), ("failed_attempts", "FAILED")):
            ends = sorted(
                one.states[state]
                for one in tried.values()
                if one.task == task and state in one.states
            )
            history = ask(
                recorded_lake,
                "SELECT coalesce(sum(data_point_value), 0) AS total FROM raymetrics"
                f" WHERE metric_name = 'ray_tasks' AND metric_label_Name = '{task}'"
                f" AND metric_State = '{state}'"
                f" AND time_unix_nano < make_timestamptz({int((start + 5) * 1e6)})",
            )[0]["total"]
            for end in range(int(minute(start)) + 60, int(minute(ends[-1] if ends else 0)), 60):
                shown = sum(
                    row[column]
                    for row in rows
                    if row["task"] == task and row["minute"].timestamp() < end
                )
                ended = sum(at < end for at in ends) - history
                sure = sum(at < end - REPORT_SECONDS for at in ends) - history
                assert sure <= shown <= ended, f"{task} {state} before {end}"
            shown = sum(row[column] for row in rows if row["task"] == task)
            assert shown == len(ends) - history


@pytest.mark.parametrize("of", ["events", "metrics"])
def test_throughput_of_ranges_adds_up(
    events_lake: Storage, recorded_lake: Storage, of: str
) -> None:
    """What is asked in two halves is neither lost nor counted twice where they meet."""
    lake = events_lake if of == "events" else recorded_lake
    middle = int(minute(did("end")[0]["t_unix"] - 500)) * 10**9
    halves = TimeRange(None, middle), TimeRange(middle, None)
    sums = [
        Counter(finished=sum(row["finished_attempts"] for row in rows),
                failed=sum(row["failed_attempts"] for row in rows))
        for rows in (asked_in("task-throughput", lake, one) for one in (*halves, TimeRange()))
    ]  # fmt: skip
    assert sums[0] + sums[1] == sums[2]
    assert min(sums[0].values()) > 100


def asked_in(name: str, lake: Storage, range_: TimeRange) -> Rows:
    """The rows of a question in a range."""
    question = QUESTIONS[name]
    with Session(lake, range_, LIMITS, mentioned_in=question.sql) as session:
        return session.run(question.sql, question.bind({})).rows()


def test_failures_by_job_and_reason_are_exact(events_lake: Storage, tried: Attempts) -> None:
    """Every failed attempt with its job and reason, and the tasks that failed in the end."""
    last = {task: max(n for one, n in tried if one == task) for task, _ in tried}
    failed: Counter[tuple[str, str, str | None]] = Counter()
    finally_failed: Counter[tuple[str, str, str | None]] = Counter()
    for (task, number), one in tried.items():
        if one.failed_at:
            failed[one.job, one.task, one.error] += 1
            finally_failed[one.job, one.task, one.error] += number == last[task]
    rows = asked(events_lake, "failures-by-job")
    keys = [(row["job_id"], row["task"], row["error_type"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert dict(zip(keys, [row["failed_attempts"] for row in rows], strict=True)) == failed
    assert dict(zip(keys, [row["failed_tasks"] for row in rows], strict=True)) == finally_failed
    assert failed == {
        ("01000000", "load_shard", "TASK_EXECUTION_EXCEPTION"): 441,
        ("02000000", "score_batch", "TASK_EXECUTION_EXCEPTION"): 165,
        ("01000000", "native_crash", "WORKER_DIED"): 72,
        ("01000000", "ParameterServer.die", "ACTOR_UNAVAILABLE"): 20,
        ("05000000", "transform", "TASK_EXECUTION_EXCEPTION"): 12,
    }
    examples = {row["task"]: row["example"] for row in rows}
    assert examples["score_batch"] == "RuntimeError: feature store timeout"
    assert examples["transform"].startswith("KeyError: 'column missing in partition")
    assert {row["task"]: row["submission_id"] for row in rows}["transform"] == "nightly-etl-2"
    for row in rows:
        times = [
            one.failed_at
            for one in tried.values()
            if one.failed_at and (one.job, one.task) == (row["job_id"], row["task"])
        ]
        assert row["first_at"].timestamp() == pytest.approx(min(times), abs=1e-5)
        assert row["last_at"].timestamp() == pytest.approx(max(times), abs=1e-5)


def test_without_events_failures_have_no_job(recorded_lake: Storage) -> None:
    """The same numbers as task-failures gives, with job and reason unknown."""
    rows = asked(recorded_lake, "failures-by-job")
    wanted: Counter[str] = Counter()
    for row in asked(recorded_lake, "task-failures"):
        wanted[row["task"]] += row["failed_attempts"]
    assert {row["task"]: row["failed_attempts"] for row in rows} == wanted
    unknown = ("job_id", "error_type", "failed_tasks")
    assert {row[column] for row in rows for column in unknown} == {None}
    assert sources(rows) == {"metrics"}


def test_failures_can_be_asked_of_one_job(events_lake: Storage) -> None:
    """By its id, or by the name it was submitted with."""
    by_id = asked(events_lake, "failures-by-job", job="05000000")
    assert by_id == asked(events_lake, "failures-by-job", job="nightly-%")
    assert [row["task"] for row in by_id] == ["transform"]


def test_retries_are_those_of_the_raw_events(
    events_lake: Storage, recorded_lake: Storage, tried: Attempts
) -> None:
    """Tasks with more than one attempt, by name; metrics count the same retries."""
    again = {task for task, number in tried if number > 0}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for (task, number), one in tried.items():
        if task in again and one.kind != "ACTOR_CREATION_TASK":
            counts[one.task]["tasks"] += number == 0
            counts[one.task]["attempts"] += 1
    rows = {row["task"]: row for row in asked(events_lake, "task-retries")}
    assert set(rows) == set(counts) == {"native_crash", "transform"}
    for task, row in rows.items():
        assert (row["retried_tasks"], row["attempts"]) == tuple(counts[task].values())
        assert row["retries"] == row["attempts"] - row["retried_tasks"]
        assert (row["finally_ok"], row["finally_failed"]) == (0, row["retried_tasks"])
    assert (rows["native_crash"]["most_attempts"], rows["transform"]["most_attempts"]) == (3, 2)
    assert rows["native_crash"]["reasons"] == "WORKER_DIED 72"
    counted = {row["task"]: row["retries"] for row in asked(recorded_lake, "task-retries")}
    # one of the crashes was before the first scrape
    assert counted == {"native_crash": 48 - 2, "transform": 6}


def test_tasks_waited_when_many_were_submitted(
    recorded_lake: Storage, events_lake: Storage
) -> None:
    """The spike of failures kept tasks waiting for a node, and the scheduler says so as well."""
    rows = asked(recorded_lake, "tasks-waiting")
    assert rows == asked(events_lake, "tasks-waiting")
    assert {row["reported_by"] for row in rows} == {"tasks", "scheduler"}
    assert not any((row["task"] or "").startswith("JobSupervisor.") for row in rows)
    samples = ask(
        recorded_lake,
        "SELECT minute, sum(v) AS total FROM (SELECT date_trunc('minute', time_unix_nano) AS"
        " minute, series_id, avg(data_point_value) AS v FROM raymetrics WHERE metric_name ="
        " 'ray_scheduler_unscheduleable_tasks' AND metric_Reason = 'WaitingForResources'"
        " GROUP BY ALL) GROUP BY ALL ORDER BY total DESC",
    )
    row = next(row for row in rows if row["state"] == "WaitingForResources")
    assert row["peak_tasks"] == pytest.approx(samples[0]["total"], abs=1e-3)
    assert row["peak_minute"] == samples[0]["minute"]
    assert row["waits_for"] == "a node with free resources"
    assert row["waited_task_seconds"] == pytest.approx(
        60 * sum(one["total"] for one in samples), abs=0.1
    )
    only = asked(recorded_lake, "tasks-waiting", task="score%")
    assert {row["task"] for row in only if row["reported_by"] == "tasks"} == {"score_batch"}


# -- actors, workers, nodes -----------------------------------------------------------------------


def test_every_restart_of_an_actor_is_counted(
    events_lake: Storage, recorded_lake: Storage, events: list[Event]
) -> None:
    """As often as RESTARTING was told and the workload made it exit; metrics count the exits."""
    times = [
        moment(step["timestamp"])
        for _, step in steps(events, "ACTOR_LIFECYCLE_EVENT")
        if step["state"] == "RESTARTING"
    ]
    assert len(times) == sum(one["restarted"] for one in did("round")) == 20
    server, app = asked(events_lake, "actor-restarts")
    assert (server["actor"], server["restarts"], server["deaths"]) == ("ParameterServer", 20, 1)
    assert server["reasons"] == "ACTOR_FAILURE 20, OWNER_DIED 1"
    assert server["first_at"].timestamp() == pytest.approx(min(times), abs=1e-5)
    assert (app["actor"], app["restarts"], app["deaths"]) == ("App", 0, 1)
    assert (server["job_id"], app["job_id"]) == ("01000000", "02000000")
    (counted,) = asked(recorded_lake, "actor-restarts")
    assert (counted["actor"], counted["crashes"], counted["restarts"]) == (
        "ParameterServer", 20, None,
    )  # fmt: skip
    assert 0 < counted["first_at"].timestamp() - min(times) < REPORT_SECONDS


def test_crashes_are_those_of_the_raw_events(events_lake: Storage, events: list[Event]) -> None:
    """Workers that died of a SYSTEM_ERROR by minute, job and node; and what they ran."""
    nodes = {
        one["workerId"]: hexadecimal(one["nodeId"])
        for one in (e["workerDefinitionEvent"] for e in events if "workerDefinitionEvent" in e)
    }
    wanted: Counter[tuple[float, str, str | None]] = Counter()
    for one, step in steps(events, "WORKER_LIFECYCLE_EVENT"):
        if step["state"] == "DEAD" and step["deathInfo"]["exitType"] == "SYSTEM_ERROR":
            job, node = hexadecimal(one["jobId"]), nodes.get(one["workerId"])
            wanted[minute(moment(step["timestamp"])), job, node] += 1
    rows = asked(events_lake, "worker-crashes")
    shown: Counter[tuple[float, str, str | None]] = Counter()
    ran: Counter[str] = Counter()
    for row in rows:
        shown[row["minute"].timestamp(), row["job_id"], row["node"]] += row["workers"]
        ran[row["task"]] += row["workers"]
    assert shown == wanted
    assert (ran["native_crash"], ran["ParameterServer.die"]) == (24 * 3, 20)
    assert {row["reason"] for row in rows} == {"SYSTEM_ERROR"}
    assert sources(rows) == {"events"}


def test_crashes_of_metrics_are_those_after_the_first_scrape(recorded_lake: Storage) -> None:
    """By name and node; the one that crashed before the first scrape is history."""
    rows = asked(recorded_lake, "worker-crashes")
    ran: Counter[str] = Counter()
    for row in rows:
        ran[row["task"]] += row["workers"]
    assert ran == {"native_crash": 24 * 3 - 3, "ParameterServer.__init__": 20}
    assert {row["node"] for row in rows} == {HEAD, "192.0.2.2:28181", KILLED}
    assert sources(rows) == {"metrics"}


@pytest.mark.parametrize("of", ["events", "metrics"])
def test_the_killed_node_was_lost_and_came_back(
    events_lake: Storage, recorded_lake: Storage, of: str
) -> None:
    """Its loss and return, to the moment by events and to a scrape by metrics."""
    (killed,), (added,) = did("node_killed"), did("node_added")
    lake = events_lake if of == "events" else recorded_lake
    (row,) = asked(lake, "node-losses")
    lost, back = row["lost_at"].timestamp(), row["back_at"].timestamp()
    assert row["away_seconds"] == pytest.approx(back - lost)
    assert row["source"] == of
    assert abs(back - added["t_unix"]) < (1 if of == "events" else 2 * SCRAPE_SECONDS)
    if of == "events":
        assert 0 < lost - killed["t_unix"] < SCRAPE_SECONDS
        assert row["node"] == did("up")[0]["nodes"][0][0]
        assert (row["reason"], row["is_expected"]) == ("UNEXPECTED_TERMINATION", False)
    else:
        assert 0 <= killed["t_unix"] - lost < SCRAPE_SECONDS
        assert (row["node"], row["reason"]) == (KILLED, None)


# -- jobs and the object store --------------------------------------------------------------------


def test_jobs_began_and_ended_when_they_did(
    events_lake: Storage, events: list[Event], tried: Attempts
) -> None:
    """Beginning and end of each driver as Ray told of them, within a second of what was done."""
    told: dict[tuple[str, str], float] = {}
    for one, step in steps(events, "DRIVER_JOB_LIFECYCLE_EVENT"):
        told[hexadecimal(one["jobId"]), step["state"]] = moment(step["timestamp"])
    rows = {row["job_id"]: row for row in asked(events_lake, "jobs")}
    assert set(rows) == {job for job, _ in told} == {"01000000", "02000000", "04000000", "05000000"}
    for job, row in rows.items():
        assert row["began"].timestamp() == pytest.approx(told[job, "CREATED"], abs=1e-5)
        assert row["ended"].timestamp() == pytest.approx(told[job, "FINISHED"], abs=1e-5)
        assert row["run_seconds"] == pytest.approx(told[job, "FINISHED"] - told[job, "CREATED"])
        failed = sum(one.failed_at is not None for one in tried.values() if one.job == job)
        assert row["failed_attempts"] == failed
    for what, job in (("up", "01000000"), ("job2_up", "02000000")):
        assert abs(rows[job]["began"].timestamp() - did(what)[0]["t_unix"]) < 1
    for script, job in (("ok_job.py", "04000000"), ("fail_job.py", "05000000")):
        (submitted,) = did("submitted", script=script)
        assert 0 < rows[job]["began"].timestamp() - submitted["t_unix"] < 3
        assert rows[job]["entrypoint"].endswith(script)
    assert {job: row["submission_id"] for job, row in rows.items() if row["submission_id"]} == {
        "04000000": "nightly-etl-1", "05000000": "nightly-etl-2",
    }  # fmt: skip
    assert rows["01000000"]["failed_tasks"] == 441 + 24 + 20


def test_jobs_of_metrics_are_known_to_a_report(
    recorded_lake: Storage, events_lake: Storage
) -> None:
    """Ray's age of a job is a report old when it is scraped, and stays a while: never early."""
    known = {row["job_id"]: row for row in asked(events_lake, "jobs")}
    rows = {row["job_id"]: row for row in asked(recorded_lake, "jobs")}
    assert set(rows) >= {"01000000", "02000000"}
    for job in set(rows) & set(known):
        late = (rows[job]["began"] - known[job]["began"]).total_seconds()
        assert 0 <= late < REPORT_SECONDS
        if rows[job]["ended"]:
            late = (rows[job]["ended"] - known[job]["ended"]).total_seconds()
            assert 0 <= late < LINGER_SECONDS
    assert (rows["02000000"]["status"], rows["01000000"]["status"]) == ("ENDED", "RUNNING")
    assert {row["failed_attempts"] for row in rows.values()} == {None}


def test_spilling_is_what_the_head_did(recorded_lake: Storage) -> None:
    """It spilled while objects were held, once; fullness within a point of the raw gauges."""
    (row,) = asked(recorded_lake, "object-store-spilling")
    raw = ask(
        recorded_lake,
        "SELECT metric_name, max(data_point_value) AS most, min(data_point_value) AS least"
        f" FROM raymetrics WHERE metric_instance = '{HEAD}'"
        f" AND date_trunc('minute', time_unix_nano) = '{row['minute']}'"
        " AND metric_name IN ('ray_object_store_used_memory',"
        " 'ray_object_store_available_memory') GROUP BY ALL",
    )
    values: dict[str, Any] = {one["metric_name"]: one for one in raw}
    used = values["ray_object_store_used_memory"]["most"]
    free = values["ray_object_store_available_memory"]["least"]
    assert row["object_store_used_pct"] == pytest.approx(100 * used / (used + free), abs=1)
    (total,) = ask(
        recorded_lake,
        "SELECT max(data_point_value) AS bytes FROM raymetrics"
        " WHERE metric_name = 'ray_spill_manager_objects_bytes' AND metric_State = 'Spilled'",
    )
    assert row["spilled_bytes"] == row["on_disk_bytes"] == total["bytes"] > 100e6
    held = [one["t_unix"] for one in did("round") if one["held"]]
    assert minute(held[0]) <= row["minute"].timestamp() <= held[-1]
    assert (row["node"], row["restored_bytes"], row["is_thrashing"]) == (HEAD, 0, False)


def test_nothing_was_killed_for_memory(recorded_lake: Storage, events_lake: Storage) -> None:
    """The recorded cluster never ran out of memory."""
    assert asked(recorded_lake, "out-of-memory") == asked(events_lake, "out-of-memory") == []
