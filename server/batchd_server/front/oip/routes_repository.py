"""`POST /v2/repository/...`: the list of models, and loading and unloading them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import BadRequest
from batchd_server.front.documents import json_object, json_response, openapi
from batchd_server.front.oip.parameters import flag, parameters_of
from batchd_server.front.oip.schemas import OPTIONAL_FLAG, optional_parameters
from batchd_server.front.raw_route import raw_router
from batchd_server.front.repository import model_states
from batchd_server.front.service import Front

_INDEX_REQUEST = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
_INDEX = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("name", "version", "state", "reason")},
    },
}
_ORDER = {"type": "object", "properties": {"parameters": optional_parameters(unload_dependents=OPTIONAL_FLAG)}}


def repository_routes(front: Front) -> APIRouter:
    """Return the routes of the model repository extension."""
    router = raw_router("Open Inference Protocol")

    async def index(request: Request) -> Response:
        """List the configured models and their states; `{"ready": true}` lists only those that are ready."""
        body = await front.body(request)
        ready_only = False
        if body.strip():
            wanted = json_object(body).get("ready", False)
            if type(wanted) is not bool:
                raise BadRequest("ready must be true or false", field="ready")
            ready_only = wanted
        return json_response(
            [
                {"name": state.name, "version": front.version(state.name), "state": state.state, "reason": state.reason}
                for state in model_states(front).values()
                if state.state == "READY" or not ready_only
            ]
        )

    async def load(request: Request) -> Response:
        """Load a configured model, and answer when it is ready."""
        return await _order(front, request, "load")

    async def unload(request: Request) -> Response:
        """Unload a model; its requests are refused until it is loaded again."""
        return await _order(front, request, "unload")

    for path, endpoint, body, answer in (
        ("/v2/repository/index", index, _INDEX_REQUEST, _INDEX),
        ("/v2/repository/models/{model}/load", load, _ORDER, None),
        ("/v2/repository/models/{model}/unload", unload, _ORDER, None),
    ):
        extra = openapi(path, body=body, answer=answer)
        router.add_api_route(path, endpoint, methods=["POST"], openapi_extra=extra, response_model=None)
    return router


async def _order(front: Front, request: Request, action: str) -> Response:
    name: str = request.path_params["model"]
    front.model(name)
    body = await front.body(request)
    parameters = parameters_of(json_object(body), "") if body.strip() else {}
    for parameter in parameters:
        if parameter == "config" or parameter.startswith("file:"):
            raise BadRequest(
                "models are configured in batchd's own configuration, not by load requests",
                field=f"parameters.{parameter}",
            )
    flag(parameters, "unload_dependents", "")
    await front.dispatcher.control(action, model=name)
    return json_response({})
