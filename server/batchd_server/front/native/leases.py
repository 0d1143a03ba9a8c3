"""`/v1/leases`: the device for training loops in other processes, one quantum of work at a time.

A call waits until the device is lent. When its client leaves meanwhile, the wish leaves with it.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import ServingError, Unavailable
from batchd_server.front.disconnects import ClientGone, run_while_awaited
from batchd_server.front.documents import json_object, json_response, openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.link.lease_calls import MAX_EXPECTED_S, MAX_TIMEOUT_S, LeaseAsk, LeaseReturn, read_call

DENIED_HEADER = "x-lease-denied"

_WAIT = {
    "expected_s": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": MAX_EXPECTED_S},
    "timeout_s": {"type": "number", "minimum": 0, "maximum": MAX_TIMEOUT_S, "default": 30},
}
_ASK = {
    "type": "object",
    "required": ["client"],
    "additionalProperties": False,
    "properties": {
        "client": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "weight": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000, "default": 1},
        **_WAIT,
    },
}
_NEXT = {"type": ["object", "null"], "additionalProperties": False, "properties": _WAIT}
_RETURN = {"type": "object", "additionalProperties": False, "properties": {"next": _NEXT}}
_NUMBER = {"type": "number"}
_LEASE = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "client": {"type": "string"},
        "limit_s": _NUMBER,
        "predicted_s": {"type": ["number", "null"]},
        "waited_s": _NUMBER,
    },
}
_RETURNED = {
    "type": "object",
    "properties": {
        "held_s": _NUMBER,
        "expired": {"type": "boolean"},
        "lease": {"anyOf": [_LEASE, {"type": "null"}]},
    },
}
_DENIED = {DENIED_HEADER: {"description": "Why not, where that is known.", "schema": {"type": "string"}}}
_LIST = {"type": "object", "properties": {"data": {"type": "array", "items": {"type": "object"}}}}


def lease_routes(front: Front) -> APIRouter:
    """Return the routes of leases."""
    router = raw_router("Leases")

    async def ask(request: Request) -> Response:
        """Wait until the device is lent; 204 where it is not within `timeout_s`."""
        wanted = read_call(json_object(await front.body(request)), LeaseAsk)
        if front.dispatcher.state().draining:
            raise Unavailable("the server is stopping", code="draining")
        answer = await _answer(front, request, "lease", ask=msgspec.to_builtins(wanted))
        lease: dict[str, Any] | None = answer["lease"]
        if lease is not None:
            return json_response(lease)
        denied = answer.get("denied")
        return Response(status_code=204, headers={DENIED_HEADER: denied} if denied else None)

    async def give_back(request: Request) -> Response:
        """End a lease; with `next`, wait for the following one in the same call, where `lease` is null without it."""
        body = await front.body(request)
        wanted = read_call(json_object(body) if body.strip() else {}, LeaseReturn)
        lease: str = request.path_params["lease"]
        waits = wanted.next is not None and not front.dispatcher.state().draining
        following = msgspec.to_builtins(wanted.next) if waits else None
        return json_response(await _answer(front, request, "lease_return", lease=lease, next=following))

    async def overview(request: Request) -> Response:
        """List the clients that lease the device: who waits, who holds it, and how they have kept to it."""
        return json_response({"data": await front.dispatcher.control("leases")})

    one = "/v1/leases/{lease}/return"
    asked = openapi("/v1/leases", body=_ASK, answer=_LEASE, errors=(429,))
    asked["responses"]["204"] = {"description": "Not within `timeout_s`.", "headers": _DENIED}
    for path, endpoint, method, extra in (
        ("/v1/leases", ask, "POST", asked),
        ("/v1/leases", overview, "GET", openapi("/v1/leases", answer=_LIST)),
        (one, give_back, "POST", openapi(one, body=_RETURN, answer=_RETURNED, errors=(429,))),
    ):
        router.add_api_route(path, endpoint, methods=[method], openapi_extra=extra, response_model=None)
    return router


async def _answer(front: Front, request: Request, action: str, **arguments: Any) -> dict[str, Any]:
    """Have the device process answer, for as long as the client waits."""
    token = secrets.token_hex(8)
    call = front.dispatcher.control(action, token=token, **arguments)
    try:
        answer: dict[str, Any] = await run_while_awaited(call, request.receive, None)
    except ClientGone:
        with suppress(ServingError):  # a device process that is not there has forgotten the wish already
            await front.dispatcher.control("lease_drop", token=token)
        raise
    return answer
