"""`POST /v2/models/NAME[/versions/V]/infer`: the hot path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.front.deadlines import TIMEOUT_HEADER, TIMEOUT_SCHEMA, explicit_timeout_s
from batchd_server.front.documents import openapi
from batchd_server.front.oip.raw_request import parse_raw_request
from batchd_server.front.oip.request import (
    HEADER_LENGTH,
    ParsedRequest,
    RequestedOutput,
    header_length,
    parse_request,
)
from batchd_server.front.oip.response import infer_response, rendering_s, requested_outputs
from batchd_server.front.oip.schemas import INFER_REQUEST, INFER_RESPONSE
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors, TensorSpec

_Prepared: TypeAlias = tuple[ParsedRequest, Sequence[tuple[RequestedOutput, TensorSpec]], Sequence[Tensors]]
_PATH = "/v2/models/{model}/infer"
_VERSIONED_PATH = "/v2/models/{model}/versions/{version}/infer"


def infer_routes(front: Front) -> APIRouter:
    """Return the routes that run models."""
    router = raw_router("Open Inference Protocol")

    async def prepared(request: Request, name: str, model: Model) -> _Prepared:
        async with front.body_held(request) as body:  # and let go of before the device process is asked
            json_length = header_length(request.headers.get(HEADER_LENGTH), body)

            def prepare() -> _Prepared:
                if json_length == 0:
                    parsed = parse_raw_request(body, model.inputs)
                else:
                    parsed = parse_request(body, json_length, priority_levels=front.policy(name).priority_levels)
                return parsed, requested_outputs(parsed, model.outputs), front.items(model, parsed.tensors)

            return await front.prepare(name, body, prepare)

    async def infer(request: Request) -> Response:
        """Run a model on one or several items, as JSON or binary tensors."""
        with front.observed("oip") as observation:
            name: str = request.path_params["model"]
            model = front.model(name, request.path_params.get("version"))
            observation.model = name
            parsed, outputs, items = await prepared(request, name, model)
            timeout_s = explicit_timeout_s(
                parsed.timeout_us, request.headers.get(TIMEOUT_HEADER), front.settings.server.max_request_timeout_s
            )
            answer = await front.infer(
                request, observation, items, api="oip", timeout_s=timeout_s, priority=parsed.priority
            )
            return await front.preparation.placed(
                rendering_s(outputs, answer),
                partial(infer_response, name, front.version(name), parsed.id, outputs, answer),
            )

    for path in (_PATH, _VERSIONED_PATH):
        extra = openapi(
            path,
            body=INFER_REQUEST,
            answer=INFER_RESPONSE,
            headers={
                HEADER_LENGTH: {
                    "type": "integer",
                    "minimum": 0,
                    "description": "Bytes of JSON before the binary tensors; 0 = the body is the one input, raw.",
                },
                TIMEOUT_HEADER: TIMEOUT_SCHEMA,
            },
            binary=True,
            errors=(429, 504, 507),
        )
        router.add_api_route(path, infer, methods=["POST"], openapi_extra=extra, response_model=None)
    return router
