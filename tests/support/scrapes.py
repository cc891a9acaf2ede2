"""Requests of metrics taken apart and changed, and lakes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from support.lakes import write


def points_of(request: ExportMetricsServiceRequest) -> Iterator[tuple[str, Any]]:
    """(metric, point) of every point."""
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = getattr(metric, metric.WhichOneof("data") or "gauge")
                yield from ((metric.name, point) for point in data.data_points)


def edited(body: bytes, *, later: int = 0, without: tuple[str, ...] = ()) -> bytes:
    """A request with its points moved in time and some labels taken away."""
    request = ExportMetricsServiceRequest.FromString(body)
    for _, point in points_of(request):
        point.time_unix_nano += later
        for number in reversed(range(len(point.attributes))):
            if point.attributes[number].key in without:
                del point.attributes[number]
    return request.SerializeToString()


def lake_of(path: Path, *parts: list[bytes]) -> Storage:
    """A lake with one part for each list of requests."""
    storage = open_storage(str(path))
    for number, bodies in enumerate(parts):
        write(storage, *bodies, first=number + 1)
    return storage
