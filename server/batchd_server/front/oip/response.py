"""An infer response as the protocol has it: JSON, with the bytes of binary outputs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from batchd_server.errors import BadRequest
from batchd_server.front.dispatcher import InferenceAnswer
from batchd_server.front.oip.classification import classify, classifying_s
from batchd_server.front.oip.request import HEADER_LENGTH, ParsedRequest, RequestedOutput
from batchd_server.front.oip.tensor_binary import encode_binary
from batchd_server.front.oip.tensor_json import encode_json
from batchd_server.models.spec import Array, TensorSpec


def requested_outputs(request: ParsedRequest, specs: Sequence[TensorSpec]) -> list[tuple[RequestedOutput, TensorSpec]]:
    """Return what is to be answered, in the order in which the client asked, else the model's.

    Raises:
        BadRequest: an output that the model does not have, or that cannot go as JSON. Found before anything runs.
    """
    known = {spec.name: spec for spec in specs}
    if request.outputs is None:
        wanted = [(RequestedOutput(spec.name, request.binary_output), spec) for spec in specs]
    else:
        unknown = next((output.name for output in request.outputs if output.name not in known), None)
        if unknown is not None:
            raise BadRequest(f"unknown output {unknown!r}; this model gives {', '.join(known)}", field="outputs")
        wanted = [(output, known[output.name]) for output in request.outputs]
    for output, spec in wanted:
        if spec.datatype == "FP16" and not output.binary and not output.classification:
            raise BadRequest(
                f"output {output.name!r} is FP16, which has no JSON form; ask for binary data", field="outputs"
            )
    return wanted


def rendering_s(outputs: Sequence[tuple[RequestedOutput, TensorSpec]], answer: InferenceAnswer) -> float:
    """Return about how many seconds `infer_response` spends on what goes element by element."""
    return sum(
        classifying_s(np.size(tensors[spec.name]), output.classification)
        for output, spec in outputs
        if output.classification
        for tensors in answer.outputs
    )


def infer_response(
    model: str,
    version: str,
    request_id: str | None,
    outputs: Sequence[tuple[RequestedOutput, TensorSpec]],
    answer: InferenceAnswer,
) -> Response:
    """Render `answer`: `application/json`, or `application/octet-stream` where some output is binary.

    Raises:
        BadRequest: the items' outputs differ in shape, or hold what JSON cannot say.
    """
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output, spec in outputs:
        array = _stacked(answer, spec)
        datatype = spec.datatype
        if output.classification:
            array, datatype = classify(array, output.classification, spec.name), "BYTES"
        tensor: dict[str, Any] = {"name": spec.name, "shape": array.shape, "datatype": datatype}
        if output.binary:
            blob = encode_binary(array)
            blobs.append(blob)
            tensor["parameters"] = {"binary_data_size": len(blob)}
        else:
            tensor["data"] = encode_json(array, datatype, spec.name)
        described.append(tensor)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request_id is not None:
        document["id"] = request_id
    timings = answer.timings
    if timings:
        document["parameters"] = {
            "batch_size": max(timing.batch_size for timing in timings),
            "queue_ms": round(max(timing.queue_s for timing in timings) * 1e3, 3),
            "compute_ms": round(max(timing.compute_s for timing in timings) * 1e3, 3),
        }
    document["outputs"] = described
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return Response(header, media_type="application/json")
    return Response(
        b"".join((header, *blobs)),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(header))},
    )


def _stacked(answer: InferenceAnswer, spec: TensorSpec) -> Array:
    """Join one output of all items along a new batch axis."""
    arrays = [np.asarray(tensors[spec.name], dtype=spec.dtype) for tensors in answer.outputs]
    if len(arrays) == 1:
        return arrays[0][np.newaxis]
    if any(array.shape != arrays[0].shape for array in arrays):
        raise BadRequest(
            f"output {spec.name!r} differs in shape between the items of this request; send them one by one",
            field="outputs",
            code="ragged_output",
        )
    return np.stack(arrays)
