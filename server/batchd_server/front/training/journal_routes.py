"""What happened in a training job: its events as a stream, its steps' figures, its batch sizes, its checkpoints."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from batchd_server.front.documents import json_response, openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.front.training.event_stream import event_stream
from batchd_server.front.training.job_documents import checkpoint_document
from batchd_server.front.training.job_routes import ONE
from batchd_server.front.training.parameters import MAX_NUMBER, number_in, query_documentation, whole_number

MAX_METRICS = 100_000
DEFAULT_METRICS = 1000
LAST_EVENT_ID = "Last-Event-ID"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def journal_routes(front: Front) -> APIRouter:
    """Return the routes that tell a job's story."""
    router = raw_router("Training")

    async def events(request: Request) -> Response:
        """Stream a job's events as they come, first those after `Last-Event-ID`, until the job has ended."""
        job = await front.training.job(request.path_params["job"])
        after = number_in(request.headers.get(LAST_EVENT_ID) or "0", LAST_EVENT_ID, 0, MAX_NUMBER)
        stream = event_stream(front, job.id, after)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_HEADERS)

    async def metrics(request: Request) -> Response:
        """List the figures of a job's steps after `after_step`, in order."""
        after_step = whole_number(request, "after_step", 0)
        limit = whole_number(request, "limit", DEFAULT_METRICS, least=1, most=MAX_METRICS)
        job: str = request.path_params["job"]
        rows = await front.training.of_job(
            job, lambda store: store.metrics(job, after_step=after_step, limit=limit + 1)
        )
        return json_response({"data": [asdict(row) for row in rows[:limit]], "has_more": len(rows) > limit})

    async def journal(request: Request) -> Response:
        """List what was decided about a job's global batch size: step, raw proposal, size, and why."""
        job: str = request.path_params["job"]
        commits = await front.training.of_job(job, lambda store: store.commits(job))
        return json_response({"data": [asdict(commit) for commit in commits]})

    async def checkpoints(request: Request) -> Response:
        """List a job's saved states, by step."""
        job: str = request.path_params["job"]
        saved = await front.training.of_job(job, lambda store: store.checkpoints(job))
        return json_response({"data": [checkpoint_document(checkpoint) for checkpoint in saved]})

    rows = {"type": "object", "properties": {"data": {"type": "array", "items": {"type": "object"}}}}
    paging = query_documentation(after_step=(0, 0, MAX_NUMBER), limit=(DEFAULT_METRICS, 1, MAX_METRICS))
    last = {
        LAST_EVENT_ID: {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_NUMBER,
            "description": "Go on after this event.",
        }
    }
    streamed = openapi(ONE, answer={"type": "string"}, headers=last, media_type="text/event-stream")
    paged = openapi(ONE, answer=rows)
    paged["parameters"] += paging
    for name, endpoint, extra in (
        ("events", events, streamed),
        ("metrics", metrics, paged),
        ("journal", journal, openapi(ONE, answer=rows)),
        ("checkpoints", checkpoints, openapi(ONE, answer=rows)),
    ):
        router.add_api_route(
            f"{ONE}/{name}",
            endpoint,
            methods=["GET"],
            openapi_extra=extra,
            response_model=None,
            response_class=StreamingResponse if endpoint is events else JSONResponse,  # for the description only
        )
    return router
