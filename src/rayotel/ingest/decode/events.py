"""Ray's own events: from the body of an export request to rows.

A body is a JSON array of events in protobuf's JSON mapping: bytes in base64, times in RFC 3339,
names in lowerCamelCase. If Ray is configured so, names are as in the protobuf definitions. An event
is a head and one nested payload, which is named after the event's type.

**Identifiers** are bytes and become hexadecimal everywhere. A key must be one of the known names,
and the value base64 of a length that Ray's ids have; everything else stays as it was sent. Members
of maps, such as labels and resources, have names of the user's and are never changed.

**No event is refused.** Ray repeats a request for ever after any error and holds back all later
events. An unreadable event is a row too: `event` holds its raw text, `problem` the reason, its time
is its arrival, and its id is a digest of stream and text. So is an event beyond a bound. A text of
more than MAX_EVENT_BYTES is kept in several rows.

**A large body is read in pieces**, of whole events each, because parsed JSON takes up to fifty
times its bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import orjson

from rayotel.ingest.decode.limits.bounds import (
    EARLIEST_UNIX_NANO,
    LATEST_AFTER_ARRIVAL_NANO,
    MAX_NAME_BYTES,
    MAX_REQUEST_HOURS,
)
from rayotel.ingest.decode.limits.drops import Drops
from rayotel.ingest.decode.limits.json_text import NotJson, after_space, elements, end_of
from rayotel.model import (
    NANOSECONDS_PER_HOUR,
    NANOSECONDS_PER_SECOND,
    Arrival,
    Event,
    EventBatch,
)

ID_BYTES = 28
MAX_ID_BYTES = 64
MAX_DEPTH = 100
# of one event and of a raw text in a row: a recorded event has 1,852 at most
MAX_EVENT_BYTES = 262_144
# of a request, a tenth of which Ray sends at most; a row takes half a kilobyte
MAX_REQUEST_EVENTS = 100_000
MAX_INT = 2**63 - 1
_SIZES = frozenset({4, 16, 18, 24, 28})
_ENCODED_SIZES = frozenset((size + 2) // 3 * 4 for size in _SIZES)
IDENTIFIERS = frozenset(
    {
        "nodeId", "jobId", "taskId", "actorId", "workerId", "placementGroupId", "parentTaskId",
        "parentId", "ownerId", "ownerWorkerId", "ownerNodeId", "driverNodeId", "driverId",
        "callerId", "callerWorkerId", "creationJobId", "creatorJobId", "creatorActorId",
        "creationTaskId", "rootDetachedActorId", "softTargetNodeId", "targetNodeId", "targetId",
        "currentNodeId", "localRayletId", "rayletId", "componentId", "objectId", "virtualClusterId",
    }
)  # fmt: skip
MAPS = frozenset(
    {
        "labels", "resources", "requiredResources", "labelSelector", "metadata", "customFields",
        "unitResources", "customResources", "clusterResourcesAfter", "nodeLabels", "envVars",
        "refIds",
    }
)  # fmt: skip
_HEAD = frozenset(
    {
        "eventId", "eventType", "sourceType", "severity", "sessionName", "message", "nodeId",
        "timestamp",
    }
)  # fmt: skip
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEGINNINGS = frozenset(bytes((byte,)) for byte in b'[{"-0123456789tfn')
_HEX = re.compile(r"[0-9a-f]+")

# each reason is a label of a metric: a fixed few
NOT_UTF8 = "the body is not UTF-8"
NOT_JSON = "the body is not JSON"
NOT_AN_ARRAY = "the body is no array"
NOT_AN_OBJECT = "the event is no object"
NO_ID = "the event has no readable eventId"
NO_TYPE = "the event has no eventType"
NO_TIME = "the event has no readable timestamp"
BAD_TIME = "the event's timestamp is before 2000 or more than a day ahead"
TOO_DEEP = "an event is nested too deeply"
LARGE_EVENT = f"the event is larger than {MAX_EVENT_BYTES} bytes"
LONG_NAME = f"a type, name or id of the event is larger than {MAX_NAME_BYTES} bytes"
MANY_EVENTS = f"the request has more than {MAX_REQUEST_EVENTS} events"
MANY_HOURS = f"the request has events of more than {MAX_REQUEST_HOURS} hours"
DEFECT = "rayotel failed on the event"
REASONS = (
    NOT_UTF8, NOT_JSON, NOT_AN_ARRAY, NOT_AN_OBJECT, NO_ID, NO_TYPE, NO_TIME, BAD_TIME, TOO_DEEP,
    LARGE_EVENT, LONG_NAME, MANY_EVENTS, MANY_HOURS, DEFECT,
)  # fmt: skip


class _Poison(ValueError):
    """An event that cannot be read; its text is one of REASONS."""


def decode(body: bytes, arrival: Arrival) -> EventBatch:
    """The rows of a body without its Content-Encoding. Never fails: see above."""
    rows = _Rows(arrival)
    reason = rows.read(body)
    if reason is not None:
        rows = _Rows(arrival)
        rows.keep(body, reason)
    return EventBatch(arrival, rows.events, +rows.poison)


class _Rows:
    """Rows of one body, in order, and how many events could not be read, by reason."""

    def __init__(self, arrival: Arrival) -> None:
        self.events: list[Event] = []
        self.poison: Counter[str] = Counter()
        self._arrival = arrival
        self._read = 0
        self._hours: set[int] = set()

    def read(self, body: bytes) -> str | None:
        """Add the events of a body; or say why it is not one of events, with rows to be left."""
        if len(body) > MAX_EVENT_BYTES:
            try:
                return self._in_pieces(body)
            except NotJson:
                return NOT_JSON if _is_utf8(body) else NOT_UTF8
        try:
            entries = orjson.loads(body)
        except orjson.JSONDecodeError:
            return NOT_JSON if _is_utf8(body) else NOT_UTF8
        if not isinstance(entries, list):
            return NOT_AN_ARRAY
        self._add(entries[:MAX_REQUEST_EVENTS], body)
        if beyond := entries[MAX_REQUEST_EVENTS:]:
            self.keep(_raw(beyond) or body, MANY_EVENTS, len(beyond))
        return None

    def _in_pieces(self, body: bytes) -> str | None:
        """The same for a body of which only some events at a time are parsed. Raises NotJson."""
        start = after_space(body, 0)
        if body[start : start + 1] not in _BEGINNINGS:
            return NOT_JSON if _is_utf8(body) else NOT_UTF8
        if body[start : start + 1] != b"[":
            return NOT_AN_ARRAY if after_space(body, end_of(body, start)) == len(body) else NOT_JSON
        first = last = start
        count = beyond = 0
        for begin, end in elements(body, start):
            is_beyond = self._read + count >= MAX_REQUEST_EVENTS
            is_large = end - begin > MAX_EVENT_BYTES
            if count and (is_beyond or is_large or end - first > MAX_EVENT_BYTES):
                self._piece(body[first:last], count)
                count = 0
            last = end
            if is_beyond:
                first = first if beyond else begin
                beyond += 1
            elif is_large:
                self._read += 1
                self.keep(body[begin:end], LARGE_EVENT)
            else:
                first = first if count else begin
                count += 1
        if beyond:
            self.keep(b"[%b]" % body[first:last], MANY_EVENTS, beyond)
        elif count:
            self._piece(body[first:last], count)
        closing = after_space(body, max(last, start + 1))
        if body[closing : closing + 1] != b"]":
            return NOT_JSON
        return None if after_space(body, closing + 1) == len(body) else NOT_JSON

    def _piece(self, raw: bytes, count: int) -> None:
        """Add some events, this many. Raises NotJson."""
        raw = b"[%b]" % raw
        try:
            entries = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise NotJson(str(error)) from None
        self._read += count
        self._add(entries, raw)

    def _add(self, entries: list[object], body: bytes) -> None:
        is_whole = True
        for entry in entries:
            try:
                event = _event(entry, self._arrival)
                self._count_hour(event)
                self.events.append(event)
                continue
            except _Poison as error:
                reason = str(error)
            except Exception:  # a defect of ours must not make Ray repeat the request for ever
                reason = DEFECT
            raw = _raw(entry)
            if raw is None:
                is_whole = False
                self.poison[reason] += 1
            else:
                self.keep(raw, reason)
        if not is_whole:
            # an event so deep cannot be written by itself; the body that it came in can be kept
            self.keep(body, TOO_DEEP, 0)

    def _count_hour(self, event: Event) -> None:
        hour = event.time_unix_nano // NANOSECONDS_PER_HOUR
        if hour not in self._hours:
            if len(self._hours) >= MAX_REQUEST_HOURS:
                raise _Poison(MANY_HOURS)
            self._hours.add(hour)

    def keep(self, raw: bytes, reason: str, count: int = 1) -> None:
        """Add what is not read, as one row or more, as `count` unreadable events."""
        self.poison[reason] += count
        start = number = 0
        while start < len(raw) or not number:
            end = _end_of_text(raw, start + MAX_EVENT_BYTES)
            self.events.append(_unreadable(raw[start:end], reason, self._arrival, number))
            start, number = end, number + 1


def _end_of_text(raw: bytes, end: int) -> int:
    """The last place up to `end` that is not within a character."""
    if end >= len(raw):
        return len(raw)
    for place in range(end, end - 4, -1):
        if raw[place] & 0xC0 != 0x80:
            return place
    return end


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _raw(event: object) -> bytes | None:
    """The text of an event; None if it is nested too deeply to be written as JSON."""
    try:
        return orjson.dumps(event)
    except orjson.JSONEncodeError:
        return None


def _unreadable(raw: bytes, reason: str, arrival: Arrival, number: int) -> Event:
    """A row of a text that was not read. `number`: which piece of the text it is."""
    digest = hashlib.blake2b(arrival.stream.encode() + b"\0", digest_size=ID_BYTES)
    digest.update(raw)
    if number:
        digest.update(b"\0%d" % number)
    try:
        text, problem = raw.decode(), reason
    except UnicodeDecodeError:
        text, problem = base64.b64encode(raw).decode("ascii"), f"{reason}; kept in base64"
    return Event(digest.hexdigest(), arrival.received_unix_nano, text, problem=problem)


def _event(sent: object, arrival: Arrival) -> Event:
    """The row of one event; raises _Poison."""
    if not isinstance(sent, dict):
        raise _Poison(NOT_AN_OBJECT)
    if "event_id" in sent and "eventId" not in sent:
        sent = _camel_members(sent, 0)
    event_id = _hex_of(sent.get("eventId"))
    kind = sent.get("eventType")
    if event_id is None:
        raise _Poison(NO_ID)
    if not isinstance(kind, str) or not kind:
        raise _Poison(NO_TYPE)
    time = _time(sent.get("timestamp"), arrival)
    name = _payload_name(sent, kind)
    payload = _plain(sent[name], 1) if name is not None else {}
    beside = {key: value for key, value in sent.items() if key not in _HEAD and key != name}
    return Event(
        event_id=event_id,
        time_unix_nano=time,
        event=_json(payload),
        event_type=_name(kind),
        source_type=_name(sent.get("sourceType")),
        severity=_name(sent.get("severity")),
        session_name=_name(sent.get("sessionName")),
        message=_text(sent.get("message")),
        reporter_node_id=_name(_plain_id(sent.get("nodeId"))),
        node_id=_name(payload.get("nodeId")),
        job_id=_name(payload.get("jobId")),
        task_id=_name(payload.get("taskId")),
        # profiles of tasks have another name for it
        task_attempt=_integer(payload.get("taskAttempt", payload.get("attemptNumber"))),
        actor_id=_name(payload.get("actorId")),
        worker_id=_name(payload.get("workerId")),
        placement_group_id=_name(payload.get("placementGroupId")),
        state=_state(payload),
        beside=_json(_plain(beside, 0)) if beside else None,
    )


def _payload_name(event: dict[str, Any], kind: str) -> str | None:
    """The member that is the payload: named as the type, or the only object there is."""
    name = _camel(kind.lower())
    objects = [key for key, value in event.items() if isinstance(value, dict) and key not in _HEAD]
    for candidate in (name, name + "s"):
        if candidate in objects:
            return candidate
    return objects[0] if len(objects) == 1 else None


def _plain(value: Any, depth: int) -> Any:
    """A value with its identifiers in hexadecimal."""
    if depth > MAX_DEPTH:
        raise _Poison(TOO_DEEP)
    if isinstance(value, dict):
        return {
            key: _member(key, member, depth + 1)
            if isinstance(member, dict | list)
            else _plain_id(member)
            if key in IDENTIFIERS
            else member
            for key, member in value.items()
        }
    if isinstance(value, list):
        return [
            _plain(member, depth + 1) if isinstance(member, dict | list) else member
            for member in value
        ]
    return value


def _member(key: str, value: Any, depth: int) -> Any:
    return _checked(value, depth) if key in MAPS else _plain(value, depth)


def _checked(value: Any, depth: int) -> Any:
    """The same value, where it is not nested too deeply."""
    if depth > MAX_DEPTH:
        raise _Poison(TOO_DEEP)
    members = value.values() if isinstance(value, dict) else value
    for member in members:
        if isinstance(member, dict | list):
            _checked(member, depth + 1)
    return value


def _plain_id(value: Any) -> Any:
    """An identifier in hexadecimal; anything else as it is."""
    if not isinstance(value, str) or len(value) not in _ENCODED_SIZES or _HEX.fullmatch(value):
        return value
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return value
    return raw.hex() if len(raw) in _SIZES else value


def _hex_of(value: object) -> str | None:
    """An event's id in hexadecimal; None for what is no base64 of 1 to MAX_ID_BYTES bytes."""
    if not isinstance(value, str):
        return None
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if 0 < len(raw) <= MAX_ID_BYTES else None


def _time(value: object, arrival: Arrival) -> int:
    """Nanoseconds since 1970 of an RFC 3339 text; raises _Poison."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _Poison(NO_TIME)
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC
        )
    except ValueError:
        raise _Poison(NO_TIME) from None
    since = moment - _EPOCH
    seconds = since.days * 86_400 + since.seconds
    if zone not in "Zz":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    nano = seconds * NANOSECONDS_PER_SECOND + int((fraction or "").ljust(9, "0"))
    if not EARLIEST_UNIX_NANO <= nano <= arrival.received_unix_nano + LATEST_AFTER_ARRIVAL_NANO:
        raise _Poison(BAD_TIME)
    return nano


def _state(payload: dict[str, Any]) -> str | None:
    transitions = payload.get("stateTransitions")
    if isinstance(transitions, list) and transitions and isinstance(transitions[-1], dict):
        return _name(transitions[-1].get("state"))
    return None


def _text(value: Any) -> str | None:
    """A text column: null where absent or empty; what is no text as JSON."""
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else _json(value)


def _name(value: Any) -> str | None:
    """A text column that names something; raises _Poison where it is too long."""
    text = _text(value)
    if text is not None and len(text) > MAX_NAME_BYTES:
        raise _Poison(LONG_NAME)
    return text


def _integer(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -MAX_INT <= value <= MAX_INT else None


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise _Poison(TOO_DEEP) from None


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _camel_members(value: dict[str, Any], depth: int) -> dict[str, Any]:
    """An object with names as in protobuf's definitions, its names in lowerCamelCase."""
    if depth > MAX_DEPTH:
        raise _Poison(TOO_DEEP)
    renamed: dict[str, Any] = {}
    for key, member in value.items():
        name = _camel(key)
        renamed[name] = member if name in MAPS else _camel_value(member, depth + 1)
    return renamed


def _camel_value(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        return _camel_members(value, depth)
    if isinstance(value, list):
        if depth > MAX_DEPTH:
            raise _Poison(TOO_DEEP)
        return [_camel_value(member, depth + 1) for member in value]
    return value


class BodyDecoder:
    """Decodes bodies without their Content-Encoding. Safe for several threads."""

    def __init__(self, *, max_series_cached_bytes: int, drops: Drops) -> None:
        """Events have no series, and no setting drops them."""
        del max_series_cached_bytes, drops

    def decode(self, body: bytes, arrival: Arrival) -> EventBatch:
        """Rows of a body; never fails."""
        return decode(body, arrival)

    def recognised(self, body: bytes, arrival: Arrival) -> None:
        """None: no body is like another."""
