"""From a job to what is served: `POST /v1/training/jobs/ID/promote`, and `POST /v1/models/NAME/rollback` to undo it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import BadRequest, Conflict, NotFound
from batchd_server.front.documents import json_object, json_response, openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.training.records import Checkpoint

PROMOTE = "/v1/training/jobs/{job}/promote"
ROLLBACK = "/v1/models/{model}/rollback"
_BODY = {
    "type": "object",
    "properties": {"checkpoint": {"anyOf": [{"type": "integer"}, {"enum": ["best", "last"]}], "default": "best"}},
}


def promotion_routes(front: Front) -> APIRouter:
    """Return the routes that change what a model is served with."""
    router = raw_router("Training")

    async def promote(request: Request) -> Response:
        """Serve a job's weights: those of `checkpoint`, a step, "best" (by validation; the default) or "last"."""
        job = await front.training.job(request.path_params["job"])
        body = await front.body(request)
        wanted = json_object(body).get("checkpoint", "best") if body.strip() else "best"
        step = _chosen(wanted, await front.training.call(lambda store: store.checkpoints(job.id))).step
        told = await front.dispatcher.control("promote", model=job.spec.model, job=job.id, checkpoint=step)
        known = {"object": "training.promotion", "job": job.id, "model": job.spec.model, "step": step}
        return json_response(known | (told or {}))

    async def rollback(request: Request) -> Response:
        """Serve the weights again that a model had before its last promotion."""
        model: str = request.path_params["model"]
        front.model(model)
        told = await front.dispatcher.control("rollback", model=model)
        return json_response({"object": "training.rollback", "model": model} | (told or {}))

    for path, endpoint, shape in ((PROMOTE, promote, _BODY), (ROLLBACK, rollback, None)):
        extra = openapi(path, body=shape, errors=(409, 422))
        router.add_api_route(path, endpoint, methods=["POST"], openapi_extra=extra, response_model=None)
    return router


def _chosen(wanted: Any, saved: list[Checkpoint]) -> Checkpoint:
    if not (wanted in ("best", "last") or type(wanted) is int):
        raise BadRequest('checkpoint must be "best", "last" or a step', field="checkpoint")
    if not saved:
        raise Conflict("the job has no checkpoint yet")
    if wanted == "last":
        return saved[-1]
    if wanted == "best":
        return next((checkpoint for checkpoint in saved if checkpoint.best), saved[-1])
    found = next((checkpoint for checkpoint in saved if checkpoint.step == wanted), None)
    if found is None:
        listed = ", ".join(str(checkpoint.step) for checkpoint in saved)
        raise NotFound(f"there is no checkpoint of step {wanted}; there are {listed}", field="checkpoint")
    return found
