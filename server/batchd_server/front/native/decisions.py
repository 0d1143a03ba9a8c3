"""`GET /v1/decisions`: the latest batches, why each was released then, and how it went against what was predicted."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import BadRequest
from batchd_server.front.documents import json_response, openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front

MAX_LIMIT = 4096
DEFAULT_LIMIT = 100


def decision_routes(front: Front) -> APIRouter:
    """Return the decisions route."""
    router = raw_router("Operation")

    async def decisions(request: Request) -> Response:
        """List the latest decisions, newest first; `limit` of them, of one `model` if named."""
        limit = _limit(request.query_params.get("limit"))
        model = request.query_params.get("model")
        if model is not None:
            front.dispatcher.model(model)  # an unknown one is not found
        return json_response({"data": await front.dispatcher.control("decisions", limit=limit, model=model)})

    path = "/v1/decisions"
    answer = {"type": "object", "properties": {"data": {"type": "array", "items": {"type": "object"}}}}
    documented = openapi(path, answer=answer, errors=(404,))
    documented["parameters"] += [
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        },
        {"name": "model", "in": "query", "schema": {"type": "string"}},
    ]
    router.add_api_route(path, decisions, methods=["GET"], openapi_extra=documented, response_model=None)
    return router


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.isdigit() and len(given) <= len(str(MAX_LIMIT)) and 1 <= int(given) <= MAX_LIMIT):
        raise BadRequest(f"limit must be a whole number from 1 to {MAX_LIMIT}, got {given[:20]!r}", field="limit")
    return int(given)
