"""An infer request as the protocol has it: a JSON document, with the bytes of binary tensors behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchd_server.errors import BadRequest
from batchd_server.front.documents import json_object
from batchd_server.front.oip.parameters import count, flag, parameters_of
from batchd_server.front.oip.tensor_binary import decode_binary
from batchd_server.front.oip.tensor_json import decode_json
from batchd_server.models.spec import NUMPY_DTYPES, Array

HEADER_LENGTH = "Inference-Header-Content-Length"
MOST_AXES = 32
_MOST_ELEMENTS = 2**40


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output that the client asks for. `classification` is how many of the highest values it wants, 0 = all."""

    name: str
    binary: bool
    classification: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """What a client asked, in numpy's terms. `outputs` is None where it asks for all."""

    id: str | None
    tensors: Sequence[tuple[str, Array]]
    outputs: Sequence[RequestedOutput] | None
    binary_output: bool
    timeout_us: int | None
    priority: int


def header_length(value: str | None, body: bytes) -> int | None:
    """Return the length of the JSON document at the head of `body`; None where the whole body is JSON.

    Raises:
        BadRequest: not a number, or more than there is.
    """
    if value is None:
        return None
    text = value.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest(f"{HEADER_LENGTH} must be a number of bytes", field=HEADER_LENGTH)
    length = int(text)
    if length > len(body):
        raise BadRequest(f"{HEADER_LENGTH} is {length}, but the body has {len(body)} bytes", field=HEADER_LENGTH)
    return length


def parse_request(body: bytes, json_length: int | None, *, priority_levels: int) -> ParsedRequest:
    """Parse a request whose first `json_length` bytes are JSON; None = all of them, and no tensor is binary.

    Raises:
        BadRequest: anything that is not as the protocol says; `field` names it.
    """
    view = memoryview(body)
    document = json_object(view[:json_length])
    binary = view[len(view) if json_length is None else json_length :]
    request_id = document.get("id")
    if request_id is not None and type(request_id) is not str:
        raise BadRequest("id must be a string", field="id")
    parameters = parameters_of(document, "")
    if parameters.get("sequence_id"):
        raise BadRequest("sequences are not supported: no model here keeps state", field="parameters.sequence_id")
    binary_output = flag(parameters, "binary_data_output", "") or False
    return ParsedRequest(
        id=request_id,
        tensors=_inputs(document.get("inputs"), binary),
        outputs=_outputs(document.get("outputs"), binary_output),
        binary_output=binary_output,
        timeout_us=count(parameters, "timeout", ""),
        priority=count(parameters, "priority", "", highest=priority_levels) or 0,
    )


def _inputs(declared: object, binary: memoryview) -> list[tuple[str, Array]]:
    if type(declared) is not list or not declared:
        raise BadRequest("inputs must be a list of at least one tensor", field="inputs")
    tensors: list[tuple[str, Array]] = []
    offset = 0
    for index, tensor in enumerate(declared):
        field = f"inputs[{index}]"
        if type(tensor) is not dict:
            raise BadRequest("an input must be an object", field=field)
        name, shape, datatype = _declaration(tensor, field)
        parameters = parameters_of(tensor, f"{field}.")
        if "shared_memory_region" in parameters:
            raise BadRequest("shared memory is not supported", field=f"{field}.parameters.shared_memory_region")
        size = count(parameters, "binary_data_size", f"{field}.")
        if size is None:
            if "data" not in tensor:
                raise BadRequest(
                    f"input {name!r} has neither data nor a binary_data_size parameter", field=f"{field}.data"
                )
            tensors.append((name, decode_json(tensor["data"], datatype, shape, f"{field}.data")))
            continue
        field = f"{field}.parameters.binary_data_size"
        if "data" in tensor:
            raise BadRequest(f"input {name!r} has both data and a binary_data_size parameter", field=field)
        if size > len(binary) - offset:
            raise BadRequest(
                f"input {name!r} declares {size} bytes, but the body has {len(binary) - offset} left for it",
                field=field,
            )
        tensors.append((name, decode_binary(binary[offset : offset + size], datatype, shape, field)))
        offset += size
    if offset != len(binary):
        raise BadRequest(f"{len(binary) - offset} bytes follow the last binary tensor", field="body")
    return tensors


def _declaration(tensor: Mapping[str, Any], field: str) -> tuple[str, list[int], str]:
    name, shape, datatype = tensor.get("name"), tensor.get("shape"), tensor.get("datatype")
    if type(name) is not str or not name:
        raise BadRequest("a tensor must have a name", field=f"{field}.name")
    if type(datatype) is not str or datatype not in NUMPY_DTYPES:
        known = ", ".join(NUMPY_DTYPES)
        raise BadRequest(f"the datatype of {name!r} must be one of {known}", field=f"{field}.datatype")
    field = f"{field}.shape"
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape):
        raise BadRequest(f"the shape of {name!r} must be a list of integers from 0 on", field=field)
    if not 1 <= len(shape) <= MOST_AXES:
        raise BadRequest(
            f"the shape of {name!r} must have 1 to {MOST_AXES} axes, the first of them the batch", field=field
        )
    if math.prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
        raise BadRequest(f"the shape of {name!r} has too many elements", field=field)
    return name, shape, datatype


def _outputs(declared: object, binary_default: bool) -> list[RequestedOutput] | None:
    if declared is None:
        return None
    if type(declared) is not list:
        raise BadRequest("outputs must be a list", field="outputs")
    outputs: dict[str, RequestedOutput] = {}
    for index, output in enumerate(declared):
        field = f"outputs[{index}]"
        if type(output) is not dict:
            raise BadRequest("an output must be an object", field=field)
        name = output.get("name")
        if type(name) is not str or not name:
            raise BadRequest("an output must have a name", field=f"{field}.name")
        if name in outputs:
            raise BadRequest(f"output {name!r} is asked for twice", field=f"{field}.name")
        parameters = parameters_of(output, f"{field}.")
        if "shared_memory_region" in parameters:
            raise BadRequest("shared memory is not supported", field=f"{field}.parameters.shared_memory_region")
        binary = flag(parameters, "binary_data", f"{field}.")
        outputs[name] = RequestedOutput(
            name,
            binary_default if binary is None else binary,
            count(parameters, "classification", f"{field}.") or 0,
        )
    return list(outputs.values()) or None
