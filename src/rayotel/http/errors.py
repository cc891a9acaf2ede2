"""An error as an HTTP answer: a status, and a google.rpc.Status in the request's own format."""

from __future__ import annotations

from google.protobuf import json_format
from google.rpc.status_pb2 import Status

from rayotel.errors import RequestRefused, TryLater
from rayotel.http.exchange import Answer
from rayotel.model import JSON, PROTOBUF

# google.rpc.Code by HTTP status
_CODES = {400: 3, 401: 16, 404: 5, 405: 12, 408: 4, 413: 8, 415: 3, 503: 14}
_UNKNOWN_CODE = 2


def refusal(error: RequestRefused, content_type: str) -> Answer:
    """The answer to a request that is refused; in JSON unless the request was protobuf."""
    text = error.message if error.hint is None else f"{error.message} (hint: {error.hint})"
    message = Status(code=_CODES.get(error.http_status, _UNKNOWN_CODE), message=text)
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, TryLater):
        headers.append((b"retry-after", b"%d" % error.retry_after_seconds))
    if error.http_status == 401:
        headers.append((b"www-authenticate", b'Basic realm="rayotel"'))
    if error.allowed_methods:
        headers.append((b"allow", ", ".join(error.allowed_methods).encode("ascii")))
    if content_type == PROTOBUF:
        return Answer(error.http_status, PROTOBUF, message.SerializeToString(), tuple(headers))
    body = json_format.MessageToJson(message, indent=None).encode()
    return Answer(error.http_status, JSON, body, tuple(headers))
