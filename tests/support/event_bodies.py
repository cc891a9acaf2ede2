"""Bodies as Ray's event export sends them, made small, and read again by plain means."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

TIME = "2026-01-02T03:04:05.123456789Z"
TIME_UNIX_NANO = 1_767_323_045_123_456_789


def event_id(number: int) -> bytes:
    """An id of 28 bytes that is always the same for one number."""
    return random.Random(number).randbytes(28)


def encoded(raw: bytes) -> str:
    """Bytes as protobuf's JSON has them."""
    return base64.b64encode(raw).decode()


def event(number: int, **changed: Any) -> dict[str, Any]:
    """A lifecycle event of a task; `changed` members instead, None: without the member."""
    made = {
        "eventId": encoded(event_id(number)),
        "sourceType": "CORE_WORKER",
        "eventType": "TASK_LIFECYCLE_EVENT",
        "timestamp": TIME,
        "severity": "INFO",
        "message": "",
        "sessionName": "session_1",
        "nodeId": encoded(b"n" * 28),
        "taskLifecycleEvent": {
            "taskId": encoded(b"t" * 24),
            "jobId": "AQAAAA==",
            "taskAttempt": 1,
            "nodeId": "",
            "workerId": encoded(b"w" * 28),
            "stateTransitions": [
                {"state": "RUNNING", "timestamp": TIME},
                {"state": "FINISHED", "timestamp": TIME},
            ],
        },
        **changed,
    }
    return {name: value for name, value in made.items() if value is not None}


def body(*events: Any) -> bytes:
    """A request's body."""
    return json.dumps(list(events)).encode()


def of_numbers(numbers: Iterable[int]) -> bytes:
    """A body with an event for each number."""
    return body(*map(event, numbers))


def unix_nano(text: str) -> int:
    """Nanoseconds since 1970 of a time as Ray writes it."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0"))
