"""The truth of the recorded cluster by other means than rayotel's: plain Python over what Ray sent.

Times are seconds since 1970, ids hexadecimal.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rayotel.replay import Recording
from support.harness import RECORDING

HEAD, KILLED = "192.0.2.2:28180", "192.0.2.2:28182"
NODES = {HEAD, "192.0.2.2:28181", KILLED}
SCRAPE_SECONDS = 11  # a scrape every 10 s, give or take
REPORT_SECONDS = 25  # Ray reports every 10 s, then comes the next scrape
Event = dict[str, Any]


@dataclass
class Attempt:
    """One attempt of a task, put together from all that its owner and its worker said."""

    job: str = ""
    kind: str = ""
    task: str = ""
    error: str | None = None
    states: dict[str, float] = field(default_factory=dict)

    @property
    def failed_at(self) -> float | None:
        """When it failed, if it did."""
        return self.states.get("FAILED")

    @property
    def finished_at(self) -> float | None:
        """When it came to a good end, if it did."""
        return self.states.get("FINISHED")


def truths() -> list[dict[str, Any]]:
    """Everything that was done, as the workload wrote it down."""
    lines = (RECORDING / "truth.ndjson").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def did(what: str, **more: Any) -> list[dict[str, Any]]:
    """What was done of one kind."""
    return [t for t in truths() if t["ev"] == what and more.items() <= t.items()]


def moment(text: str) -> float:
    """A time as Ray writes it."""
    return datetime.fromisoformat(text).timestamp()


def hexadecimal(text: str) -> str:
    """An id as Ray writes it in events."""
    return base64.b64decode(text).hex()


def events_of(recording: Recording) -> list[Event]:
    """Every recorded event, in order of arrival."""
    return [event for request in recording.requests for event in json.loads(request.body)]


def payloads(events: Iterable[Event], kind: str) -> Iterator[dict[str, Any]]:
    """What events of one kind say."""
    words = kind.lower().split("_")
    name = words[0] + "".join(word.title() for word in words[1:])
    return (event[name] for event in events if event["eventType"] == kind)


def steps(events: Iterable[Event], kind: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(payload, transition) of every change of state."""
    for payload in payloads(events, kind):
        for step in payload["stateTransitions"]:
            yield payload, step


def attempts(events: list[Event]) -> dict[tuple[str, int], Attempt]:
    """Every attempt by task and number."""
    found: dict[tuple[str, int], Attempt] = {}
    names: dict[str, tuple[str, str]] = {}
    for kind in ("TASK_DEFINITION_EVENT", "ACTOR_TASK_DEFINITION_EVENT"):
        for one in payloads(events, kind):
            name = one.get("taskName") or one.get("actorTaskName") or ""
            names[one["taskId"]] = (one.get("taskType", "ACTOR_TASK"), name)
    for one, step in steps(events, "TASK_LIFECYCLE_EVENT"):
        key = (one["taskId"], one.get("taskAttempt", 0))
        attempt = found.setdefault(key, Attempt())
        attempt.job = attempt.job or hexadecimal(one.get("jobId", ""))
        attempt.kind, attempt.task = names.get(one["taskId"], ("", ""))
        attempt.error = attempt.error or one.get("rayErrorInfo", {}).get("errorType")
        at = moment(step["timestamp"])
        attempt.states[step["state"]] = min(at, attempt.states.get(step["state"], at))
    return {
        (hexadecimal(task), number): one
        for (task, number), one in found.items()
        if not one.task.startswith(("JobSupervisor.", "_ray_internal"))
    }
