"""What a server reports while it runs: a line on standard error for each change of state.

    2026-11-21T15:00:00.123Z INFO  storage is back  away_seconds=31.2 waiting_bytes=1234
    {"time":"2026-11-21T15:00:00.123Z","level":"info","logger":"rayotel.ingest.committer",
     "message":"storage is back","away_seconds":31.2,"waiting_bytes":1234}

A message is a constant; what differs from one line to the next stands in fields. No field holds a
secret. What happens with every request is counted by `telemetry` and written nowhere.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, TypeAlias

Field: TypeAlias = str | int | float | bool | None

REPEAT_SECONDS = 60.0
MAX_KINDS_REMEMBERED = 1000
_OWN = "rayotel"
_BARE = re.compile(r'[^\s"=\\]+')
# other libraries' details could show headers that carry credentials
_OTHERS_LEVEL = logging.WARNING
_SHORT = {"WARNING": "WARN", "CRITICAL": "ERROR"}

logger = logging.getLogger(__name__)


def set_up(level: str, format_: str, stream: IO[str] | None = None) -> None:
    """Write all messages from now on, those of libraries and of uncaught errors included.

    `level` and `format_` are values of the settings log_level and log_format.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    own_level = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(_OTHERS_LEVEL, own_level))
    logging.getLogger(_OWN).setLevel(own_level)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def log_event(
    to: logging.Logger,
    level: int,
    message: str,
    /,
    *,
    error: BaseException | None = None,
    **fields: Field,
) -> None:
    """Report a change of state. `error`: with its traceback, for a defect. A field of None is left
    out."""
    given = {name: value for name, value in fields.items() if value is not None}
    to.log(level, message, exc_info=error, extra={"fields": given})


class Failing:
    """Since when something fails, so that its first failure and its recovery are one line each."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._kind: object = None

    def begin(self, kind: object = None) -> bool:
        """After a failure: whether it is news, the first one or the first of another kind."""
        is_news = self._since is None or kind != self._kind
        self._kind = kind
        if self._since is None:
            self._since = time.monotonic()
        return is_news

    def end(self) -> float | None:
        """After a success: for how many seconds it had failed; None where it had not."""
        if self._since is None:
            return None
        seconds = round(time.monotonic() - self._since, 1)
        self._since = None
        return seconds


class Once:
    """What was told already. Beyond a bound all of it is forgotten, and may be told again."""

    def __init__(self) -> None:
        self._told: set[object] = set()

    def is_news(self, what: object) -> bool:
        """Whether this is asked for the first time."""
        if what in self._told:
            return False
        if len(self._told) >= MAX_KINDS_REMEMBERED:
            self._told.clear()
        self._told.add(what)
        return True


class TextFormatter(logging.Formatter):
    """Time, level, message and fields for people; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message and the fields hold."""
        level = _SHORT.get(record.levelname, record.levelname)
        fields = " ".join(f"{name}={_text(value)}" for name, value in _fields(record).items())
        line = f"{_moment(record)} {level:<5} {_printable(record.getMessage())}"
        line += f"  {fields}" if fields else ""
        trace = _traceback(record)
        return f"{line}\n{trace}" if trace else line


class JsonFormatter(logging.Formatter):
    """One object a line. `exception` holds a traceback; no field takes the place of a fixed key."""

    def format(self, record: logging.LogRecord) -> str:
        """Valid JSON in ASCII, whatever the message and the fields hold."""
        fixed: dict[str, Field] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in _fields(record).items()
        }
        if trace := _traceback(record):
            fixed["exception"] = trace
        return json.dumps({**fixed, **fields, **fixed}, separators=(",", ":"), default=str)


class RepeatFilter(logging.Filter):
    """Lets a defect, and what another library has to say, pass once a minute by its place.

    A request could cause either, and so could the next. The field `repeated` counts those left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is written."""
        is_own = record.name.split(".")[0] == _OWN
        if is_own and not record.exc_info:
            return True
        kind = (record.name, record.msg, *_place(record))
        now = time.monotonic()
        before, left_out = self._passed.get(kind, (-math.inf, 0))
        if now - before < REPEAT_SECONDS:
            self._passed[kind] = (before, left_out + 1)
            return False
        if len(self._passed) >= MAX_KINDS_REMEMBERED:
            self._passed.clear()
        self._passed[kind] = (now, 0)
        if left_out:
            record.fields = {**_fields(record), "repeated": left_out}
        return True


def _place(record: logging.LogRecord) -> tuple[object, ...]:
    """Where an error was raised, and its class."""
    if not record.exc_info or record.exc_info[1] is None:
        return ()
    error = record.exc_info[1]
    frames = traceback.extract_tb(error.__traceback__)
    last = (frames[-1].filename, frames[-1].lineno) if frames else ()
    return (type(error).__name__, *last)


def _fields(record: logging.LogRecord) -> dict[str, Field]:
    fields: dict[str, Field] = getattr(record, "fields", {})
    return fields


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _text(value: Field) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    text = str(value)
    if _BARE.fullmatch(text) and text.isprintable():
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _printable(text: str) -> str:
    """A text without line ends and other characters that a terminal acts on."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")


def _uncaught(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log_event(logger, logging.ERROR, "the process ends: unexpected error", error=error)


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread is not None else None
    log_event(
        logger, logging.ERROR, "a thread ends: unexpected error", error=args.exc_value, thread=name
    )
