"""OTLP/JSON to OTLP protobuf bytes, by the rules in which OTLP differs from protobuf's own JSON.

Trace and span ids are hexadecimal instead of base64, enums are numbers, and unknown fields are
ignored. Protobuf's library does the rest by its own mapping: 64-bit integers as text or number, NaN
as text, lowerCamelCase names.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from rayotel.ingest.decode.limits.json_text import NotJson
from rayotel.ingest.decode.otlp.json_pieces import pieces_of

# a parsed value takes a hundred times its bytes, twice; so a large request is read in pieces
PIECE_BYTES = 262_144
_HEX_IDS = frozenset({"traceId", "spanId", "trace_id", "span_id"})
_BYTES = frozenset({"bytesValue", "bytes_value"})
_EXEMPLAR_LISTS = frozenset({"exemplars"})


class MalformedJson(ValueError):
    """The text is not JSON, or not JSON of the expected message."""


def metrics_request_bytes(body: bytes) -> tuple[bytes, Counter[str]]:
    """An ExportMetricsServiceRequest in JSON as protobuf bytes, and points rejected by reason.

    Raises MalformedJson.
    """
    rejected: Counter[str] = Counter()
    if len(body) <= PIECE_BYTES:
        return _converted(body), rejected
    try:
        pieces = b"".join([_converted(piece) for piece in pieces_of(body, PIECE_BYTES, rejected)])
    except NotJson as error:
        raise MalformedJson(str(error)) from None
    return pieces, rejected


def _converted(body: bytes) -> bytes:
    """A request that is small. Raises MalformedJson."""
    try:
        tree = json.loads(body)
        if not isinstance(tree, dict):
            raise MalformedJson("not a JSON object")
        mended = _mended(tree)
        message = json_format.ParseDict(
            mended, ExportMetricsServiceRequest(), ignore_unknown_fields=True
        )
        return message.SerializeToString()
    except RecursionError:
        raise MalformedJson("nested too deep") from None
    except MalformedJson:
        raise
    except json_format.ParseError as error:
        raise MalformedJson(_first_line(error)) from None
    except UnicodeDecodeError:
        raise MalformedJson("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(
            f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        # the library lets a few of its own out for input of an unexpected shape
        raise MalformedJson(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _mended(node: Any, *, in_exemplar: bool = False) -> Any:
    if isinstance(node, dict):
        return {
            _scalar(key): _base64_of_hex(key, value)
            if in_exemplar and key in _HEX_IDS
            else _checked_base64(key, value)
            if key in _BYTES
            else _mended(value, in_exemplar=key in _EXEMPLAR_LISTS)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_mended(item, in_exemplar=in_exemplar) for item in node]
    return _scalar(node)


def _scalar(value: Any) -> Any:
    """Half of a surrogate pair is legal in JSON's text and cannot be encoded: mend it."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _checked_base64(name: str, value: Any) -> Any:
    """The library passes over what is not base64; a value must not change on the way."""
    if isinstance(value, str):
        try:
            base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
        except (ValueError, binascii.Error):
            raise MalformedJson(f"'{name}' is not base64") from None
    return value


def _base64_of_hex(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise MalformedJson(f"'{name}' is not a text of hexadecimal digits")
    try:
        return base64.b64encode(bytes.fromhex(value)).decode("ascii")
    except (ValueError, binascii.Error):
        raise MalformedJson(f"'{name}' is not hexadecimal") from None
