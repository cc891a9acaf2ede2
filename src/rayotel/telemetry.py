"""rayotel's own metrics, in Prometheus' text format. One registry per server, none at import."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rayotel import __version__
from rayotel.lake.signal import SIGNALS
from rayotel.model import Batch, Drop

CONTENT_TYPE = CONTENT_TYPE_LATEST
# a label value per stream, and senders choose the names of streams
MAX_STREAM_LABELS = 1000
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Telemetry:
    """Counters and gauges of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._streams: set[str] = set()
        self.requests = Counter(
            "rayotel_requests", "HTTP requests answered, by route and status.", ["path", "status"],
            registry=registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "rayotel_request_seconds", "Seconds from a request's first byte to its answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._add_connection_metrics(registry)
        self._add_signal_metrics(registry)
        self._dropped = {
            "drop_metrics": Counter(
                "rayotel_points_dropped", "Points dropped, by pattern of drop_metrics.",
                ["pattern"], registry=registry,
            ),
            "drop_labels": Counter(
                "rayotel_labels_dropped",
                "Labels dropped from accepted points, by pattern of drop_labels.",
                ["pattern"], registry=registry,
            ),
        }  # fmt: skip
        self.duplicates = Counter(
            "rayotel_requests_duplicate", "Repeated requests, acknowledged and stored once.",
            registry=registry,
        )  # fmt: skip
        self.body_bytes = Counter(
            "rayotel_body_bytes", "Bytes of request bodies, as sent.", registry=registry
        )
        self.inflated_bytes = Counter(
            "rayotel_inflated_bytes", "Bytes of request bodies, decompressed.", registry=registry
        )
        self.bytes_in_flight = Gauge(
            "rayotel_bytes_in_flight", "Bytes of bodies that current requests hold.",
            registry=registry,
        )  # fmt: skip
        self._add_storage_metrics(registry)
        about = Gauge("rayotel_info", "Version of the server.", ["version"], registry=registry)
        about.labels(__version__).set(1)

    def _add_connection_metrics(self, registry: CollectorRegistry) -> None:
        self.connections = Gauge("rayotel_connections", "Open connections.", registry=registry)
        self.connections_closed = Counter(
            "rayotel_connections_closed", "Connections that the server ended, by reason.",
            ["reason"], registry=registry,
        )  # fmt: skip
        self.malformed = Counter(
            "rayotel_requests_malformed",
            "Requests refused as no valid HTTP, their connections closed, by reason.",
            ["reason"], registry=registry,
        )  # fmt: skip

    def _add_signal_metrics(self, registry: CollectorRegistry) -> None:
        """Rows of each signal in requests; streams beyond the bound are counted together."""
        self._accepted = {
            signal.name: Counter(
                f"rayotel_{signal.rows}_accepted",
                f"{signal.rows.capitalize()} acknowledged, by stream.",
                ["stream"], registry=registry,
            )
            for signal in SIGNALS
        }  # fmt: skip
        self._rejected = {
            signal.name: Counter(
                f"rayotel_{signal.rows}_rejected",
                f"{signal.rows.capitalize()} rejected, by reason.",
                ["reason"], registry=registry,
            )
            for signal in SIGNALS
            if signal.is_otlp
        }  # fmt: skip
        self._unreadable = {
            signal.name: Counter(
                f"rayotel_{signal.rows}_unreadable",
                f"Unreadable {signal.rows}, stored as they came, by reason.",
                ["reason"], registry=registry,
            )
            for signal in SIGNALS
            if not signal.is_otlp
        }  # fmt: skip

    def _add_storage_metrics(self, registry: CollectorRegistry) -> None:
        """From the WAL to the lake."""
        self.wal_bytes = Gauge(
            "rayotel_wal_bytes", "Bytes in the WAL that are not committed yet.",
            registry=registry,
        )  # fmt: skip
        self.oldest_uncommitted = Gauge(
            "rayotel_oldest_uncommitted_timestamp_seconds",
            "Arrival time of the oldest point that is not in a part yet; 0: none.",
            registry=registry,
        )
        self.fsync_seconds = Histogram(
            "rayotel_fsync_seconds", "Seconds to append a group of requests to the WAL, synced.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.commit_seconds = Histogram(
            "rayotel_commit_seconds", "Seconds from a sealed segment to its parts on storage.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.commits = Counter(
            "rayotel_commits", "Tries to commit a segment, by outcome.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.parts_written = Counter(
            "rayotel_parts_written", "Parquet parts written.", registry=registry
        )
        self.part_bytes = Counter(
            "rayotel_part_bytes", "Bytes of Parquet parts written.", registry=registry
        )
        self.hours_compacted = Counter(
            "rayotel_hours_compacted", "Hours whose parts were merged into one.", registry=registry
        )
        self.rows_overflowed = Counter(
            "rayotel_rows_overflowed",
            "Rows stored with a label in labels_overflow because of the bound on label columns.",
            ["stream"],
            registry=registry,
        )
        self.rows_repeated = Counter(
            "rayotel_rows_repeated",
            "Duplicate points and events removed, by stage.",
            ["where"], registry=registry,
        )  # fmt: skip
        self.rows_elsewhere = Counter(
            "rayotel_rows_stored_elsewhere",
            "Rows stored in <stream>-<signal>, because the stream holds another signal.",
            ["signal"], registry=registry,
        )  # fmt: skip
        self.parts_removed = Counter(
            "rayotel_parts_removed", "Covered parts removed after the grace.",
            registry=registry,
        )  # fmt: skip
        self.parts_expired = Counter(
            "rayotel_parts_expired", "Parts removed by retention.", registry=registry
        )
        self.damaged_bytes = Counter(
            "rayotel_wal_damaged_bytes", "Unreadable bytes of the WAL, moved aside, by place.",
            ["place"], registry=registry,
        )  # fmt: skip
        self.records_set_aside = Counter(
            "rayotel_wal_records_set_aside",
            "WAL records that made a commit fail, moved aside whole.",
            registry=registry,
        )
        self.records_recovered = Counter(
            "rayotel_wal_records_recovered",
            "Records that were set aside and taken in again.",
            registry=registry,
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is its label, never a path as it came."""
        self.requests.labels(route, str(status)).inc()
        self.request_seconds.observe(seconds)

    def acknowledged(self, batch: Batch) -> None:
        """Count the rows of a request that was stored, and what it lost on the way."""
        signal, stream = batch.arrival.signal, self._label(batch.arrival.stream)
        self._accepted[signal].labels(stream).inc(batch.accepted_rows)
        for lost, reasons in (
            (self._rejected, batch.rejected),
            (self._unreadable, batch.unreadable),
        ):
            for reason, count in reasons.items():
                lost[signal].labels(reason).inc(count)
        for drop, count in batch.dropped.items():
            self.dropped(drop, count)

    def count_overflow(self, stream: str, rows: int) -> None:
        """Rows of a stream with labels beyond the bound on label columns."""
        self.rows_overflowed.labels(self._label(stream)).inc(rows)

    def _label(self, stream: str) -> str:
        if stream not in self._streams:
            if len(self._streams) >= MAX_STREAM_LABELS:
                stream = "(others)"
            self._streams.add(stream)
        return stream

    def dropped(self, drop: Drop, count: int) -> None:
        """Count what a pattern of the settings dropped: points, or labels of accepted points."""
        self._dropped[drop.setting].labels(drop.pattern).inc(count)

    def exposition(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._registry)
