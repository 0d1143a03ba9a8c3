"""Whatever is sent, the answer is 200 or a 4xx in the protocol's form, and the next request is served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from front_rig import InlineDispatcher, binary_body, input_tensor, settings_for
from hypothesis import given
from hypothesis import strategies as st

from batchd_server.front.app import create_app

_BINARY, _HEADERS = binary_body(
    {
        "id": "1",
        "inputs": [
            input_tensor("a", "INT64", [2, 2], parameters={"binary_data_size": 32}),
            input_tensor("b", "BYTES", [2], parameters={"binary_data_size": 13}),
        ],
        "outputs": [{"name": "text", "parameters": {"binary_data": True}}],
    },
    np.arange(4, dtype="<i8").tobytes(),
    b"\x02\x00\x00\x00hi\x03\x00\x00\x00you",
)
_POSITIONS = st.one_of(  # half of them in the lengths of BYTES elements, which decide what is read next
    st.integers(0, len(_BINARY) - 1), st.sampled_from([len(_BINARY) - back for back in (13, 12, 7, 6)])
)
_KEYS = ["id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "binary_data_size", "timeout"]
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["a", "b", "text", "FP32", "INT64", "BYTES", "BOOL", ""]),
    st.text(max_size=4),
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=25,
)


class Caller:
    """The application on one event loop, called from synchronous tests."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        dispatcher = InlineDispatcher()
        transport = httpx.ASGITransport(app=create_app(settings_for(dispatcher), dispatcher))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://front")

    def post(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return self._runner.run(self._client.post(path, content=content, headers=headers))

    def close(self) -> None:
        self._runner.run(self._client.aclose())


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        caller = Caller(runner)
        stack.callback(caller.close)
        yield caller


def is_well_answered(response: httpx.Response) -> None:
    if response.status_code == 200:
        return
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/json"
    assert isinstance(response.json()["error"], str | dict)


@given(
    edits=st.lists(st.tuples(_POSITIONS, st.integers(0, 20) | st.integers(0, 255)), max_size=3),
    cut=st.just(len(_BINARY)) | st.integers(0, len(_BINARY)),
    extra=st.just(b"") | st.binary(max_size=4),
    length=st.one_of(st.just(_HEADERS["Inference-Header-Content-Length"]), st.integers(-1, 500).map(str)),
)
def test_damaged_binary_requests(
    caller: Caller, edits: list[tuple[int, int]], cut: int, extra: bytes, length: str
) -> None:
    body = bytearray(_BINARY)
    for position, value in edits:
        body[position] = value
    damaged = bytes(body[:cut]) + extra
    headers = {"Inference-Header-Content-Length": length}
    is_well_answered(caller.post("/v2/models/concatenate/infer", damaged, headers))
    assert caller.post("/v2/models/concatenate/infer", _BINARY, _HEADERS).status_code == 200


@given(_JSON)
def test_any_json(caller: Caller, document: Any) -> None:
    body = orjson.dumps(document)
    for path in ("/v2/models/concatenate/infer", "/v2/repository/index", "/v2/repository/models/scale/load"):
        is_well_answered(caller.post(path, body))
    is_well_answered(caller.post("/v1/embeddings", body))


@given(
    tensor=st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["a", "b", "c"]) | _LEAVES,
            "datatype": st.sampled_from(["INT64", "BYTES", "FP32", "FP16"]) | _LEAVES,
            "shape": st.lists(st.integers(-1, 3), max_size=3) | _JSON,
            "data": st.lists(st.integers(0, 3), max_size=4) | _JSON,
            "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "shared_memory_region"]), _LEAVES)
            | _LEAVES,
        },
    ),
    outputs=st.lists(st.fixed_dictionaries({"name": st.just("text") | _LEAVES}, optional={"parameters": _JSON})),
    parameters=st.dictionaries(
        st.sampled_from(["timeout", "priority", "binary_data_output", "sequence_id", "k"]), st.integers(0, 9) | _LEAVES
    ),
)
def test_nearly_valid_json(caller: Caller, tensor: Any, outputs: Any, parameters: Any) -> None:
    document = {"inputs": [tensor], "outputs": outputs, "parameters": parameters}
    response = caller.post("/v2/models/concatenate/infer", orjson.dumps(document))
    # a timeout of some microseconds is valid, and missed
    if response.status_code == 504:
        assert 0 < parameters["timeout"] < 10_000_000
        return
    is_well_answered(response)


@given(st.fixed_dictionaries({"model": st.just("embedder") | _LEAVES, "input": _JSON}, optional={"dimensions": _JSON}))
def test_nearly_valid_embeddings(caller: Caller, document: Any) -> None:
    is_well_answered(caller.post("/v1/embeddings", orjson.dumps(document)))


@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "identity"]))
def test_any_bytes(caller: Caller, body: bytes, encoding: str) -> None:
    headers = {"Content-Encoding": encoding} if encoding else {}
    is_well_answered(caller.post("/v2/models/scale/infer", body, headers))
    is_well_answered(caller.post("/v2/models/scale/infer", body, {**headers, "Inference-Header-Content-Length": "0"}))
    is_well_answered(caller.post("/v1/embeddings", body, headers))
