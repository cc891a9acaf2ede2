"""Settings: what they mean, where they come from, and that they fit one another.

Precedence, highest first: command-line flags, `RAYOTEL_<NAME>` environment variables,
`rayotel.toml` (in the working directory, or where `RAYOTEL_CONFIG` points), defaults. This is the
only module that reads the environment. Credentials for S3 come the usual AWS way and are read by
boto3.

Values never appear in an error: one of them may be a password put in the wrong place.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rayotel.errors import UsageError

CONFIG_FILE = "rayotel.toml"
MIB = 1024 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")


def _setting(default: Any, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of rayotel. A name says its unit; every limit is a limit per server process."""

    data_dir: str = _setting(
        "rayotel-data", "directory of the write-ahead log and, by default, of the lake"
    )
    storage: str = _setting(
        "", "where the lake is: a directory or s3://bucket/prefix; default: 'lake' in data_dir"
    )
    s3_endpoint: str = _setting(
        "", "URL of an S3-compatible server; default: AWS (credentials: AWS_* variables)"
    )
    s3_region: str = _setting(
        "", "region of the bucket; default: AWS_REGION, the AWS profile's, or us-east-1"
    )
    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8000, "port to listen on")
    username: str = _setting("", "user of HTTP Basic authentication; needs password")
    password: str = _setting("", "password of HTTP Basic authentication; needs username")
    events_token: str = _setting(
        "", "secret last segment of /v1/events/<token>, for Ray, which cannot send credentials"
    )
    insecure: bool = _setting(False, "allow listening beyond loopback without credentials")
    commit_interval_seconds: float = _setting(
        5.0, "how long acknowledged points wait in the log before they become Parquet"
    )
    shutdown_timeout_seconds: float = _setting(
        60.0, "how long a stopping server tries to commit what the log holds"
    )
    max_compressed_body_bytes: int = _setting(16 * MIB, "largest request body as sent (413)")
    max_inflated_body_bytes: int = _setting(32 * MIB, "largest request body decompressed (413)")
    max_connections: int = _setting(4096, "open connections (503 beyond)")
    max_requests_in_flight: int = _setting(256, "requests worked on at once (503 beyond)")
    max_bytes_in_flight: int = _setting(
        256 * MIB, "bytes of bodies, as sent and decompressed, held at once (503 beyond)"
    )
    body_timeout_seconds: float = _setting(30.0, "longest wait for a whole request body (503)")
    wal_segment_bytes: int = _setting(16 * MIB, "size at which a log segment is closed")
    wal_limit_bytes: int = _setting(
        8192 * MIB, "largest write-ahead log while storage is away (503 beyond)"
    )
    dedupe_window_seconds: int = _setting(
        3600, "how long a request sent again is recognised and stored once"
    )
    max_requests_remembered: int = _setting(
        400_000, "requests recognised when sent again, about 120 bytes each; older are forgotten"
    )
    max_events_remembered: int = _setting(
        200_000, "Ray's events stored once when sent again, about 150 bytes each; older: by merging"
    )
    max_waiting_columns_bytes: int = _setting(
        128 * MIB, "decoded points kept in memory until the next commit; the rest is decoded again"
    )
    max_series_cached_bytes: int = _setting(
        256 * MIB, "memory of series and of what senders repeat, about a kilobyte a series"
    )
    max_label_columns: int = _setting(512, "label columns of a stream; the rest becomes JSON")
    drop_metrics: str = _setting(
        "", "metrics not stored, by patterns of their names: 'ray_grpc_* *_created'"
    )
    drop_labels: str = _setting(
        "", "labels not stored, of all metrics or of some: 'otel_scope_* ray_component_*:pid'"
    )
    retention: str = _setting(
        "", "how long streams are kept, by age and size: 30d, 500GB or '90d 1TB'; default: for ever"
    )
    retention_by_stream: str = _setting(
        "", "the same for single streams: 'raylogs: 7d; raytraces: 3d 50GB'"
    )
    compaction_interval_seconds: float = _setting(
        300.0, "how often a server looks for hours to merge"
    )
    compaction_after_seconds: float = _setting(
        900.0, "how long an hour must be over before its parts are merged"
    )
    compaction_grace_seconds: float = _setting(
        900.0, "how long merged parts stay for questions that began before"
    )
    metrics_stream: str = _setting(
        "raymetrics", "stream of metrics that the ray_* views and shipped questions read"
    )
    events_stream: str = _setting(
        "rayevents", "stream of Ray's events that the ray_* views and shipped questions read"
    )
    query_memory_bytes: int = _setting(4096 * MIB, "memory of one SQL query")
    query_threads: int = _setting(0, "threads of one SQL query; 0: one per core")
    query_timeout_seconds: float = _setting(300.0, "longest run of one SQL query")
    cache_dir: str = _setting(
        "", "what commands that read keep of lakes, safe to delete; default: ~/.cache/rayotel"
    )
    cache_bytes: int = _setting(
        2048 * MIB, "most bytes of a bucket's parts kept there; 0: nothing is kept"
    )

    def __post_init__(self) -> None:
        self._check_numbers()
        if bool(self.username) != bool(self.password):
            raise UsageError(
                "settings 'username' and 'password' must be set together",
                hint="set both RAYOTEL_USERNAME and RAYOTEL_PASSWORD, or neither",
            )
        if self.events_token and _TOKEN.fullmatch(self.events_token) is None:
            raise UsageError(
                "setting 'events_token' is not 16 to 200 letters, digits, '_' and '-'",
                hint="for example the output of: openssl rand -hex 24",
            )
        if ":" in self.username:
            raise UsageError("setting 'username' has a colon, which HTTP Basic forbids")

    def _check_numbers(self) -> None:
        may_be_zero = {"port", "query_threads", "cache_bytes"}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                low = 0 if item.name in may_be_zero else 1e-3
                if not low <= value < 2**53:
                    raise UsageError(f"setting '{item.name}' is out of range")
        for smaller, larger in (
            ("max_compressed_body_bytes", "max_inflated_body_bytes"),
            ("max_compressed_body_bytes", "wal_limit_bytes"),
            ("wal_segment_bytes", "wal_limit_bytes"),
            ("max_inflated_body_bytes", "max_bytes_in_flight"),
        ):
            if getattr(self, smaller) > getattr(self, larger):
                raise UsageError(f"setting '{smaller}' must not be larger than '{larger}'")
        if self.max_bytes_in_flight < self.max_compressed_body_bytes + self.max_inflated_body_bytes:
            raise UsageError(
                "setting 'max_bytes_in_flight' cannot hold one largest body, sent and decompressed"
            )
        if self.query_timeout_seconds > self.compaction_grace_seconds:
            raise UsageError(
                "setting 'query_timeout_seconds' must not be larger than"
                " 'compaction_grace_seconds': a question would lose its parts while it runs"
            )
        if self.port > 65535:
            raise UsageError("setting 'port' is out of range")

    @property
    def storage_url(self) -> str:
        """Where the lake is: the setting, or the directory `lake` in `data_dir`."""
        return self.storage or str(Path(self.data_dir) / "lake")

    @property
    def cache_directory(self) -> Path:
        """Where readers keep what they read: the setting, or the user's directory of caches."""
        if self.cache_dir:
            return Path(self.cache_dir)
        base = os.environ.get("XDG_CACHE_HOME", "")
        return Path(base) / "rayotel" if base else Path("~/.cache/rayotel").expanduser()

    @property
    def has_credentials(self) -> bool:
        """Whether requests must carry a user and a password."""
        return bool(self.username)


def descriptions() -> list[tuple[str, str, str]]:
    """(name, default as text, description) of every setting, for help and documents."""
    return [(f.name, _shown(f.default), f.metadata["description"]) for f in fields(Settings)]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else "none"


def load(flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from flags (those that are not None), the environment and `rayotel.toml`."""
    given: dict[str, Any] = {**_from_file(), **_from_environment()}
    given.update({k: v for k, v in (flags or {}).items() if v is not None})
    return Settings(**{name: _converted(name, value) for name, value in given.items()})


# patterns with blanks between them, or, in the file, a list
_LISTS = frozenset({"drop_metrics", "drop_labels"})
_TYPES: dict[str, type[object]] = {f.name: type(f.default) for f in fields(Settings)}


def _from_environment() -> dict[str, Any]:
    found = {name: os.environ.get(f"RAYOTEL_{name.upper()}") for name in _TYPES}
    found["s3_region"] = found["s3_region"] or os.environ.get("AWS_REGION")
    # an empty variable means "not set": compose files pass on what the user left out that way
    return {name: value for name, value in found.items() if value}


def _from_file() -> dict[str, Any]:
    named = os.environ.get("RAYOTEL_CONFIG")
    path = Path(named or CONFIG_FILE)
    if not named and not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is not TOML: {error}") from None
    unknown = sorted(set(content) - set(_TYPES))
    if unknown:
        raise UsageError(
            f"'{path}' has no setting '{unknown[0]}'", hint="see 'rayotel serve --help' for all"
        )
    return content


def _converted(name: str, value: Any) -> Any:
    wanted = _TYPES[name]
    if name in _LISTS and isinstance(value, list):
        if not all(isinstance(one, str) and one.strip() for one in value):
            raise UsageError(f"setting '{name}' is a list with something else than patterns in it")
        value = " ".join(value)
    try:
        if wanted is bool and isinstance(value, str):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                value.strip().lower()
            ]
        if wanted in (int, float) and isinstance(value, bool):
            raise ValueError
        if (wanted is str and not isinstance(value, str)) or (
            wanted is int and isinstance(value, float)
        ):
            raise ValueError
        if wanted is bool and not isinstance(value, bool):
            raise ValueError
        return _PARSE[wanted](value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise UsageError(f"setting '{name}' is not a valid {_TYPE_WORDS[wanted]}") from None


_PARSE: dict[type[object], Callable[[Any], object]] = {int: int, float: float, bool: bool, str: str}
_TYPE_WORDS: dict[type[object], str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
}
