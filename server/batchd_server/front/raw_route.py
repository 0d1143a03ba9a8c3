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
from starlette.types import Message, Receive, Scope, Send


class RawRoute(APIRoute):
    """Calls its endpoint with the request and nothing else. HEAD is GET, of whose answer only the headers are sent."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return how well this route fits the request."""
        return super().matches(_head_as_get(scope))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        given = _head_as_get(scope)
        await super().handle(given, receive, send if given is scope else _headers_of(send))

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint itself."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def _head_as_get(scope: Scope) -> Scope:
    return {**scope, "method": "GET"} if scope["type"] == "http" and scope["method"] == "HEAD" else scope


def _headers_of(send: Send) -> Send:
    """An answer ends with its headers: one that goes on, as a stream of events does, would never have an end."""

    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})

    return send_headers


def raw_router(tag: str) -> APIRouter:
    """Return a router whose routes are raw, under `tag` in the documentation."""
    return APIRouter(route_class=RawRoute, tags=[tag], redirect_slashes=False)
