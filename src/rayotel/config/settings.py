"""All settings, in sections, as values that have been checked, and that they fit one another.

A setting is written as a text, a number, or true or false; `values` says what each text means. The
sections are for people: a name stands alone in `rayotel.toml` and in the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from rayotel.config import memory, values
from rayotel.errors import UsageError
from rayotel.model import DEFAULT_EVENTS_STREAM, DEFAULT_METRICS_STREAM, Policies, Policy

MIB = 1024 * 1024
Parse = Callable[[str, str], Any]


def _section(title: str) -> Callable[..., Any]:
    """What makes the settings of a section."""

    # what it gives is a dataclass field, which RUF009 cannot see
    def setting(default: Any, description: str, parse: Parse | None = None) -> Any:
        """`parse`: from its name and its text to its value, where that is no plain value."""
        value = default if parse is None else parse("", default)
        about = {
            "section": title, "default": default, "description": description, "parse": parse,
        }  # fmt: skip
        return field(default_factory=lambda: value, metadata=about)

    return setting


_storage = _section("Storage")
_listening = _section("Listening")
_receiving = _section("Receiving")
_wal = _section("WAL")
_stored = _section("What is stored")
_upkeep = _section("Upkeep")
_questions = _section("Questions")
_cache = _section("Cache")
_logging = _section("Logging")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of rayotel. A name says its unit; every limit is a limit per server process."""

    data_dir: Path = _storage(  # noqa: RUF009
        "rayotel-data", "directory of the WAL and, by default, of the lake", values.path
    )
    storage: str = _storage(
        "",
        "where the lake is: a directory or s3://bucket/prefix; default: 'lake' in data_dir",
        values.storage,
    )
    s3_endpoint: str = _storage(
        "",
        "URL of an S3-compatible server; default: AWS (credentials: AWS_* variables)",
        values.endpoint,
    )
    s3_region: str = _storage(
        "",
        "region of the bucket; default: AWS_REGION, the AWS profile's, or us-east-1",
        values.region,
    )

    host: str = _listening("127.0.0.1", "address to listen on")
    port: int = _listening(8000, "port to listen on")
    username: str = _listening(
        "", "user of HTTP Basic authentication; needs password", values.username
    )
    password: str = _listening("", "password of HTTP Basic authentication; needs username")
    events_token: str = _listening(
        "",
        "secret last segment of /v1/events/<token>, for Ray, which cannot send credentials",
        values.token,
    )
    tls_certificate: Path | None = _listening(  # noqa: RUF009
        "",
        "file of the server's certificate and its issuers', in PEM: serves HTTPS; needs tls_key",
        values.file,
    )
    tls_key: Path | None = _listening(  # noqa: RUF009
        "", "file of the certificate's key, in PEM, not encrypted", values.file
    )
    insecure: bool = _listening(False, "allow listening beyond loopback without credentials")

    memory_bytes: int = _receiving(
        memory.DEFAULT_BYTES,
        "memory of a server's process; defaults of other bounds follow it, and all must fit",
    )
    max_compressed_body_bytes: int = _receiving(16 * MIB, "largest request body as sent (413)")
    max_inflated_body_bytes: int = _receiving(16 * MIB, "largest request body decompressed (413)")
    body_timeout_seconds: float = _receiving(30.0, "longest wait for a whole request body (503)")
    head_timeout_seconds: float = _receiving(
        10.0, "longest wait for the head of a request, or for a TLS handshake; then it is closed"
    )
    idle_timeout_seconds: float = _receiving(
        75.0, "longest time between two requests of a connection; then it is closed"
    )
    max_connections: int = _receiving(
        4096, "open connections; for more, those that matter least are closed"
    )
    max_strangers_per_address: int = _receiving(
        0,
        "connections of one address that have sent no request yet; 0: as many as there may be",
    )
    max_requests_in_flight: int = _receiving(
        256, "requests worked on at once, once their body is there (503 beyond)"
    )
    max_bytes_in_flight: int = _receiving(
        32 * MIB, "bytes of bodies, as sent and decompressed, held at once (503 beyond)"
    )
    max_streams: int = _receiving(
        10_000,
        "streams that a server remembers; those that got nothing for an hour are forgotten (503"
        " beyond)",
    )
    max_series_cached_bytes: int = _receiving(
        48 * MIB, "memory for series that are known, about a kilobyte a series"
    )

    commit_interval_seconds: float = _wal(
        5.0, "how long acknowledged points wait in the WAL before they become Parquet"
    )
    late_hours_wait_seconds: float = _wal(
        300.0,
        "how long points of hours that are long over wait for others, so that a backfill makes few"
        " parts; 0: not at all",
    )
    shutdown_timeout_seconds: float = _wal(
        60.0, "how long a stopping server tries to commit what waits in the WAL"
    )
    wal_segment_bytes: int = _wal(16 * MIB, "size at which a segment of the WAL is closed")
    wal_limit_bytes: int = _wal(
        8192 * MIB, "largest size of the WAL while storage is away (503 beyond)"
    )
    max_waiting_columns_bytes: int = _wal(
        24 * MIB,
        "memory for decoded points that wait for the next commit; points beyond it are decoded"
        " again",
    )
    dedupe_window_seconds: int = _wal(
        3600, "how long a request that is sent again is recognised and stored once"
    )
    max_requests_remembered: int = _wal(
        200_000, "requests recognised when sent again, about 120 bytes each; the oldest go first"
    )
    max_events_remembered: int = _wal(
        100_000,
        "events of Ray recognised when sent again, about 150 bytes each; merging removes later"
        " repeats",
    )

    drop_metrics: tuple[str, ...] = _stored(
        "",
        "metrics not stored, by patterns of their names: 'ray_grpc_* *_created'",
        values.metric_patterns,
    )
    drop_labels: tuple[str, ...] = _stored(
        "",
        "labels not stored, of all metrics or of some: 'otel_scope_* ray_component_*:pid'",
        values.label_patterns,
    )
    max_label_columns: int = _stored(
        512,
        "label columns of a part beside Ray's own and those of headers; further labels become JSON",
    )

    retention: Policy = _upkeep(  # noqa: RUF009
        "",
        "how long streams are kept, by age and size: 30d, 500GB or '90d 1TB'; default: for ever",
        values.policy,
    )
    retention_by_stream: Mapping[str, Policy] = _upkeep(
        "", "the same for single streams: 'raylogs: 7d; raytraces: 3d 50GB'", values.policies
    )
    compaction_interval_seconds: float = _upkeep(
        300.0, "how often a server looks for hours to merge"
    )
    compaction_after_seconds: float = _upkeep(
        900.0, "how long an hour must be over before its parts are merged"
    )
    compaction_grace_seconds: float = _upkeep(
        900.0, "how long merged parts stay for questions that began before"
    )

    metrics_stream: str = _questions(
        DEFAULT_METRICS_STREAM,
        "stream of metrics without X-P-Stream; questions and ray_* views find it as raymetrics",
        values.stream,
    )
    events_stream: str = _questions(
        DEFAULT_EVENTS_STREAM,
        "stream of Ray's events without a name; questions and ray_* views find it as rayevents",
        values.stream,
    )
    query_memory_bytes: int = _questions(4096 * MIB, "memory of one SQL query")
    query_threads: int = _questions(0, "threads of one SQL query; 0: one per core")
    query_timeout_seconds: float = _questions(300.0, "longest run of one SQL query")

    cache_dir: Path = _cache(  # noqa: RUF009
        "~/.cache/rayotel",
        "directory of what commands keep of the lakes they read; it may be deleted",
        values.path,
    )
    cache_bytes: int = _cache(
        2048 * MIB, "most bytes of a bucket's parts kept in cache_dir; 0: none"
    )

    log_level: str = _logging(
        "info",
        "least level of the messages that a server writes to standard error: debug, info,"
        " warning or error",
        values.choice("debug", "info", "warning", "error"),
    )
    log_format: str = _logging(
        "text",
        "form of these messages: text, or json with one object a line",
        values.choice("text", "json"),
    )

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_limits()
        if bool(self.username) != bool(self.password):
            raise UsageError(
                "settings 'username' and 'password' must be set together",
                hint="set both RAYOTEL_USERNAME and RAYOTEL_PASSWORD, or neither",
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UsageError(
                "settings 'tls_certificate' and 'tls_key' must be set together",
                hint="set both RAYOTEL_TLS_CERTIFICATE and RAYOTEL_TLS_KEY, or neither",
            )
        if self.metrics_stream == self.events_stream:
            raise UsageError("settings 'metrics_stream' and 'events_stream' are the same stream")

    def _check_numbers(self) -> None:
        may_be_zero = {
            "port", "query_threads", "cache_bytes", "late_hours_wait_seconds",
            "max_strangers_per_address",
        }  # fmt: skip
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                low = 0 if item.name in may_be_zero else 1e-3
                if not low <= value < 2**53:
                    raise UsageError(f"setting '{item.name}' is out of range")
        if self.port > 65535:
            raise UsageError("setting 'port' is out of range")

    def _check_limits(self) -> None:
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
        bounds = {item.name: getattr(self, item.name) for item in fields(self)}
        needed = memory.needed_bytes(bounds)
        if needed > self.memory_bytes:
            raise UsageError(
                f"the settings allow a server to take {needed} bytes of memory, and 'memory_bytes'"
                f" is {self.memory_bytes}",
                hint="raise RAYOTEL_MEMORY_BYTES, or lower max_series_cached_bytes,"
                " max_inflated_body_bytes or max_bytes_in_flight",
            )
        if self.query_timeout_seconds > self.compaction_grace_seconds:
            raise UsageError(
                "setting 'query_timeout_seconds' must not be larger than"
                " 'compaction_grace_seconds': a question would lose its parts while it runs"
            )

    @property
    def storage_url(self) -> str:
        """Where the lake is: the setting, or the directory `lake` in `data_dir`."""
        return self.storage or str(self.data_dir / "lake")

    @property
    def policies(self) -> Policies:
        """How long each stream is kept."""
        return Policies(self.retention, self.retention_by_stream)

    @property
    def has_credentials(self) -> bool:
        """Whether requests must carry a user and a password."""
        return bool(self.username)


class Description(NamedTuple):
    """A setting, for help and documents. `default` is a text."""

    name: str
    default: str
    description: str
    section: str


def descriptions() -> list[Description]:
    """Every setting; those of a section stand together."""
    return [
        Description(
            item.name,
            _shown(item.metadata["default"]),
            item.metadata["description"],
            item.metadata["section"],
        )
        for item in fields(Settings)
    ]


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) if default != "" else "none"
