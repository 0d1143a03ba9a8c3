"""Inference requests and responses of the Open Inference Protocol, in bytes.

A request is prepared once (`PreparedInfer`) and rendered for every attempt, because only the time that is left of its
deadline changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, Unpack

import numpy.typing as npt

from batchd_client.errors import ProtocolError
from batchd_client.json_object import JsonObject, as_list, as_object, member, optional_member, parse_object
from batchd_client.tensor_codec import (
    Array,
    as_array,
    datatype_of,
    decode_binary,
    decode_json,
    encode_binary,
    encode_json,
)
from batchd_client.wire import EncodedRequest, checked_timeout, find_header, model_path

Inputs: TypeAlias = Mapping[str, npt.ArrayLike]
Parameter: TypeAlias = str | int | float | bool

HEADER_LENGTH = "inference-header-content-length"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_OWN_PARAMETERS = {"timeout": "timeout_s", "priority": "priority", "binary_data_output": "binary"}


class ItemOptions(TypedDict, total=False):
    """How an item is to be inferred. Everything may be left out."""

    outputs: Sequence[str] | None
    """Names of the outputs wanted; all where left out."""
    timeout_s: float | None
    """Deadline of the whole call, retries included; the model's SLO where left out."""
    priority: int
    """1 is the highest; 0 leaves it to the model."""
    binary: bool
    """Tensors in binary (the default) or as JSON."""
    parameters: Mapping[str, Parameter] | None
    """Further parameters of the request."""
    model_version: str | None
    """A version of the model; the server's choice where left out."""


class InferOptions(ItemOptions, total=False):
    """How a request is to be inferred. Everything may be left out."""

    request_id: str | None
    """Up to 128 letters, digits, dots, dashes and underscores; a fresh one where left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InferResult:
    """The answer to one inference request.

    Arrays of fixed-size datatypes are read-only views of the response; copy one to write to it. BYTES outputs are
    object arrays of bytes.
    """

    outputs: Mapping[str, Array]
    model_name: str
    model_version: str | None
    request_id: str | None
    parameters: Mapping[str, Any]

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedInfer:
    """A checked inference request whose tensors are encoded; `render` adds the time that is left."""

    path: str
    head: JsonObject
    parameters: Mapping[str, Parameter]
    tensors: Sequence[bytes | memoryview]
    binary: bool

    def render(self, timeout_s: float | None) -> EncodedRequest:
        """Return the request with its deadline `timeout_s` from now, without one for None."""
        parameters = dict(self.parameters)
        if timeout_s is not None:
            parameters["timeout"] = max(1, round(timeout_s * 1e6))  # microseconds; 0 would mean none
        head = {**self.head, "parameters": parameters} if parameters else self.head
        text = json.dumps(head, separators=(",", ":"), allow_nan=False).encode("ascii")
        headers = {"content-type": "application/octet-stream" if self.binary else "application/json"}
        if self.binary:
            headers[HEADER_LENGTH] = str(len(text))
        return EncodedRequest(method="POST", path=self.path, headers=headers, body=b"".join((text, *self.tensors)))


def prepare_infer(model: str, inputs: Inputs, options: ItemOptions, request_id: str | None) -> PreparedInfer:
    """Check a request and encode its tensors. Arrays carry the batch axis first.

    Raises:
        TypeError: an option that does not exist.
        ValueError: what was given cannot be sent.
    """
    unknown = sorted(options.keys() - InferOptions.__annotations__)  # a type checker sees it, an interpreter does not
    if unknown:
        raise TypeError(f"{unknown[0]!r} is not one of the options {', '.join(InferOptions.__annotations__)}")
    if not inputs:
        raise ValueError("an inference request needs at least one input")
    binary = options.get("binary", True)
    head: JsonObject = {}
    if request_id is not None:
        head["id"] = checked_request_id(request_id)
    tensors: list[bytes | memoryview] = []
    head["inputs"] = [_encode_input(name, value, tensors if binary else None) for name, value in inputs.items()]
    outputs = options.get("outputs")
    if outputs is not None:
        head["outputs"] = [{"name": name} for name in outputs]
    return PreparedInfer(
        path=f"{model_path(model, options.get('model_version'))}/infer",
        head=head,
        parameters=_parameters(options, binary),
        tensors=tensors,
        binary=binary,
    )


def _encode_input(name: str, value: npt.ArrayLike, binary_tensors: list[bytes | memoryview] | None) -> JsonObject:
    try:
        array = as_array(value)
        tensor: JsonObject = {"name": name, "shape": list(array.shape), "datatype": datatype_of(array)}
        if binary_tensors is None:
            tensor["data"] = encode_json(array)
        else:
            raw = encode_binary(array)
            binary_tensors.append(raw)
            tensor["parameters"] = {"binary_data_size": len(raw)}
    except ValueError as error:
        raise ValueError(f"input {name!r}: {error}") from error
    return tensor


def _parameters(options: ItemOptions, binary: bool) -> dict[str, Parameter]:
    given = options.get("parameters") or {}
    for name in given:
        if name in _OWN_PARAMETERS:
            raise ValueError(f"parameter {name!r} is given by the argument {_OWN_PARAMETERS[name]!r}")
    parameters = dict(given)
    priority = options.get("priority", 0)
    if priority < 0:
        raise ValueError(f"priority {priority} is negative")
    if priority:
        parameters["priority"] = priority
    if binary:
        parameters["binary_data_output"] = True
    return parameters


def checked_request_id(request_id: str) -> str:
    """Return the id.

    Raises:
        ValueError: it is not fit for a header.
    """
    if not _REQUEST_ID.fullmatch(request_id):
        raise ValueError(f"request id {request_id!r} is not 1 to 128 letters, digits, dots, dashes or underscores")
    return request_id


def encode_infer(model: str, inputs: Inputs, **options: Unpack[InferOptions]) -> EncodedRequest:
    """Encode an inference request that can be sent as often as wanted. Arrays carry the batch axis first.

    Raises:
        ValueError: what was given cannot be sent.
    """
    prepared = prepare_infer(model, inputs, options, options.get("request_id"))
    return prepared.render(checked_timeout(options.get("timeout_s")))


def decode_infer(headers: Mapping[str, str], body: bytes) -> InferResult:
    """Decode the body of a successful inference response, with binary or JSON outputs or both.

    Raises:
        ProtocolError: it cannot be understood.
    """
    head, binary = _split(find_header(headers, HEADER_LENGTH), body)
    outputs: dict[str, Array] = {}
    for value in as_list(head.get("outputs"), "'outputs'"):
        output = as_object(value, "an output")
        name = member(output, "name", str, "an output")
        if name in outputs:
            raise ProtocolError(f"output {name!r} comes twice")
        try:
            outputs[name], binary = _decode_output(output, binary)
        except ProtocolError as error:
            raise ProtocolError(f"output {name!r}: {error}") from None
    if len(binary):
        raise ProtocolError(f"{len(binary)} bytes are left over behind the outputs")
    return InferResult(
        outputs=outputs,
        model_name=member(head, "model_name", str, "the answer"),
        model_version=optional_member(head, "model_version", str, "the answer"),
        request_id=optional_member(head, "id", str, "the answer"),
        parameters=as_object(head.get("parameters") or {}, "'parameters'"),
    )


def _split(header_length: str | None, body: bytes) -> tuple[JsonObject, memoryview]:
    if header_length is None:
        return parse_object(body), memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > len(str(len(body))):
        raise ProtocolError(f"{HEADER_LENGTH} {header_length[:40]!r} does not fit a body of {len(body)} bytes")
    length = int(header_length)
    if length > len(body):
        raise ProtocolError(f"{HEADER_LENGTH} {length} does not fit a body of {len(body)} bytes")
    return parse_object(body[:length]), memoryview(body)[length:]


def _decode_output(output: JsonObject, binary: memoryview) -> tuple[Array, memoryview]:
    """Return the output's array, and what of `binary` belongs to later outputs."""
    datatype = member(output, "datatype", str, "it")
    shape = _shape(output.get("shape"))
    size = as_object(output.get("parameters") or {}, "'parameters'").get("binary_data_size")
    if size is None:
        return decode_json(datatype, shape, output.get("data")), binary
    if type(size) is not int or not 0 <= size <= len(binary):
        raise ProtocolError(f"binary_data_size {size!r} does not fit the {len(binary)} bytes that are left")
    return decode_binary(datatype, shape, binary[:size]), binary[size:]


def _shape(value: Any) -> tuple[int, ...]:
    axes = as_list(value, "'shape'")
    if any(type(axis) is not int or axis < 0 for axis in axes):
        raise ProtocolError(f"{axes!r} is not a shape")
    return tuple(axes)
