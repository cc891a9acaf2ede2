"""Places in JSON text, found without parsing it: a parsed `{}` takes sixty times its two bytes.

What is passed over is checked for its strings and its number of brackets only. Whoever keeps a
value parses it, and a parser has the last word on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_MAX_KEY_BYTES = 100
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SPACE = re.compile(rb"[ \t\n\r]*+")
_KEY = re.compile(_STRING, re.DOTALL)
_SCALAR = re.compile(rb'[^"{}\[\],:\s]++')
_LEAVES = rb'[^"{}\[\]]++|' + _STRING


def _value(levels: int) -> bytes:
    """Anything but a bracket that opens more levels than these, or closes one too many."""
    inner = _LEAVES
    for _ in range(levels):
        inner = _LEAVES + rb"|[\[{](?:" + inner + rb")*+[\]}]"
    return inner


# a data point of OTLP has five levels: most values are passed over in one step
_CONTENT = re.compile(rb"(?:" + _value(5) + rb")*+", re.DOTALL)
_ELEMENT = re.compile(
    rb"[ \t\n\r]*+([^\"{}\[\],:\s]++|(?=[\"{\[])(?:" + _value(5) + rb"))[ \t\n\r]*+([,\]])",
    re.DOTALL,
)
_MAX_DEPTH = 1000  # no parser reads more
_OPEN = b"{["


class NotJson(ValueError):
    """The text is no JSON; its text says where."""


def after_space(text: bytes, position: int) -> int:
    """The next place that is no space."""
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def end_of(text: bytes, position: int) -> int:
    """The place after the value that begins here. Raises NotJson."""
    first = text[position : position + 1]
    if not first or first not in b'{["':
        match = _SCALAR.match(text, position)
    elif first == b'"':
        match = _KEY.match(text, position)
    else:
        return _end_of_container(text, position)
    if match is None:
        raise _error(position)
    return match.end()


def _end_of_container(text: bytes, position: int) -> int:
    depth = 0
    while True:
        bracket = text[position : position + 1]
        if not bracket or bracket not in b"{}[]":
            raise _error(position)
        depth += 1 if bracket in _OPEN else -1
        position += 1
        if not depth:
            return position
        if depth > _MAX_DEPTH:
            raise NotJson("nested too deep")
        match = _CONTENT.match(text, position)
        assert match is not None
        position = match.end()


def elements(text: bytes, position: int) -> Iterator[tuple[int, int]]:
    """The places of the values of an array that begins here. Raises NotJson."""
    if text[position : position + 1] != b"[":
        raise _error(position)
    position = after_space(text, position + 1)
    if text[position : position + 1] == b"]":
        return
    while True:
        match = _ELEMENT.match(text, position)
        if match is not None:
            yield match.span(1)
            position, mark = match.end(), match[2]
        else:
            begin = after_space(text, position)
            end = end_of(text, begin)
            yield begin, end
            position = after_space(text, end) + 1
            mark = text[position - 1 : position]
        if mark == b"]":
            return
        if mark != b",":
            raise _error(position)


def members(text: bytes, position: int, names: Mapping[bytes, str]) -> dict[str, tuple[int, int]]:
    """The places of members of an object that begins here, by what `names` calls them.

    Other members are passed over. Of several of one name the last one counts. Raises NotJson.
    """
    known: dict[str, tuple[int, int]] = {}
    if text[position : position + 1] != b"{":
        raise _error(position)
    position = after_space(text, position + 1)
    if text[position : position + 1] == b"}":
        return known
    while True:
        key = _KEY.match(text, position)
        if key is None:
            raise _error(position)
        name = names.get(key.group()) if key.end() - position <= _MAX_KEY_BYTES else None
        position = after_space(text, key.end())
        if text[position : position + 1] != b":":
            raise _error(position)
        position = after_space(text, position + 1)
        end = end_of(text, position)
        if name is not None:
            known[name] = (position, end)
        position = after_space(text, end)
        mark = text[position : position + 1]
        if mark == b"}":
            return known
        if mark != b",":
            raise _error(position)
        position = after_space(text, position + 1)


def _error(position: int) -> NotJson:
    return NotJson(f"not JSON at byte {position}")
