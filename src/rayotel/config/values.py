"""From the text of a setting to its value. Each function takes the setting's name, for the error.

A text never appears in an error: it may be a password put in the wrong place.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from rayotel.errors import UsageError
from rayotel.model import Drop, Policy, is_stream_name

MAX_PATTERNS = 100  # of each setting: each is a label value of the server's own metrics
MAX_PATTERN_CHARACTERS = 200
# without these no question can tell clusters and nodes apart
SOURCE_LABELS = ("instance", "cluster_id", "SessionName")
_SEPARATORS = re.compile(r"[\s,]+")
_TERM = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,9})?)(?P<unit>d|MB|GB|TB)")
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_S3_URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9._-]{1,255})(?P<prefix>(?:/[^?#]*)?)")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")


def path(_: str, text: str) -> Path:
    """A path; `~` is the home directory."""
    return Path(text).expanduser() if text.startswith("~") else Path(text)


def file(_: str, text: str) -> Path | None:
    """A path; empty for none."""
    return path("", text) if text else None


def choice(*words: str) -> Callable[[str, str], str]:
    """One of some words, in any case."""

    def parse(setting: str, text: str) -> str:
        if text.strip().lower() not in words:
            raise UsageError(f"setting '{setting}' is not one of: {', '.join(words)}")
        return text.strip().lower()

    return parse


# -- the lake --------------------------------------------------------------------------------------


class S3Location(NamedTuple):
    """A bucket, and the prefix of all keys in it, without slashes at its ends."""

    bucket: str
    prefix: str


def s3_location(setting: str, text: str) -> S3Location | None:
    """What `s3://bucket/prefix` names; None for the path of a directory."""
    if "://" not in text:
        return None
    match = _S3_URL.fullmatch(text)
    if match is None:
        raise UsageError(
            f"setting '{setting}' is neither a directory nor s3://bucket/prefix",
            hint="for example: --storage s3://my-bucket/rayotel",
        )
    return S3Location(match["bucket"], match["prefix"].strip("/"))


def storage(setting: str, text: str) -> str:
    """The path of a directory, or `s3://bucket/prefix`."""
    s3_location(setting, text)
    return text


def endpoint(setting: str, text: str) -> str:
    """The URL of a server, without credentials; empty for AWS itself."""
    if "@" in text:
        raise UsageError(
            f"setting '{setting}' holds credentials",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
        )
    if text and not is_http_url(text):
        raise UsageError(
            f"setting '{setting}' is not a URL", hint="for example: http://127.0.0.1:9000"
        )
    return text


def is_http_url(text: str) -> bool:
    """Whether a text is the address of a server, and perhaps of a path on it."""
    try:
        parts = urlsplit(text)
        has_address = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    is_whole = not parts.query and not parts.fragment and " " not in text
    return parts.scheme in ("http", "https") and has_address and is_whole


def region(setting: str, text: str) -> str:
    """The name of a region; empty for the one that AWS' own settings name."""
    if text and _REGION.fullmatch(text) is None:
        raise UsageError(f"setting '{setting}' is not a region", hint="for example: us-east-1")
    return text


# -- who may write and who may read ----------------------------------------------------------------


def username(setting: str, text: str) -> str:
    """A user of HTTP Basic authentication."""
    if ":" in text:
        raise UsageError(f"setting '{setting}' has a colon, which HTTP Basic forbids")
    return text


def token(setting: str, text: str) -> str:
    """A secret segment of a path; empty for none."""
    if text and _TOKEN.fullmatch(text) is None:
        raise UsageError(
            f"setting '{setting}' is not 16 to 200 letters, digits, '_' and '-'",
            hint="for example the output of: openssl rand -hex 24",
        )
    return text


# -- streams and what they hold --------------------------------------------------------------------


def stream(setting: str, text: str) -> str:
    """The name of a stream."""
    if not is_stream_name(text):
        raise UsageError(
            f"setting '{setting}' is not a stream name",
            hint="use 1 to 100 letters, digits, '_' and '-'",
        )
    return text


def metric_patterns(setting: str, text: str) -> tuple[str, ...]:
    """Patterns of metrics to drop."""
    patterns = _patterns(setting, text)
    for number, pattern in enumerate(patterns, 1):
        if not pattern.strip("*"):
            raise UsageError(
                f"setting '{setting}': pattern {number} matches every metric",
                hint="name the families to drop, or stop sending",
            )
    return patterns


def label_patterns(setting: str, text: str) -> tuple[str, ...]:
    """Patterns of labels to drop, of all metrics or of some."""
    patterns = _patterns(setting, text)
    for number, pattern in enumerate(patterns, 1):
        metrics, labels = Drop(setting, pattern).metrics_and_labels
        if not metrics or not labels:
            raise UsageError(
                f"setting '{setting}': pattern {number} is empty before or after its colon",
                hint="write LABELS or METRICS:LABELS, for example ray_component_*:pid",
            )
        for label in SOURCE_LABELS:
            if fnmatch.fnmatchcase(label, labels):
                raise UsageError(
                    f"setting '{setting}': pattern {number} matches '{label}',"
                    " which says where points come from",
                    hint=f"{', '.join(SOURCE_LABELS)} are always kept: write a narrower pattern",
                )
    return patterns


def _patterns(setting: str, text: str) -> tuple[str, ...]:
    patterns = tuple(filter(None, _SEPARATORS.split(text)))
    if len(patterns) > MAX_PATTERNS:
        raise UsageError(f"setting '{setting}' has more than {MAX_PATTERNS} patterns")
    for number, pattern in enumerate(patterns, 1):
        if len(pattern) > MAX_PATTERN_CHARACTERS:
            raise UsageError(
                f"setting '{setting}': pattern {number} has more than"
                f" {MAX_PATTERN_CHARACTERS} characters"
            )
    return patterns


# -- how long it is kept ---------------------------------------------------------------------------


def policy(setting: str, text: str) -> Policy:
    """`30d`, `500GB`, or both: what either of them lets go, goes. Empty: everything is kept.

    Days are of 24 hours; sizes are of the parts on storage, in powers of 1000.
    """
    limits: dict[str, float] = {}
    for term in text.split():
        match = _TERM.fullmatch(term)
        kind = "days" if term.endswith("d") else "bytes"
        if match is None or float(match["number"]) <= 0 or kind in limits:
            raise UsageError(
                f"setting '{setting}' is not an age, a size or both",
                hint="write for example 30d, 500GB or '90d 1TB'",
            )
        limits[kind] = float(match["number"]) * _BYTES.get(match["unit"], 1)
    size = limits.get("bytes")
    return Policy(limits.get("days"), None if size is None else int(size))


def policies(setting: str, text: str) -> Mapping[str, Policy]:
    """The policies of single streams: `raylogs: 7d; raytraces: 3d 50GB`."""
    by_stream: dict[str, Policy] = {}
    for number, entry in enumerate(filter(None, map(str.strip, text.split(";"))), 1):
        name, colon, words = entry.partition(":")
        if not colon or not is_stream_name(name.strip()) or name.strip() in by_stream:
            raise UsageError(
                f"setting '{setting}': entry {number} is not STREAM: POLICY of another stream",
                hint="write for example 'raylogs: 7d; raytraces: 3d 50GB'",
            )
        by_stream[name.strip()] = policy(setting, words)
    return by_stream
