"""Inference requests and responses in bytes, as the Open Inference Protocol and its real clients have them."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from batchd_client import EncodedRequest, InferResult, ProtocolError, decode_infer, encode_infer

LENGTH = "Inference-Header-Content-Length"
OUTPUT = {"name": "y", "datatype": "FP32", "shape": [2]}


def head_of(request: EncodedRequest) -> dict[str, Any]:
    length = request.headers.get("inference-header-content-length")
    head: dict[str, Any] = json.loads(request.body if length is None else request.body[: int(length)])
    return head


def response(head: dict[str, Any], tail: bytes = b"", length: int | None = None) -> tuple[dict[str, str], bytes]:
    text = json.dumps({"model_name": "m", **head}).encode()
    return {LENGTH: str(len(text) if length is None else length)}, text + tail


def test_a_binary_request_is_json_followed_by_the_tensors_in_order() -> None:
    request = encode_infer(
        "m/1", {"a": np.ones((1, 2), np.float32), "b": [["x"]]}, timeout_s=0.05, priority=2, parameters={"k": 1}
    )
    assert (request.method, request.path) == ("POST", "/v2/models/m%2F1/infer")
    assert request.headers["content-type"] == "application/octet-stream"
    assert head_of(request) == {
        "inputs": [
            {"name": "a", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "b", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}},
        ],
        "parameters": {"k": 1, "priority": 2, "binary_data_output": True, "timeout": 50000},
    }
    assert request.body.endswith(np.ones(2, np.float32).tobytes() + b"\x01\0\0\0x")


def test_a_json_request_has_no_binary_part_and_asks_for_none() -> None:
    request = encode_infer(
        "m", {"a": np.array([[1, 2]])}, binary=False, outputs=["y"], model_version="3", request_id="r1"
    )
    assert request.path == "/v2/models/m/versions/3/infer"
    assert request.headers == {"content-type": "application/json"}
    assert head_of(request) == {
        "id": "r1",
        "inputs": [{"name": "a", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}],
        "outputs": [{"name": "y"}],
    }


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({}, {}, "at least one input"),
        ({"a": np.zeros(1, complex)}, {}, "input 'a'"),
        ({"a": np.zeros(1, np.float16)}, {"binary": False}, "input 'a'.*binary"),
        ({"a": [1]}, {"timeout_s": 0}, "timeout_s"),
        ({"a": [1]}, {"timeout_s": float("nan")}, "timeout_s"),
        ({"a": [1]}, {"priority": -1}, "priority"),
        ({"a": [1]}, {"parameters": {"timeout": 5}}, "argument 'timeout_s'"),
        ({"a": [1]}, {"request_id": "a\r\nb"}, "request id"),
        ({"a": [1]}, {"model_version": ".."}, "version"),
    ],
)
def test_what_can_never_be_sent_is_a_value_error(
    inputs: dict[str, Any], options: dict[str, Any], message: str | None
) -> None:
    with pytest.raises(ValueError, match=message):
        encode_infer("m", inputs, **options)


def test_a_misspelt_option_is_not_ignored() -> None:
    with pytest.raises(TypeError, match="'timeout' is not one of the options"):
        encode_infer("m", {"a": [1]}, timeout=5)  # type: ignore[call-arg]


def test_binary_and_json_outputs_may_stand_side_by_side() -> None:
    head = {
        "model_version": "7",
        "id": "r",
        "parameters": {"queue_ms": 1.5},
        "outputs": [
            {**OUTPUT, "parameters": {"binary_data_size": 8}},
            {**OUTPUT, "name": "z", "data": [3, 4.5]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}},
        ],
    }
    result = decode_infer(*response(head, np.array([1, 2], np.float32).tobytes() + b"\x02\0\0\0hi"))
    assert isinstance(result, InferResult)
    assert (result.model_name, result.model_version, result.request_id) == ("m", "7", "r")
    assert result.parameters == {"queue_ms": 1.5}
    assert {name: array.tolist() for name, array in result.outputs.items()} == {
        "y": [1, 2],
        "z": [3, 4.5],
        "s": [b"hi"],
    }
    assert result["y"].dtype == np.float32


def test_a_plain_json_response_needs_no_header() -> None:
    result = decode_infer({}, response({"outputs": [{**OUTPUT, "data": [1, 2]}]})[1])
    assert result["y"].tolist() == [1, 2]


BINARY = {**OUTPUT, "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        ({}, b"\xff\xfe"),
        ({}, b"[]"),
        ({}, b"[" * 100_000),
        ({}, b"{}"),
        ({}, b'{"outputs": []}'),
        ({LENGTH: "x"}, b"{}"),
        ({LENGTH: "-1"}, b"{}"),
        ({LENGTH: "3"}, b"{}"),
        ({LENGTH: "9" * 5000}, b"{}"),
        ({LENGTH: "\u0662"}, b"{}"),
        response({"outputs": "y"}),
        response({"outputs": [1]}),
        response({"outputs": [{}]}),
        response({"outputs": [{**OUTPUT, "data": [1, 2]}] * 2}),
        response({"outputs": [{**OUTPUT, "name": 3, "data": [1, 2]}]}),
        response({"outputs": [OUTPUT]}),
        response({"outputs": [{**OUTPUT, "shape": [-1], "data": []}]}),
        response({"outputs": [{**OUTPUT, "shape": [True], "data": [1]}]}),
        response({"outputs": [{**OUTPUT, "parameters": [], "data": [1]}]}),
        response({"outputs": [BINARY]}),
        response({"outputs": [BINARY]}, b"\0" * 7),
        response({"outputs": [BINARY]}, b"\0" * 9),
        response({"outputs": [{**OUTPUT, "parameters": {"binary_data_size": -8}}]}, b"\0" * 8),
        response({"outputs": [{**OUTPUT, "parameters": {"binary_data_size": 8.0}}]}, b"\0" * 8),
        response({"outputs": [BINARY]}, b"\0" * 8, length=10),
        response({"model_name": 1, "outputs": []}),
        response({"id": 1, "outputs": []}),
    ],
)
def test_a_response_that_cannot_be_understood_is_a_protocol_error(headers: dict[str, str], body: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_infer(headers, body)


def test_the_body_equals_what_the_triton_client_sends() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        triton = pytest.importorskip("tritonclient.http")
    arrays: dict[str, npt.NDArray[Any]] = {
        "a": np.arange(6, dtype=np.int64).reshape(2, 3),
        "h": np.array([[0.5]], np.float16),
        "s": np.array([[b"x", "\u00e9".encode()]], object),
        "b": np.array([True]),
    }
    names = {"a": "INT64", "h": "FP16", "s": "BYTES", "b": "BOOL"}
    theirs = [triton.InferInput(name, list(array.shape), names[name]) for name, array in arrays.items()]
    for tensor, array in zip(theirs, arrays.values(), strict=True):
        tensor.set_data_from_numpy(array)
    body, length = triton.InferenceServerClient.generate_request_body(theirs, request_id="r", priority=3, timeout=250)
    ours = encode_infer("m", arrays, request_id="r", priority=3, timeout_s=250e-6)
    assert head_of(ours) == json.loads(body[:length])
    assert ours.body[int(ours.headers["inference-header-content-length"]) :] == body[length:]
