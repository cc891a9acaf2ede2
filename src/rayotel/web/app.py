"""The application of the web framework: every route that is not a hot path."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from rayotel import __version__
from rayotel.errors import RequestRefused
from rayotel.http import routes
from rayotel.http.errors import refusal
from rayotel.http.exchange import Answer
from rayotel.http.routes import Access, Route
from rayotel.lake.signal import Signal
from rayotel.model import JSON, PROTOBUF


def new_app() -> FastAPI:
    """An application without routes of its own yet; its OpenAPI description has all of them."""
    app = _App(
        title="rayotel",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=routes.OPENAPI.path,
    )
    app.add_exception_handler(RequestRefused, _refused)
    app.add_exception_handler(HTTPException, _refused)
    return app


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """What FastAPI knows of its routes, and the routes of signals beside them."""
        if not self.openapi_schema:
            described = super().openapi()
            for route in routes.ROUTES:
                if route.signal is not None:
                    operation = _operation(route, route.signal)
                    described["paths"].setdefault(route.path, {})[route.method.lower()] = operation
            self.openapi_schema = described
        return self.openapi_schema


def _operation(route: Route, signal: Signal) -> dict[str, Any]:
    """A post of a signal in OpenAPI's terms."""
    types = (PROTOBUF, JSON) if signal.is_otlp else (JSON,)
    any_body = {name: {"schema": {"type": "string", "format": "binary"}} for name in types}
    answers = {
        "200": "durable; what was rejected is counted in partial_success",
        "400": "the body or a name can never be accepted",
        "401": "wrong or missing credentials",
        "413": "the body is too large",
        "415": "the Content-Type or Content-Encoding is not known",
        "503": "try again after Retry-After seconds",
    }
    if route.access is Access.SECRET:
        del answers["401"]
        answers["404"] = "the token is wrong"
    operation: dict[str, Any] = {
        "summary": route.summary,
        "requestBody": {"required": True, "content": any_body},
        "responses": {status: {"description": words} for status, words in answers.items()},
    }
    if route.access is Access.SECRET:
        token = {"name": "token", "in": "path", "required": True, "schema": {"type": "string"}}
        operation["parameters"] = [token]
    return operation


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = RequestRefused(error.status_code, str(error.detail).lower())
    if not isinstance(error, RequestRefused):
        raise error
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return _response(refusal(error, sent))


def _response(answer: Answer) -> Response:
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers, answer.content_type)
