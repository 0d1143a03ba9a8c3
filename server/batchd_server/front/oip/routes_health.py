"""`GET /v2` and `/v2/health/...`: what the server is, and whether it may be sent requests."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.front.documents import json_response, openapi
from batchd_server.front.error_responses import not_ready_response
from batchd_server.front.oip.metadata import server_metadata
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.front.standing_watch import not_ready


def health_routes(front: Front) -> APIRouter:
    """Return the routes about the server as a whole."""
    router = raw_router("Open Inference Protocol")

    async def metadata(request: Request) -> Response:
        """Tell name, version and extensions."""
        return json_response(server_metadata(front.release))

    async def live(request: Request) -> Response:
        """Answer as long as this front process runs."""
        return json_response({"live": True})

    async def ready(request: Request) -> Response:
        """Answer 200 while requests are taken, 503 while starting, draining or without the device process."""
        state = front.dispatcher.state()
        if state.connected and state.ready and not state.draining:
            return json_response({"ready": True, "live": True})
        if state.draining:
            return not_ready_response(request, "the server is draining", live=True)
        standing = front.dispatcher.standing()
        if state.connected:
            failing = [f"model {model.name}: {model.reason}" for model in state.models if model.reason]
            reason = "; ".join(failing) or "the device process is starting"
            return not_ready_response(request, reason, live=True, state="loading")
        if standing is None or standing.state == "running":
            return not_ready_response(request, "the device process is not connected", live=True, state="restarting")
        refusal = not_ready(standing, time.time())
        return not_ready_response(request, refusal, live=True, state=standing.state)

    for path, endpoint in (("/v2", metadata), ("/v2/health/live", live), ("/v2/health/ready", ready)):
        router.add_api_route(path, endpoint, methods=["GET"], openapi_extra=openapi(path), response_model=None)
    return router
