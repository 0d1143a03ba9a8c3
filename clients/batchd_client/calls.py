"""Every call that the clients can make: how its request is rendered and its answer read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from batchd_client.embeddings import decode_embeddings, embed_body, encode_embed
from batchd_client.errors import ProtocolError
from batchd_client.exchange import Call, Done, fresh_request_id
from batchd_client.infer_codec import (
    InferResult,
    Inputs,
    ItemOptions,
    Parameter,
    decode_infer,
    prepare_infer,
)
from batchd_client.json_object import JsonObject, parse_object
from batchd_client.metadata import (
    ModelMetadata,
    RepositoryEntry,
    ServerMetadata,
    parse_model_metadata,
    parse_repository_index,
    parse_server_metadata,
)
from batchd_client.tensor_codec import as_array
from batchd_client.wire import Answer, EncodedRequest, model_path

T = TypeVar("T")

PROBE_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 600.0
_NOT_READY = frozenset({400, 404, 503})  # Triton says 400 for a model that it does not know


def infer(model: str, inputs: Inputs, options: ItemOptions, request_id: str | None = None) -> Call[InferResult]:
    """Infer arrays that carry the batch axis first."""
    request_id = fresh_request_id() if request_id is None else request_id
    prepared = prepare_infer(model, inputs, options, request_id)
    return Call(
        render=prepared.render,
        parse=lambda answer: decode_infer(answer.headers, answer.body),
        timeout_s=options.get("timeout_s"),
        request_id=request_id,
    )


def infer_item(model: str, item: Inputs, options: ItemOptions) -> Call[InferResult]:
    """Infer one item, whose arrays carry no batch axis; neither do the outputs.

    Raises:
        TypeError: a request id is given, which several items would share.
    """
    if "request_id" in options:
        raise TypeError("every item has a request id of its own")
    call = infer(model, {name: as_array(value)[np.newaxis] for name, value in item.items()}, options)

    def parse(answer: Answer) -> InferResult:
        return _without_batch_axis(call.parse(answer))

    return replace(call, parse=parse)


def _without_batch_axis(result: InferResult) -> InferResult:
    for name, array in result.outputs.items():
        if array.shape[:1] != (1,):
            raise ProtocolError(f"output {name!r} of one item has shape {list(array.shape)}")
    return replace(result, outputs={name: array.reshape(array.shape[1:]) for name, array in result.outputs.items()})


def embed(
    model: str, texts: str | Sequence[str], dimensions: int | None, timeout_s: float | None
) -> Call[npt.NDArray[np.float32]]:
    """Embed texts."""
    listed = [texts] if isinstance(texts, str) else list(texts)
    body = embed_body(model, listed, dimensions)
    return Call(
        render=lambda left_s: encode_embed(body, left_s),
        parse=lambda answer: decode_embeddings(answer.body, len(listed)),
        timeout_s=timeout_s,
    )


def is_live(timeout_s: float | None) -> Call[bool]:
    """Ask whether the server runs."""
    return _probe("/v2/health/live", "live", timeout_s)


def is_ready(timeout_s: float | None) -> Call[bool]:
    """Ask whether the server takes requests."""
    return _probe("/v2/health/ready", "ready", timeout_s)


def is_model_ready(model: str, model_version: str | None, timeout_s: float | None) -> Call[bool]:
    """Ask whether a model takes requests."""
    return _probe(f"{model_path(model, model_version)}/ready", "ready", timeout_s)


def server_metadata(timeout_s: float | None) -> Call[ServerMetadata]:
    """Ask for the server's name and extensions."""
    return _get("/v2", parse_server_metadata, timeout_s)


def model_metadata(model: str, model_version: str | None, timeout_s: float | None) -> Call[ModelMetadata]:
    """Ask what a model takes and gives."""
    return _get(model_path(model, model_version), parse_model_metadata, timeout_s)


def statistics(model: str | None, model_version: str | None, timeout_s: float | None) -> Call[JsonObject]:
    """Ask for the statistics of one model, or of all."""
    path = "/v2/models/stats" if model is None else f"{model_path(model, model_version)}/stats"
    return _get(path, parse_object, timeout_s)


def status(timeout_s: float | None) -> Call[JsonObject]:
    """Ask for the daemon's state."""
    return _get("/v1/status", parse_object, timeout_s)


def models(timeout_s: float | None) -> Call[tuple[RepositoryEntry, ...]]:
    """Ask for the repository index."""
    return _post("/v2/repository/index", {}, parse_repository_index, timeout_s)


def load_model(model: str, parameters: Mapping[str, Parameter] | None, timeout_s: float | None) -> Call[None]:
    """Have a model loaded."""
    body: JsonObject = {"parameters": dict(parameters)} if parameters else {}
    return _post(f"{_repository_path(model)}/load", body, lambda _: None, timeout_s)


def unload_model(model: str, timeout_s: float | None) -> Call[None]:
    """Have a model unloaded."""
    return _post(f"{_repository_path(model)}/unload", {}, lambda _: None, timeout_s)


def _repository_path(model: str) -> str:
    return model_path(model).replace("/v2/models/", "/v2/repository/models/", 1)


def _probe(path: str, flag: str, timeout_s: float | None) -> Call[bool]:
    def parse(answer: Answer) -> bool:
        # The status decides; servers may leave the body empty.
        return answer.ok and (not answer.body or parse_object(answer.body).get(flag) is not False)

    return Call(
        render=lambda _: EncodedRequest(method="GET", path=path),
        parse=parse,
        timeout_s=timeout_s,
        error_statuses=_NOT_READY,
        unreachable=Done(value=False),
    )


def _get(path: str, parse: Callable[[bytes], T], timeout_s: float | None) -> Call[T]:
    request = EncodedRequest(method="GET", path=path)
    return Call(render=lambda _: request, parse=lambda answer: parse(answer.body), timeout_s=timeout_s)


def _post(path: str, body: JsonObject, parse: Callable[[bytes], T], timeout_s: float | None) -> Call[T]:
    headers = {"content-type": "application/json"}
    request = EncodedRequest(method="POST", path=path, headers=headers, body=json.dumps(body).encode("ascii"))
    return Call(render=lambda _: request, parse=lambda answer: parse(answer.body), timeout_s=timeout_s)
