"""Attribute values as canonical text, so that the type of a column never depends on the sender.

A string is itself. A boolean is `true` or `false`, an integer is decimal. A double is the shortest
text that reads back as the same double (`NaN`, `Infinity`, `-Infinity`). Bytes are base64. Arrays
and maps are JSON without spaces, with members in the order sent. An attribute without a value has
no text: the label is absent.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from typing import Any

from rayotel.ingest.decode.limits.bounds import (
    DEEP_ATTRIBUTE,
    LONG_ATTRIBUTE,
    LONG_NAME,
    MANY_ATTRIBUTES,
    MAX_ATTRIBUTE_BYTES,
    MAX_ATTRIBUTES,
    MAX_NAME_BYTES,
    MAX_NESTING,
    Rejected,
)


def text_of(raw: bytes) -> str:
    """A string field; bytes that are not UTF-8 become U+FFFD."""
    return raw.decode("utf-8", "replace")


def name_of(raw: bytes) -> str:
    """A text that names something. Raises Rejected where it is too long."""
    if len(raw) > MAX_NAME_BYTES:
        raise Rejected(LONG_NAME)
    return raw.decode("utf-8", "replace")


def checked(attributes: Iterable[Any], most: int = MAX_ATTRIBUTES) -> list[Any]:
    """KeyValues. Raises Rejected where they are too many or one is too large."""
    found = list(attributes)
    if len(found) > most:
        raise Rejected(MANY_ATTRIBUTES)
    if any(attribute.ByteSize() > MAX_ATTRIBUTE_BYTES for attribute in found):
        raise Rejected(LONG_ATTRIBUTE)
    return found


def double_text(value: float) -> str:
    """Shortest text that reads back as the same double."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def attribute_text(value: Any) -> str | None:
    """Text of an AnyValue (of `messages`); None where no value is set. Raises Rejected."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return text_of(value.string_value)
    if kind is None:
        return None
    plain = _plain(value, 2)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, float):
        return double_text(plain)
    if isinstance(plain, str | int):
        return str(plain)
    return json_text(plain)


def json_text(value: Any) -> str:
    """JSON without spaces, in the order given, non-ASCII characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def attributes_json(attributes: Iterable[Any]) -> str | None:
    """A JSON object of KeyValues; None where there are none. Raises Rejected."""
    members = {
        name_of(attribute.key): _plain(attribute.value, 2) for attribute in checked(attributes)
    }
    return json_text(members) if members else None


def _plain(value: Any, depth: int) -> Any:
    """The value as JSON can hold it; `depth`: how many messages it is in, its own included."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return text_of(value.string_value)
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode("ascii")
    if kind == "double_value":
        number = value.double_value
        return number if math.isfinite(number) else double_text(number)
    if kind in ("array_value", "kvlist_value"):
        members = getattr(value, kind).values
        if depth + 2 > MAX_NESTING:
            raise Rejected(DEEP_ATTRIBUTE)
        # within a list or map; a member of a map is a message too
        if kind == "array_value":
            return [_plain(member, depth + 2) for member in members]
        return {name_of(m.key): _plain(m.value, depth + 3) for m in members}
    return None if kind is None else getattr(value, kind)
