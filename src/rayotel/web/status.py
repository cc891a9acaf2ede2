"""Routes about the server itself: alive, ready, what it is, and its own metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from rayotel.telemetry import CONTENT_TYPE, Telemetry


@dataclass(frozen=True, slots=True)
class About:
    """What a person wants to know of a server. Holds no secrets."""

    name: str
    version: str
    receiver: str
    storage: str
    commit_interval_seconds: float


def router(about: About, is_ready: Callable[[], bool], telemetry: Telemetry) -> APIRouter:
    """`/api/v1/liveness`, `/api/v1/readiness`, `/api/v1/about` and `/metrics`."""
    routes = APIRouter()

    @routes.get("/api/v1/liveness", summary="Is the process alive")
    async def liveness() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/api/v1/readiness", summary="Does it take requests")
    async def readiness() -> Response:
        if is_ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503, {"Retry-After": "1"})

    @routes.get("/api/v1/about", summary="Version, receiver id and storage")
    async def describe() -> dict[str, object]:
        return asdict(about)

    @routes.get("/metrics", summary="The server's own metrics, for Prometheus")
    async def metrics() -> Response:
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE)

    return routes
