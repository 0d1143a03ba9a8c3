"""`GET /v1/models[/ID]`: the models that `/v1/embeddings` serves."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import NotFound
from batchd_server.front.documents import json_response, openapi
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.models.protocol import TextEmbedder


def model_list_routes(front: Front) -> APIRouter:
    """Return the routes that list embedding models."""
    router = raw_router("OpenAI")

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": int(front.started), "owned_by": "batchd"}

    def embedders() -> list[str]:
        return [name for name in front.settings.models if isinstance(front.dispatcher.model(name), TextEmbedder)]

    async def models(request: Request) -> Response:
        """List the models that embed text."""
        return json_response({"object": "list", "data": [described(name) for name in embedders()]})

    async def model(request: Request) -> Response:
        """Describe one model that embeds text."""
        name: str = request.path_params["model"]
        if name not in embedders():
            raise NotFound(f"there is no embedding model {name!r}", field="model", code="model_not_found")
        return json_response(described(name))

    for path, endpoint in (("/v1/models", models), ("/v1/models/{model}", model)):
        router.add_api_route(path, endpoint, methods=["GET"], openapi_extra=openapi(path), response_model=None)
    return router
