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


class RawRoute(APIRoute):
    """Calls its endpoint with the request and nothing else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint itself."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def raw_router(tag: str) -> APIRouter:
    """Return a router whose routes are raw, under `tag` in the documentation."""
    return APIRouter(route_class=RawRoute, tags=[tag], redirect_slashes=False)
