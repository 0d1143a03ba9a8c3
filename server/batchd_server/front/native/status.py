"""`GET /v1/status`: everything an operator asks first, from the device process and from this front."""

from __future__ import annotations

import os
import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import Unavailable
from batchd_server.front.documents import json_response, openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.repository import model_states
from batchd_server.front.service import Front
from batchd_server.training.store import TrainingStore


def status_routes(front: Front) -> APIRouter:
    """Return the status route."""
    router = raw_router("Operation")

    async def status(request: Request) -> Response:
        """Tell version, uptime, device, fronts, models, queue and budget; works without the device process too."""
        return json_response(await current_status(front))

    path = "/v1/status"
    router.add_api_route(path, status, methods=["GET"], openapi_extra=openapi(path), response_model=None)
    return router


async def current_status(front: Front) -> dict[str, Any]:
    """Return what the device process tells, with what this front knows itself."""
    try:
        document: dict[str, Any] = dict(await front.dispatcher.control("status"))
    except Unavailable as unavailable:
        document = {"detail": unavailable.message}
    state = front.dispatcher.state()  # after the waiting, during which it may have changed
    # of this front, which outlives device processes
    document |= {"version": front.release, "uptime_s": round(time.time() - front.started, 3)}
    document.setdefault("device", {"pid": state.pid})
    document.setdefault(
        "models", [{"name": known.name, "state": known.state} for known in model_states(front).values()]
    )
    own = {"pid": os.getpid()}
    fronts = document.setdefault("fronts", [])
    if own["pid"] not in [other.get("pid") for other in fronts]:
        document["fronts"] = [*fronts, own]
    document["ready"] = state.connected and state.ready and not state.draining
    document["draining"] = state.draining
    document["training"] = {"jobs": await _jobs(front), "share": (document.get("leases") or {}).get("share")}
    return document


async def _jobs(front: Front) -> dict[str, int] | None:
    """How many training jobs have each status that any has; None where the store cannot be asked."""
    try:
        return {status.value: number for status, number in (await front.training.call(TrainingStore.counts)).items()}
    except Unavailable:
        return None
