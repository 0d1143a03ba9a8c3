"""`GET /v2/models/...`: metadata, readiness, configuration and statistics of models."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.front.documents import json_response, openapi
from batchd_server.front.error_responses import not_ready_response
from batchd_server.front.oip.metadata import model_config, model_metadata
from batchd_server.front.raw_route import raw_router
from batchd_server.front.repository import model_states
from batchd_server.front.service import Front
from batchd_server.models.protocol import Model


def model_routes(front: Front) -> APIRouter:
    """Return the routes that describe models."""
    router = raw_router("Open Inference Protocol")

    def named(request: Request) -> tuple[str, Model]:
        name: str = request.path_params["model"]
        return name, front.model(name, request.path_params.get("version"))

    async def all_statistics(request: Request) -> Response:
        """Tell the statistics of all models."""
        return json_response(await front.dispatcher.control("statistics", model=None))

    async def metadata(request: Request) -> Response:
        """Tell the inputs and outputs of a model."""
        name, model = named(request)
        return json_response(model_metadata(name, front.version(name), model))

    async def ready(request: Request) -> Response:
        """Answer 200 where the model takes requests, 503 where it is not loaded."""
        name, _ = named(request)
        state = model_states(front)[name]
        if state.state == "READY":
            return json_response({"name": name, "ready": True})
        reason = f"model {name!r} is {state.state}{': ' + state.reason if state.reason else ''}"
        return not_ready_response(request, reason, name=name)

    async def config(request: Request) -> Response:
        """Tell the configuration of a model in the names of Triton's ModelConfig."""
        name, model = named(request)
        return json_response(model_config(name, front.version(name), model, front.policy(name)))

    async def statistics(request: Request) -> Response:
        """Tell counts and durations of a model, and its latency per batch size."""
        name, _ = named(request)
        return json_response(await front.dispatcher.control("statistics", model=name))

    # before the models: none may be called "stats"
    path = "/v2/models/stats"
    router.add_api_route(path, all_statistics, methods=["GET"], openapi_extra=openapi(path), response_model=None)
    for suffix, endpoint in (("", metadata), ("/ready", ready), ("/config", config), ("/stats", statistics)):
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            path = prefix + suffix
            router.add_api_route(path, endpoint, methods=["GET"], openapi_extra=openapi(path), response_model=None)
    return router
