"""Routes about the server itself: alive, ready, what it is, and its own metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from rayotel.http import routes
from rayotel.telemetry import CONTENT_TYPE, Telemetry


@dataclass(frozen=True, slots=True)
class About:
    """What a person wants to know of a server. Holds no secrets."""

    name: str
    version: str
    receiver: str
    storage: str
    commit_interval_seconds: float


def status_router(about: About, is_ready: Callable[[], bool], telemetry: Telemetry) -> APIRouter:
    """The routes about the server itself."""
    router = APIRouter()

    @router.get(routes.LIVENESS.path, summary=routes.LIVENESS.summary)
    async def liveness() -> dict[str, str]:
        return {"status": "alive"}

    @router.get(routes.READINESS.path, summary=routes.READINESS.summary)
    async def readiness() -> Response:
        if is_ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503, {"Retry-After": "1"})

    @router.get(routes.ABOUT.path, summary=routes.ABOUT.summary)
    async def describe() -> dict[str, object]:
        return asdict(about)

    @router.get(routes.METRICS.path, summary=routes.METRICS.summary)
    async def metrics() -> Response:
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE)

    return router
