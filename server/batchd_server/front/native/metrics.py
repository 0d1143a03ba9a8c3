"""`GET /metrics`: Prometheus' text, as the device process writes it."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from batchd_server.front.documents import openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front


def metrics_routes(front: Front) -> APIRouter:
    """Return the metrics route."""
    router = raw_router("Operation")

    async def metrics(request: Request) -> Response:
        """Tell all metrics of the daemon; whichever front is asked, they are the same."""
        exposition: str = await front.dispatcher.control("metrics")
        return Response(exposition, headers={"content-type": CONTENT_TYPE_LATEST})

    router.add_api_route(
        "/metrics",
        metrics,
        methods=["GET"],
        response_model=None,
        response_class=PlainTextResponse,  # for the description only
        openapi_extra=openapi("/metrics", answer={"type": "string"}, media_type="text/plain"),
    )
    return router
