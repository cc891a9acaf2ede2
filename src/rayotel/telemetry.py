"""rayotel's own metrics, in Prometheus' text format. One registry per server, none at import."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rayotel import __version__
from rayotel.model import Drop

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
            "rayotel_requests", "HTTP requests by path and status.", ["path", "status"],
            registry=registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "rayotel_request_seconds", "From a request's first byte to its answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.points_accepted = Counter(
            "rayotel_points_accepted", "Data points acknowledged.", ["stream"], registry=registry
        )
        self.points_rejected = Counter(
            "rayotel_points_rejected", "Data points rejected.", ["reason"], registry=registry
        )
        self.events_accepted = Counter(
            "rayotel_events_accepted", "Events acknowledged.", ["stream"], registry=registry
        )
        self.events_unreadable = Counter(
            "rayotel_events_unreadable", "Events that could not be read and are kept as they came.",
            ["reason"], registry=registry,
        )  # fmt: skip
        self._dropped = {
            "drop_metrics": Counter(
                "rayotel_points_dropped", "Data points dropped, by pattern of drop_metrics.",
                ["pattern"], registry=registry,
            ),
            "drop_labels": Counter(
                "rayotel_labels_dropped",
                "Labels dropped from accepted data points, by pattern of drop_labels.",
                ["pattern"], registry=registry,
            ),
        }  # fmt: skip
        self.duplicates = Counter(
            "rayotel_requests_duplicate", "Requests that were sent again and stored once.",
            registry=registry,
        )  # fmt: skip
        self.body_bytes = Counter(
            "rayotel_body_bytes", "Bytes of request bodies as sent.", registry=registry
        )
        self.inflated_bytes = Counter(
            "rayotel_inflated_bytes", "Bytes of request bodies decompressed.", registry=registry
        )
        self.bytes_in_flight = Gauge(
            "rayotel_bytes_in_flight", "Bytes of bodies held for requests being worked on.",
            registry=registry,
        )  # fmt: skip
        self._add_storage_metrics(registry)
        about = Gauge("rayotel_info", "Version of the server.", ["version"], registry=registry)
        about.labels(__version__).set(1)

    def _add_storage_metrics(self, registry: CollectorRegistry) -> None:
        """From the WAL to the lake."""
        self.wal_bytes = Gauge(
            "rayotel_wal_bytes", "Bytes in the WAL not committed yet.",
            registry=registry,
        )  # fmt: skip
        self.oldest_uncommitted = Gauge(
            "rayotel_oldest_uncommitted_timestamp_seconds",
            "When the oldest point that is not in a part yet arrived; 0: all are.",
            registry=registry,
        )
        self.fsync_seconds = Histogram(
            "rayotel_fsync_seconds", "Append and fdatasync of the WAL, per group of requests.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.commit_seconds = Histogram(
            "rayotel_commit_seconds", "From a sealed segment to its parts on storage.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.commits = Counter(
            "rayotel_commits", "Segments committed, and tries that failed.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.parts_written = Counter(
            "rayotel_parts_written", "Parquet parts written.", registry=registry
        )
        self.part_bytes = Counter(
            "rayotel_part_bytes", "Bytes of Parquet parts written.", registry=registry
        )
        self.hours_compacted = Counter(
            "rayotel_hours_compacted", "Hours whose parts became one.", registry=registry
        )
        self.rows_repeated = Counter(
            "rayotel_rows_repeated",
            "Points and events that said again what another had said, by what left them out.",
            ["where"], registry=registry,
        )  # fmt: skip
        self.parts_removed = Counter(
            "rayotel_parts_removed", "Parts removed after another had covered them.",
            registry=registry,
        )  # fmt: skip
        self.parts_expired = Counter(
            "rayotel_parts_expired", "Parts removed by retention.", registry=registry
        )
        self.damaged_bytes = Counter(
            "rayotel_wal_damaged_bytes", "Bytes of the WAL that were unreadable and moved aside.",
            ["place"], registry=registry,
        )  # fmt: skip
        self.undecodable_records = Counter(
            "rayotel_wal_undecodable_records", "Records that could not be decoded again.",
            registry=registry,
        )  # fmt: skip

    def accepted(self, stream: str, points: int) -> None:
        """Count acknowledged points; streams beyond the bound are counted together."""
        self.points_accepted.labels(self._label(stream)).inc(points)

    def events(self, stream: str, events: int) -> None:
        """The same for acknowledged events."""
        self.events_accepted.labels(self._label(stream)).inc(events)

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
