"""What the receiver answers: OTLP responses and google.rpc.Status, in the request's own format."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Response
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)

from rayotel.errors import RequestRefused, TryLater
from rayotel.ingest.decode.decoder import JSON, PROTOBUF

# google.rpc.Code by HTTP status
_CODES = {400: 3, 401: 16, 404: 5, 405: 12, 408: 4, 413: 8, 415: 3, 503: 14}
_UNKNOWN_CODE = 2


def accepted(content_type: str, rejected: Mapping[str, int]) -> Response:
    """200 with what was rejected and why."""
    message = ExportMetricsServiceResponse()
    if rejected:
        message.partial_success.rejected_data_points = sum(rejected.values())
        message.partial_success.error_message = "; ".join(
            f"{count} rejected: {reason}" for reason, count in sorted(rejected.items())
        )
    return _response(200, message, content_type, {})


def refused(content_type: str, error: RequestRefused) -> Response:
    """The error's status with a google.rpc.Status."""
    text = error.message if error.hint is None else f"{error.message} (hint: {error.hint})"
    message = Status(code=_CODES.get(error.http_status, _UNKNOWN_CODE), message=text)
    headers = {}
    if isinstance(error, TryLater):
        headers["Retry-After"] = str(error.retry_after_seconds)
    return _response(error.http_status, message, content_type, headers)


def _response(
    status: int, message: Message, content_type: str, headers: dict[str, str]
) -> Response:
    if content_type == PROTOBUF:
        return Response(message.SerializeToString(), status, headers, PROTOBUF)
    text = json_format.MessageToJson(message, indent=None)
    return Response(text.encode(), status, headers, JSON)
