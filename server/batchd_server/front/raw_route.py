"""Routes that take the request as it is.

FastAPI's own route resolves dependencies and decodes bodies by their content type; tritonclient sends none at all, and
the resolution costs 16 us of 31 us per request. Such a route is documented by hand through `openapi_extra`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send


class RawRoute(APIRoute):
    """Calls its endpoint with the request and nothing else. HEAD is GET, whose body the HTTP server leaves out."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return how well this route fits the request."""
        return super().matches(_head_as_get(scope))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        await super().handle(_head_as_get(scope), receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint itself."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def _head_as_get(scope: Scope) -> Scope:
    return {**scope, "method": "GET"} if scope["type"] == "http" and scope["method"] == "HEAD" else scope


def raw_router(tag: str) -> APIRouter:
    """Return a router whose routes are raw, under `tag` in the documentation."""
    return APIRouter(route_class=RawRoute, tags=[tag], redirect_slashes=False)
