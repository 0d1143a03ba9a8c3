"""`/v1/training/jobs`: submitting, listing and steering training jobs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import BadRequest
from batchd_server.front.documents import json_response, openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.front.training.job_documents import as_it_stands, job_document, job_schema
from batchd_server.front.training.parameters import job_object, job_spec, query_documentation, whole_number
from batchd_server.front.training.submission import LONGEST_KEY, poke, submit
from batchd_server.training.job_spec import JobStatus
from batchd_server.training.records import Wanted

ALL = "/v1/training/jobs"
ONE = f"{ALL}/{{job}}"
DEFAULT_PAGE = 20
MAX_PAGE = 1000
_JOBS = {
    "type": "object",
    "properties": {"data": {"type": "array", "items": {"type": "object"}}, "has_more": {"type": "boolean"}},
}


def job_routes(front: Front) -> APIRouter:
    """Return the routes of training jobs."""
    router = raw_router("Training")

    async def create(request: Request) -> Response:
        """Queue a job, after checking all of it that can be checked now; 422 names the field that is wrong."""
        spec = job_spec(await job_object(front, request))
        job = await submit(front, spec, request.headers.get("idempotency-key"))
        response = json_response(job_document(as_it_stands(front, job)))
        response.status_code = 201
        response.headers["location"] = f"{ALL}/{job.id}"
        response.background = BackgroundTask(poke, front)
        return response

    async def listing(request: Request) -> Response:
        """List jobs, newest first: those older than the job `after`, and of one `status` if given."""
        limit = whole_number(request, "limit", DEFAULT_PAGE, least=1, most=MAX_PAGE)
        status = _status(request.query_params.get("status"))
        jobs, has_more = await front.training.page(limit, request.query_params.get("after"), status)
        data = [job_document(as_it_stands(front, job)) for job in jobs]
        return json_response({"object": "list", "data": data, "has_more": has_more})

    async def retrieve(request: Request) -> Response:
        """Tell how a job stands."""
        job = await front.training.job(request.path_params["job"])
        return json_response(job_document(as_it_stands(front, job)))

    async def pause(request: Request) -> Response:
        """Ask a job to rest; its state is kept."""
        return await _steer(front, request, "pause")

    async def resume(request: Request) -> Response:
        """Ask a paused job to go on."""
        return await _steer(front, request, "run")

    async def cancel(request: Request) -> Response:
        """Ask a job to end; its checkpoints stay."""
        return await _steer(front, request, "cancel")

    def add(method: str, path: str, endpoint: Callable[[Request], Coroutine[Any, Any, Response]], **extra: Any) -> None:
        beside = extra.pop("parameters", [])
        documented = openapi(path, **extra)
        documented["parameters"] += beside
        status = extra.get("status", 200)
        router.add_api_route(
            path, endpoint, methods=[method], status_code=status, openapi_extra=documented, response_model=None
        )

    again = "The same job, submitted again with the same key, is not queued twice."
    key = {"Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY, "description": again}}
    paging = query_documentation(limit=(DEFAULT_PAGE, 1, MAX_PAGE))
    statuses = {"type": "string", "enum": [status.value for status in JobStatus]}
    paging += [{"name": "status", "in": "query", "schema": statuses}]
    paging += [{"name": "after", "in": "query", "schema": {"type": "string"}}]
    add("POST", ALL, create, body=job_schema(), headers=key, status=201, errors=(409, 422))
    add("GET", ALL, listing, answer=_JOBS, parameters=paging, errors=(404,))
    add("GET", ONE, retrieve)
    for verb in (pause, resume, cancel):
        add("POST", f"{ONE}/{verb.__name__}", verb, errors=(409,))
    return router


async def _steer(front: Front, request: Request, wanted: Wanted) -> Response:
    job_id: str = request.path_params["job"]
    job = await front.training.of_job(job_id, lambda store: store.wish(job_id, wanted))
    response = json_response(job_document(as_it_stands(front, job)))
    response.background = BackgroundTask(poke, front)
    return response


def _status(given: str | None) -> JobStatus | None:
    try:
        return None if given is None else JobStatus(given)
    except ValueError:
        listed = ", ".join(status.value for status in JobStatus)
        raise BadRequest(f"status must be one of {listed}, got {str(given)[:20]!r}", field="status") from None
