"""The answers to requests that are stored: OTLP's responses, in the request's format."""

from __future__ import annotations

import json
from collections.abc import Mapping

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from rayotel.http.exchange import Answer
from rayotel.lake.signal import Signal
from rayotel.model import JSON, PROTOBUF

# responses without anything to say, and what is no OTLP
_EMPTY = {PROTOBUF: Answer(200, PROTOBUF), JSON: Answer(200, JSON, b"{}")}


def accepted(signal: Signal, content_type: str, rejected: Mapping[str, int]) -> Answer:
    """200 with what was rejected and why. `content_type`: PROTOBUF or JSON."""
    if not rejected:
        return _EMPTY[content_type]
    count = sum(rejected.values())
    words = "; ".join(f"{n} rejected: {reason}" for reason, n in sorted(rejected.items()))
    if content_type == JSON:
        name = _camel(signal.rejected_field)
        success = {name: str(count), "errorMessage": words}
        return Answer(200, JSON, json.dumps({"partialSuccess": success}).encode())
    # the responses of all signals have the same fields under the same numbers
    message = ExportMetricsServiceResponse()
    message.partial_success.rejected_data_points = count
    message.partial_success.error_message = words
    return Answer(200, PROTOBUF, message.SerializeToString())


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
