"""`GET /v1/status`: everything an operator asks first, from the device process and from this front."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import Unavailable
from batchd_server.front.documents import json_response, openapi
from batchd_server.front.native.front_status import front_status
from batchd_server.front.raw_route import raw_router
from batchd_server.front.repository import model_states
from batchd_server.front.service import Front
from batchd_server.training.store import TrainingStore
from batchd_server.training.trouble import Trouble


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
    standing = front.dispatcher.standing()
    document["supervision"] = None if standing is None else msgspec.to_builtins(standing)
    document["front"] = front_status(front)
    jobs, failure = await _jobs(front)
    document["training"] = {
        "jobs": jobs,
        "share": (document.get("leases") or {}).get("share"),
        "trouble": Trouble(state.training_trouble).reason if state.training_trouble else failure,
    }
    return document


async def _jobs(front: Front) -> tuple[dict[str, int] | None, str | None]:
    """How many training jobs have each status that any has; where the store cannot be asked, None and why."""
    try:
        counts = await front.training.call(TrainingStore.counts)
    except Unavailable as unavailable:
        return None, unavailable.message
    return {status.value: number for status, number in counts.items()}, None
