"""One list of routes: authentication, counting and OpenAPI read it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from rayotel.http import routes
from rayotel.http.routes import ROUTES, TOKEN, Access, Route
from rayotel.lake.signal import SIGNALS, Signal
from support.harness import JSON, PROTOBUF, Server, gauge_request

USER, PASSWORD, SECRET = "user", "pass-word", "s" * 20
every_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for credentials."""
    env = {
        "RAYOTEL_USERNAME": USER,
        "RAYOTEL_PASSWORD": PASSWORD,
        "RAYOTEL_EVENTS_TOKEN": SECRET,
    }
    with Server(tmp_path_factory.mktemp("guarded") / "data", env=env) as server:
        yield server


def send(server: Server, route: Route, token: str = SECRET, **more: object) -> httpx.Response:
    """A request that a route can answer."""
    path = route.path.replace(TOKEN, token)
    if route.method == "GET":
        return server.get(path, **more)
    is_otlp = route.signal is not None and route.signal.is_otlp
    content, headers = (gauge_request(1.0), PROTOBUF) if is_otlp else (b"[]", JSON)
    return server.post(content, headers, path, **more)


def counted(server: Server) -> dict[tuple[str, str], float]:
    """How many requests were answered, by route and status."""
    text = server.get("/metrics", auth=(USER, PASSWORD)).text
    found = re.findall(r'rayotel_requests_total\{path="([^"]*)",status="(\d+)"\} (\S+)', text)
    return {(path, status): float(number) for path, status, number in found}


@every_route
def test_a_route_is_open_to_whom_its_access_says(guarded: Server, route: Route) -> None:
    """Without credentials only open routes and secret paths answer; with them all do."""
    without = send(guarded, route).status_code
    assert without == (200 if route.access in (Access.OPEN, Access.SECRET) else 401)
    assert send(guarded, route, auth=(USER, PASSWORD)).status_code == 200
    if route.access is Access.SECRET:
        for wrong in ("wrong", SECRET + "x", SECRET + "/x"):
            assert send(guarded, route, wrong).status_code == 404


@every_route
def test_a_request_is_counted_under_its_route(guarded: Server, route: Route) -> None:
    """Each answer is counted by the route's label and status, and never under a secret."""
    before = counted(guarded).get((route.label, "200"), 0.0)
    assert send(guarded, route, auth=(USER, PASSWORD)).status_code == 200
    after = counted(guarded)
    assert after[route.label, "200"] >= before + 1
    assert not [path for path, _ in after if SECRET in path]


def test_what_is_no_route_is_counted_together(guarded: Server) -> None:
    """Paths that anybody can invent make one label."""
    for path in ("/", "/nothing", "/v1/metrics/x", "/api/v1"):
        assert guarded.get(path).status_code == 401
        assert guarded.get(path, auth=(USER, PASSWORD)).status_code == 404
    labels = {path for path, _ in counted(guarded)}
    assert labels <= {route.label for route in ROUTES} | {"other"}
    assert counted(guarded)["other", "404"] >= 4


def test_openapi_describes_every_route(guarded: Server) -> None:
    """Programs find all addresses, the posts too, each with its summary."""
    described = guarded.get("/api/v1/openapi.json", auth=(USER, PASSWORD)).json()["paths"]
    listed = {
        (method.upper(), path): operation["summary"]
        for path, methods in described.items()
        for method, operation in methods.items()
    }
    expected = {
        (route.method, route.path): route.summary for route in ROUTES if route != routes.OPENAPI
    }
    assert listed == expected


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)
def test_another_method_is_refused_by_name(guarded: Server, signal: Signal) -> None:
    """405 says which method the address takes."""
    answer = guarded.get(signal.path, auth=(USER, PASSWORD))
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = guarded.post(b"", JSON, "/api/v1/liveness", auth=(USER, PASSWORD))
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert counted(guarded)[signal.path, "405"] >= 1


@every_route
def test_every_route_is_found_by_its_path(route: Route) -> None:
    """The list is the only place that knows paths."""
    found = routes.find(route.method, route.path.replace(TOKEN, "x/y"))
    assert found is not None
    assert found.route is route
    assert found.token == ("x/y" if TOKEN in route.path else "")
    assert route.method in routes.methods_of(route.path.replace(TOKEN, "x"))
    assert routes.find("PATCH", route.path) is None
