"""Recorded traffic, posted as the real client did.

A recording is a directory: `requests.ndjson` has a request a line, in order of arrival (`t`:
seconds since the first, `path`, `headers`, `offset` and `length` of the body), `bodies.bin.xz` all
bodies one after another, xz-compressed as a whole. Where a line says `"stored": "identity"`, the
body is kept without its Content-Encoding, which makes a recording a fifth of the size, and is
encoded again before it is sent; with gzip's default level that gives the bytes that Fluent Bit
sent.
"""

from __future__ import annotations

import gzip
import json
import lzma
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.errors import RayotelError, UsageError
from rayotel.lake.signal import EVENTS, METRICS
from rayotel.model import NANOSECONDS_PER_SECOND

MAX_RETRIES = 20
MAX_FIRST_TRIES = 7  # nobody has answered yet: it is more likely a wrong address than an outage
REQUEST_TIMEOUT_SECONDS = 30.0
LONGEST_RETRY_PAUSE_SECONDS = 30.0
GZIP_WINDOW_BITS = 31
# times of Ray's events: RFC 3339, and a few in milliseconds, of which 0 is none
_TIME = re.compile(rb'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z"')
_MILLISECONDS = re.compile(rb'("\w+TimeMs": ?")([1-9]\d*)"')


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request. `body` without Content-Encoding if `is_stored_plain`; `at`: seconds."""

    at: float
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_stored_plain: bool

    @property
    def encoding(self) -> str:
        """The Content-Encoding of the request as it was sent."""
        return next((v for name, v in self.headers if name.lower() == "content-encoding"), "")

    def plain_body(self) -> bytes:
        """The body without Content-Encoding."""
        if self.is_stored_plain or not self.encoding:
            return self.body
        return gzip.decompress(self.body)

    def sent_body(self, shift_nano: int = 0) -> bytes:
        """The body as sent; the times of its points or events moved by `shift_nano`."""
        if not shift_nano and not self.is_stored_plain:
            return self.body
        plain = self.plain_body()
        if shift_nano and self.path in _SHIFTS:
            plain = _SHIFTS[self.path](plain, shift_nano)
        if self.encoding != "gzip":
            return plain
        codec = zlib.compressobj(6, zlib.DEFLATED, GZIP_WINDOW_BITS)
        return codec.compress(plain) + codec.flush()


def _shifted(body: bytes, shift_nano: int) -> bytes:
    request = ExportMetricsServiceRequest.FromString(body)
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points if kind else ():
                    point.time_unix_nano += shift_nano
                    if point.start_time_unix_nano:
                        point.start_time_unix_nano += shift_nano
    return request.SerializeToString()


def _shifted_events(body: bytes, shift_nano: int) -> bytes:
    def moved(match: re.Match[bytes]) -> bytes:
        seconds, nano = divmod(_unix_nano(match) + shift_nano, NANOSECONDS_PER_SECOND)
        moment = datetime.fromtimestamp(seconds, UTC)
        return f'"{moment:%Y-%m-%dT%H:%M:%S}.{nano:09}Z"'.encode()

    def later(match: re.Match[bytes]) -> bytes:
        return match[1] + b'%d"' % (int(match[2]) + shift_nano // 1_000_000)

    return _MILLISECONDS.sub(later, _TIME.sub(moved, body))


def _unix_nano(match: re.Match[bytes]) -> int:
    moment = datetime.fromisoformat(match[1].decode()).replace(tzinfo=UTC)
    return int(moment.timestamp()) * NANOSECONDS_PER_SECOND + int((match[2] or b"").ljust(9, b"0"))


@dataclass(frozen=True, slots=True)
class Recording:
    """The requests of one directory, in order."""

    requests: tuple[RecordedRequest, ...]

    @property
    def last_event_unix_nano(self) -> int:
        """The latest time in the last metrics request, else in the last one of events; 0: none."""
        for path, latest in _LATEST.items():
            for request in reversed(self.requests):
                if request.path == path:
                    return latest(request.plain_body())
        return 0


def _latest(body: bytes) -> int:
    request = ExportMetricsServiceRequest.FromString(body)
    return max(
        (
            point.time_unix_nano
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if (kind := metric.WhichOneof("data"))
            for point in getattr(metric, kind).data_points
        ),
        default=0,
    )


def _latest_event(body: bytes) -> int:
    return max(map(_unix_nano, _TIME.finditer(body)), default=0)


# by the path that a signal is posted to
_SHIFTS = {METRICS.path: _shifted, EVENTS.path: _shifted_events}
_LATEST = {METRICS.path: _latest, EVENTS.path: _latest_event}


def load(directory: Path) -> Recording:
    """Read a recording. Raises UsageError for a directory that is none."""
    try:
        bodies = lzma.decompress((directory / "bodies.bin.xz").read_bytes())
        lines = (directory / "requests.ndjson").read_text("utf-8").splitlines()
        return Recording(tuple(_requests(lines, bodies)))
    except (OSError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"'{directory}' is not a recording: {type(error).__name__}: {error}",
            hint="a recording has requests.ndjson and bodies.bin.xz",
        ) from None


def _requests(lines: list[str], bodies: bytes) -> Iterator[RecordedRequest]:
    for line in lines:
        fields: dict[str, Any] = json.loads(line)
        start, length = fields["offset"], fields["length"]
        if not 0 <= start <= start + length <= len(bodies):
            raise ValueError(f"request {fields.get('n')} lies outside the bodies")
        yield RecordedRequest(
            at=float(fields["t"]),
            path=str(fields["path"]),
            headers=tuple((str(name), str(value)) for name, value in fields["headers"]),
            body=bodies[start : start + length],
            is_stored_plain=fields.get("stored") == "identity",
        )


@dataclass(slots=True)
class Outcome:
    """What came of a replay: answers by path and status, and how often was tried again.

    `is_reached`: whether anybody answered at all.
    """

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    retries: int = 0
    seconds: float = 0.0
    is_reached: bool = False


def post(
    recording: Recording,
    url: str,
    *,
    speed: float | None,
    shift_nano: int = 0,
    credentials: tuple[str, str] | None = None,
    progress: Callable[[int], object] = int,
) -> Outcome:
    """Post all requests in order. `speed` 1: as recorded, 2: twice as fast, None: without pauses.

    408, 429, 503 and broken connections are tried again, as Fluent Bit does; after MAX_RETRIES in a
    row RayotelError is raised.
    """
    outcome = Outcome()
    started = time.monotonic()
    with httpx.Client(
        base_url=url,
        timeout=REQUEST_TIMEOUT_SECONDS,
        auth=credentials,
        trust_env=False,  # no proxy
        verify=httpx.create_ssl_context(),  # of SSL_CERT_FILE or SSL_CERT_DIR, where they are set
    ) as client:
        for number, request in enumerate(recording.requests):
            if speed is not None:
                time.sleep(max(0.0, started + request.at / speed - time.monotonic()))
            status = _post_one(client, request, shift_nano, outcome)
            outcome.answers[request.path, status] += 1
            progress(number + 1)
    outcome.seconds = time.monotonic() - started
    return outcome


def _post_one(
    client: httpx.Client, request: RecordedRequest, shift_nano: int, outcome: Outcome
) -> int:
    body = request.sent_body(shift_nano)
    failure = ""
    attempt = 0
    while attempt < (MAX_RETRIES if outcome.is_reached else MAX_FIRST_TRIES):
        pause = min(0.1 * 2**attempt, LONGEST_RETRY_PAUSE_SECONDS)
        try:
            answer = client.post(request.path, content=body, headers=list(request.headers))
        except httpx.TransportError as error:
            failure = f"{type(error).__name__}: {error}"
        else:
            outcome.is_reached = True
            if answer.status_code not in (408, 429, 502, 503, 504):
                return answer.status_code
            failure = f"status {answer.status_code}"
            asked = answer.headers.get("retry-after", "")
            pause = min(float(asked), LONGEST_RETRY_PAUSE_SECONDS) if asked.isdigit() else pause
        attempt += 1
        outcome.retries += 1
        time.sleep(pause)
    hint = "is the server at --url running?"
    if "CERTIFICATE_VERIFY_FAILED" in failure:
        hint = "set SSL_CERT_FILE to the certificate of who issued the server's"
    raise RayotelError(f"gave up after {attempt} tries: {failure}", hint=hint)


def shift_to_now(recording: Recording) -> int:
    """Nanoseconds by which to move a recording so that it ends now, in whole seconds."""
    last = recording.last_event_unix_nano
    if not last:
        raise UsageError("the recording has no times to shift")
    return (time.time_ns() - last) // NANOSECONDS_PER_SECOND * NANOSECONDS_PER_SECOND
