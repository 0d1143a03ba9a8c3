"""`POST /v1/embeddings`: text to vectors, in the form that OpenAI's clients speak."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from batchd_server.errors import BadRequest, NotFound
from batchd_server.front.deadlines import TIMEOUT_HEADER, TIMEOUT_SCHEMA, explicit_timeout_s
from batchd_server.front.dispatcher import InferenceAnswer
from batchd_server.front.documents import json_object, openapi
from batchd_server.front.items import check_num_items, prepared_items
from batchd_server.front.openai.embeddings_request import (
    LARGEST_TOKEN,
    MOST_INPUTS,
    EmbeddingsRequest,
    parse_embeddings_request,
)
from batchd_server.front.raw_route import raw_router
from batchd_server.front.service import Front
from batchd_server.models.protocol import Model, TextEmbedder
from batchd_server.models.spec import Array, Tensors

_PATH = "/v1/embeddings"
_TEXT = {"type": "string", "minLength": 1}
_TOKEN = {"type": "integer", "minimum": 0, "maximum": LARGEST_TOKEN}
_INPUTS = {"minItems": 1, "maxItems": MOST_INPUTS}
_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["model", "input"],
    "properties": {
        "model": _TEXT,
        "input": {
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, **_INPUTS},
                {"type": "array", "items": _TOKEN, "minItems": 1},
                {"type": "array", "items": {"type": "array", "items": _TOKEN, "minItems": 1}, **_INPUTS},
            ]
        },
        "encoding_format": {"type": ["string", "null"], "enum": ["float", "base64", None]},
        "dimensions": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "Only the model's own number is taken.",
        },
        "user": {"description": "Not used."},
    },
}


def embedding_routes(front: Front) -> APIRouter:
    """Return the embeddings route."""
    router = raw_router("OpenAI")

    async def embeddings(request: Request) -> Response:
        """Embed texts or token ids."""
        with front.observed("openai") as observation:
            async with front.body_held(request) as body:
                asked = parse_embeddings_request(json_object(body))
                try:
                    model = front.model(asked.model)
                except NotFound as error:
                    raise NotFound(error.message, field="model", code="model_not_found") from error
                observation.model = asked.model
                timeout_s = explicit_timeout_s(
                    None, request.headers.get(TIMEOUT_HEADER), front.settings.server.max_request_timeout_s
                )
                embedder = _embedder(model, asked)

                def prepare() -> tuple[Sequence[Tensors], int]:
                    items = embedding_items(model, embedder, asked, front.settings.server.max_items_per_request)
                    return items, sum(embedder.num_tokens(item) for item in items)

                items, num_tokens = await front.prepare(asked.model, body, prepare)
            answer = await front.infer(request, observation, items, api="openai", timeout_s=timeout_s)
            return _response(asked, embedder, answer, num_tokens)

    extra = openapi(_PATH, body=_REQUEST, headers={TIMEOUT_HEADER: TIMEOUT_SCHEMA}, errors=(404, 429, 504, 507))
    router.add_api_route(_PATH, embeddings, methods=["POST"], openapi_extra=extra, response_model=None)
    return router


def _embedder(model: Model, asked: EmbeddingsRequest) -> TextEmbedder:
    if not isinstance(model, TextEmbedder):
        raise BadRequest(f"model {asked.model!r} does not embed text", field="model", code="model_not_supported")
    embedder = cast(TextEmbedder, model)
    if asked.dimensions is not None:
        own = next((spec.shape for spec in model.outputs if spec.name == embedder.embedding_output), ())
        if own != (asked.dimensions,):
            raise BadRequest(
                f"model {asked.model!r} cannot shorten its embeddings of {list(own)} dimensions", field="dimensions"
            )
    return embedder


def embedding_items(model: Model, embedder: TextEmbedder, asked: EmbeddingsRequest, limit: int) -> list[Tensors]:
    """Return the items of a request, preprocessed, `limit` of them at most.

    Raises:
        BadRequest: an entry does not fit; `field` names it.
        TooLarge: more items than that.
    """
    check_num_items(len(asked.texts) or len(asked.tokens), limit, "input")
    name = embedder.embedding_input if asked.texts else embedder.token_input
    given: Iterator[Array] = (
        (np.array([text.encode()], dtype=object) for text in asked.texts)
        if asked.texts
        else (np.array([tokens], dtype=np.int64) for tokens in asked.tokens)
    )
    items: list[Tensors] = []
    for index, array in enumerate(given):  # one by one: tokens differ in length, and an error names its entry
        try:
            items += prepared_items(model, [(name, array)], limit, first=index)
        except BadRequest as error:
            raise BadRequest(error.message, field=f"input[{index}]") from error
    return items


def _response(asked: EmbeddingsRequest, embedder: TextEmbedder, answer: InferenceAnswer, num_tokens: int) -> Response:
    vectors = [
        np.ascontiguousarray(tensors[embedder.embedding_output], dtype=np.dtype("<f4")) for tensors in answer.outputs
    ]
    document = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.tobytes()).decode() if asked.base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": asked.model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
