"""`/v1/fine_tuning/jobs`: training jobs for OpenAI's client as it is. A thin alias; `/v1/training/jobs` has all of it.

What OpenAI has no word for goes by `extra_body={"training": {...}}`, as the job's JSON has it.
"""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import NotFound, Unprocessable
from batchd_server.front.documents import json_response, openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.front.training.parameters import job_object, job_spec, query_documentation, whole_number
from batchd_server.front.training.submission import poke, submit
from batchd_server.training.job_spec import JobSpec, JobStatus
from batchd_server.training.records import Event, Job

PATH = "/v1/fine_tuning/jobs"
DEFAULT_EPOCHS = 3
MAX_PAGE = 100
_STATUSES = {
    JobStatus.PAUSING: "running",
    JobStatus.PAUSED: "queued",
    JobStatus.CANCELLING: "running",
}
"""Where OpenAI has another word, or none."""
_LEVELS = {"failed": "error", "out_of_memory": "warn"}
_BODY = {
    "type": "object",
    "required": ["model", "training_file"],
    "properties": {
        "model": {"type": "string", "minLength": 1},
        "training_file": {"type": "string", "minLength": 1, "description": "A dataset's id or name."},
        "hyperparameters": {"type": "object"},
        "method": {"type": "object"},
        "seed": {"type": "integer"},
        "metadata": {"type": "object"},
        "training": {"type": "object", "description": "Anything else of a training job."},
    },
}
_AFTER = {"name": "after", "in": "query", "schema": {"type": "string"}}
_UNSUPPORTED = ("validation_file", "suffix", "integrations")


def fine_tuning_routes(front: Front) -> APIRouter:
    """Return the alias."""
    router = raw_router("OpenAI")

    async def create(request: Request) -> Response:
        """Queue a training job."""
        spec = _spec(await job_object(front, request))
        job = await submit(front, spec, request.headers.get("idempotency-key"))
        response = json_response(_job(job))
        response.background = BackgroundTask(poke, front)
        return response

    async def listing(request: Request) -> Response:
        """List jobs, newest first."""
        limit = whole_number(request, "limit", 20, least=1, most=MAX_PAGE)
        jobs, has_more = await front.training.page(limit, request.query_params.get("after"))
        return json_response({"object": "list", "data": [_job(job) for job in jobs], "has_more": has_more})

    async def retrieve(request: Request) -> Response:
        """Tell how a job stands."""
        return json_response(_job(await front.training.job(request.path_params["job"])))

    async def cancel(request: Request) -> Response:
        """Ask a job to end."""
        job_id = request.path_params["job"]
        job = await front.training.of_job(job_id, lambda store: store.wish(job_id, "cancel"))
        response = json_response(_job(job))
        response.background = BackgroundTask(poke, front)
        return response

    async def events(request: Request) -> Response:
        """List a job's events, newest first, as OpenAI does."""
        job_id = request.path_params["job"]
        limit, after = whole_number(request, "limit", 20, least=1, most=MAX_PAGE), request.query_params.get("after")
        before = _event_number(after) if after is not None else None
        found = await front.training.of_job(
            job_id, lambda store: store.latest_events(job_id, before=before, limit=limit + 1)
        )
        return json_response(
            {"object": "list", "data": [_event(event) for event in found[:limit]], "has_more": len(found) > limit}
        )

    one = f"{PATH}/{{job}}"
    for method, path, endpoint, body, errors in (
        ("POST", PATH, create, _BODY, (409, 422)),
        ("GET", PATH, listing, None, (404,)),
        ("GET", one, retrieve, None, ()),
        ("POST", f"{one}/cancel", cancel, None, (409,)),
        ("GET", f"{one}/events", events, None, ()),
    ):
        extra = openapi(path, body=body, errors=errors)
        if method == "GET" and endpoint is not retrieve:
            extra["parameters"] += [*query_documentation(limit=(20, 1, MAX_PAGE)), _AFTER]
        router.add_api_route(path, endpoint, methods=[method], openapi_extra=extra, response_model=None)
    return router


def _spec(document: dict[str, Any]) -> JobSpec:
    """Translate a fine-tuning job.

    Raises:
        Unprocessable: something is wrong, or asked for that batchd does not do; names the field.
    """
    for name in _UNSUPPORTED:
        if document.get(name):
            raise Unprocessable(f"{name} is not supported", field=name)
    beside = document.get("training") or {}
    if not isinstance(beside, dict):
        raise Unprocessable("training must be an object", field="training")
    translated: dict[str, Any] = {
        "model": document.get("model"),
        "dataset": document.get("training_file"),
        "seed": document.get("seed") or 0,
        "metadata": document.get("metadata") or {},
    }
    hyperparameters = _hyperparameters(document)
    epochs, multiplier = hyperparameters.get("n_epochs", "auto"), hyperparameters.get("learning_rate_multiplier")
    if epochs != "auto":
        translated["epochs"] = epochs
    elif not beside.keys() & {"epochs", "max_steps"}:
        translated["epochs"] = DEFAULT_EPOCHS
    size = hyperparameters.get("batch_size", "auto")
    if size != "auto":
        translated["batching"] = {"initial": size, "min": size, "max": size}
    spec = job_spec({**translated, **beside})
    if multiplier in (None, "auto"):
        return spec
    rate = spec.optimizer.lr * multiplier if type(multiplier) in (int, float) else math.nan
    if not 0 < rate < math.inf:
        raise Unprocessable(
            f"learning_rate_multiplier must be a positive number or auto, got {multiplier!r}",
            field="hyperparameters.learning_rate_multiplier",
        )
    return spec.model_copy(update={"optimizer": spec.optimizer.model_copy(update={"lr": rate})})


def _hyperparameters(document: dict[str, Any]) -> dict[str, Any]:
    """The table, from where it stands now or stood before."""
    method = document.get("method") or {"type": "supervised"}
    if not isinstance(method, dict) or method.get("type") != "supervised":
        raise Unprocessable("only the method supervised is there", field="method.type")
    supervised = method.get("supervised") or {}
    table = (supervised.get("hyperparameters") if isinstance(supervised, dict) else None) or document.get(
        "hyperparameters", {}
    )
    if not isinstance(table, dict):
        raise Unprocessable("hyperparameters must be an object", field="hyperparameters")
    return table


def _job(job: Job) -> dict[str, Any]:
    spec, failed = job.spec, job.status is JobStatus.FAILED
    hyperparameters = {
        "n_epochs": spec.epochs or "auto",
        "batch_size": spec.batching.initial,
        "learning_rate_multiplier": 1.0,
    }
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created),
        "finished_at": None if job.finished is None else int(job.finished),
        "error": {"code": "failed", "message": job.reason or "", "param": None} if failed else None,
        "fine_tuned_model": spec.model if job.status is JobStatus.SUCCEEDED else None,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "model": spec.model,
        "organization_id": "",
        "result_files": [],
        "seed": spec.seed,
        "status": _STATUSES.get(job.status, job.status.value),
        "trained_tokens": None,
        "training_file": spec.dataset,
        "validation_file": None,
        "metadata": {name: str(value) for name, value in spec.metadata.items()},
    }


def _event(event: Event) -> dict[str, Any]:
    told = ", ".join(f"{name} {value}" for name, value in event.data.items())
    return {
        "id": f"ftevent-{event.id}",
        "object": "fine_tuning.job.event",
        "created_at": int(event.at),
        "level": _LEVELS.get(event.kind, "info"),
        "message": f"{event.kind}: {told}" if told else event.kind,
        "type": "metrics" if event.kind == "validation" else "message",
        "data": dict(event.data),
    }


def _event_number(event_id: str) -> int:
    digits = event_id.removeprefix("ftevent-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise NotFound(f"there is no event {event_id[:80]!r}", field="after")
    return int(digits)
