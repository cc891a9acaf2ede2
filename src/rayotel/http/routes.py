"""All addresses of the server, each with its access, its label in counters and its purpose.

Authentication, counting, OpenAPI and the documents read this list. A new address needs a line here
and a handler in its room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from rayotel.lake.signal import SIGNALS, Signal

OTHER = "other"  # the label of everything that is no address
TOKEN = "{token}"  # noqa: S105 - a place in a path, not a secret


class Access(Enum):
    """Who may use an address, where the settings ask for credentials.

    READ and WRITE need credentials; a request to a READ address changes nothing. In a SECRET one
    the path holds a secret instead.
    """

    OPEN = "open"
    READ = "credentials"
    WRITE = "credentials, writes"
    SECRET = "secret in the path"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Route:
    """One address. A path that ends with `{token}` stands for all paths that differ there.

    `summary` is Markdown without links. `signal`: the signal that is posted there, if any.
    """

    method: str
    path: str
    access: Access
    summary: str
    signal: Signal | None = None

    @property
    def label(self) -> str:
        """The route in the server's own metrics: never a secret."""
        return self.path


class Found(NamedTuple):
    """The route of a request, and the part of its path at `{token}`."""

    route: Route
    token: str = ""


def _of_signal(signal: Signal) -> tuple[Route, ...]:
    if signal.is_otlp:
        summary = (
            f"Takes OTLP {signal.name} in protobuf or JSON; answers OTLP's response in the same"
            f" format, whose partial_success counts the rejected {signal.rows}"
        )
        return (Route("POST", signal.path, Access.WRITE, summary, signal),)
    summary = f"Takes a JSON array of Ray's {signal.name}, with any Content-Type; answers {{}}"
    return (
        Route("POST", signal.path, Access.WRITE, summary, signal),
        Route(
            "POST",
            f"{signal.path}/{TOKEN}",
            Access.SECRET,
            f"The same, if {TOKEN} equals the setting {signal.name}_token; 404 otherwise",
            signal,
        ),
    )


LIVENESS = Route("GET", "/api/v1/liveness", Access.OPEN, "200 while the process runs")
READINESS = Route(
    "GET", "/api/v1/readiness", Access.OPEN, "200 while the server takes requests, 503 otherwise"
)
ABOUT = Route("GET", "/api/v1/about", Access.READ, "Version, receiver id and storage")
OPENAPI = Route("GET", "/api/v1/openapi.json", Access.READ, "These routes for programs, as OpenAPI")
METRICS = Route("GET", "/metrics", Access.READ, "The server's own metrics, for Prometheus")

ROUTES: tuple[Route, ...] = (
    *(route for signal in SIGNALS for route in _of_signal(signal)),
    LIVENESS,
    READINESS,
    ABOUT,
    OPENAPI,
    METRICS,
)


def _by_path(routes: tuple[Route, ...]) -> dict[str, dict[str, Route]]:
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, {})[route.method] = route
    return by_path


_EXACT: Mapping[str, Mapping[str, Route]] = _by_path(
    tuple(route for route in ROUTES if TOKEN not in route.path)
)
_BEFORE_TOKEN: Mapping[str, Mapping[str, Route]] = {
    path.removesuffix(TOKEN): methods
    for path, methods in _by_path(tuple(r for r in ROUTES if TOKEN in r.path)).items()
}


def find(method: str, path: str) -> Found | None:
    """The route of a request; None where there is none."""
    route = _at(path).get(method)
    if route is None:
        return None
    return Found(route, "" if route.path == path else path[len(route.path) - len(TOKEN) :])


def methods_of(path: str) -> tuple[str, ...]:
    """The methods that an address takes; none where there is no such address."""
    return tuple(sorted(_at(path)))


def label_of(path: str) -> str:
    """The label of a path in the server's own metrics, whatever the method was."""
    return next((route.label for route in _at(path).values()), OTHER)


def _at(path: str) -> Mapping[str, Route]:
    """The routes of a path, by method."""
    exact = _EXACT.get(path)
    if exact is not None:
        return exact
    starts = (start for start in _BEFORE_TOKEN if path.startswith(start) and path != start)
    return next((_BEFORE_TOKEN[start] for start in starts), {})
