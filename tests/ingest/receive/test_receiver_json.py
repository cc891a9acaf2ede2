"""OTLP/JSON of every shape: what is not OTLP is refused with its reason, what is odd is taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.harness import JSON, RECORDINGS, Server
from support.receiver_answers import assert_judged, few, refusal


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all; at the end it must have come to no surprise."""
    with Server(tmp_path_factory.mktemp("json") / "data") as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log()


def tree_with(point: dict[str, Any]) -> dict[str, Any]:
    """OTLP/JSON of one gauge's point."""
    gauge = {
        "name": "m",
        "gauge": {"dataPoints": [{"timeUnixNano": "1795200000000000000", **point}]},
    }
    return {"resourceMetrics": [{"scopeMetrics": [{"metrics": [gauge]}]}]}


def exemplar(**fields: Any) -> dict[str, Any]:
    """A point with one exemplar."""
    return {"asInt": 1, "exemplars": [{"asInt": 1, **fields}]}


def nested(depth: int) -> dict[str, Any]:
    """A point with an attribute of arrays within arrays."""
    value: dict[str, Any] = {"intValue": 1}
    for _ in range(depth):
        value = {"arrayValue": {"values": [value]}}
    return {"asInt": 1, "attributes": [{"key": "deep", "value": value}]}


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"[]", b"null", b"1", b'"x"', b"{}}", b"{'a': 1}", b'{"a": \xff}',
        b'{"a": "\xff"}', b'{"a": 1' + b"0" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 100_000,
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_json_that_is_none(receiver: Server, text: bytes) -> None:
    """Text that is not a JSON object, however long or deep, is refused in JSON."""
    answer = receiver.post(text, JSON)
    assert answer.status_code == 400
    refusal(answer)


@pytest.mark.parametrize(
    "tree",
    [
        {"resourceMetrics": 1},
        {"resourceMetrics": {}},
        {"resourceMetrics": [1]},
        {"resourceMetrics": [None]},
        {"resourceMetrics": [{"scopeMetrics": "x"}]},
        tree_with({"asInt": 1.5}),
        tree_with({"asInt": 2**63}),
        tree_with({"asInt": "x"}),
        tree_with({"asInt": {}}),
        tree_with({"asDouble": "x"}),
        tree_with({"asDouble": []}),
        tree_with({"asInt": 1, "asDouble": 1}),
        tree_with({"flags": -1}),
        tree_with({"flags": 2**32}),
        tree_with({"timeUnixNano": 2**64}),
        tree_with({"timeUnixNano": "-1"}),
        tree_with({"attributes": {"a": 1}}),
        tree_with({"attributes": [{"key": 1}]}),
        tree_with({"attributes": [{"key": "a", "value": {"intValue": "x"}}]}),
        tree_with({"attributes": [{"key": "a", "value": {"bytesValue": "!!"}}]}),
        tree_with({"exemplars": [1]}),
        tree_with(exemplar(traceId="xyz")),
        tree_with(exemplar(traceId="abc")),
        tree_with(exemplar(spanId="AAAAAAAAAAA=")),
        tree_with(exemplar(spanId=5)),
        tree_with(nested(60)),
        tree_with(nested(150)),
    ],
    ids=lambda tree: json.dumps(tree)[-60:],
)
def test_json_of_another_shape(receiver: Server, tree: dict[str, Any]) -> None:
    """JSON that is no OTLP metrics request is refused, with what is wrong with it."""
    answer = receiver.post(json.dumps(tree).encode(), JSON)
    assert answer.status_code == 400
    refusal(answer)


@pytest.mark.parametrize(
    "point",
    [
        exemplar(traceId="0AF7651916CD43DD8448EB211C80319C", spanId=""),
        nested(40),
        {"asDouble": "NaN"},
        {"asDouble": "-Infinity"},
        {"attributes": [{"key": "\ud800", "value": {"stringValue": "\udc00 and \ud800a"}}]},
        {"attributes": [{"key": "a"}, {"key": "a", "value": {}}]},
        {"asInt": 1, "newField": [{"exemplars": 1}], "": None, "\ud800": "\udfff"},
    ],
    ids=lambda point: json.dumps(point)[:60],
)
def test_odd_json_that_is_otlp(receiver: Server, point: dict[str, Any]) -> None:
    """What is unusual but allowed is accepted; half a surrogate pair loses only itself."""
    answer = receiver.post(json.dumps(tree_with(point)).encode(), JSON)
    assert (answer.status_code, answer.json()) == (200, {})


JS_BODY = json.loads((RECORDINGS / "otlp-js" / "delta.json").read_text("utf-8"))[0]["body"]
SHORT = st.text(max_size=5)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | SHORT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(SHORT, inner, max_size=2),
    max_leaves=4,
)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) of a tree."""
    members = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(members):
        yield node, key
        if isinstance(value, dict | list):
            yield from places(value)


@few
@given(place=st.integers(0, 10**6), value=ANY_JSON)
def test_recorded_json_with_a_wrong_value(receiver: Server, place: int, value: Any) -> None:
    """Any value anywhere in a recorded body never makes the server fail."""
    tree = json.loads(JS_BODY)
    found = list(places(tree))
    container, key = found[place % len(found)]
    container[key] = value
    assert_judged(receiver.post(json.dumps(tree).encode(), JSON))
