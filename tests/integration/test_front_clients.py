"""Clients that no one here wrote, unmodified, against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from front_rig import InlineDispatcher, serving

from batchd_server.errors import QueueFull

KSERVE_PYTHON = Path(
    os.environ.get("BATCHD_KSERVE_PYTHON", Path(__file__).parents[2] / ".venv-kserve" / "bin" / "python")
)
KSERVE_CALLS = Path(__file__).parents[1] / "support" / "kserve_calls.py"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


# ---- tritonclient ----------------------------------------------------------------------------------------------------


@pytest.fixture
def triton(address: str) -> Iterator[Any]:
    import tritonclient.http as triton_http

    with triton_http.InferenceServerClient(address) as client:
        yield client


def triton_input(name: str, array: Any, datatype: str, **kwargs: Any) -> Any:
    import tritonclient.http as triton_http

    given = triton_http.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, **kwargs)
    return given


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_triton_infers(triton: Any, binary_in: bool, binary_out: bool, compression: str | None) -> None:
    import tritonclient.http as triton_http

    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    result = triton.infer(
        "scale",
        [triton_input("x", x, "FP32", binary_data=binary_in)],
        model_version="3",
        outputs=[triton_http.InferRequestedOutput("y", binary_data=binary_out)],
        request_id="7",
        priority=1,
        timeout=5_000_000,
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
        parameters={"custom": 1},
    )
    np.testing.assert_array_equal(result.as_numpy("y"), x * 2)
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        ("BOOL", np.bool_),
        ("UINT8", np.uint8),
        ("INT16", np.int16),
        ("UINT32", np.uint32),
        ("INT64", np.int64),
        ("FP16", np.float16),
        ("FP64", np.float64),
    ],
)
def test_triton_sends_every_kind_of_number(triton: Any, datatype: str, dtype: type[np.generic]) -> None:
    x = np.array([[0, 1, 1, 0]]).astype(dtype)
    result = triton.infer(f"identity-{datatype.lower()}", [triton_input("x", x, datatype)])
    assert result.as_numpy("y").dtype == x.dtype
    np.testing.assert_array_equal(result.as_numpy("y"), x)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_sends_texts(triton: Any, binary: bool) -> None:
    x = np.array([[b"a text", "\u00e4".encode(), b""]], dtype=object)
    result = triton.infer("identity-bytes", [triton_input("x", x, "BYTES", binary_data=binary)])
    assert result.as_numpy("y").tolist() == x.tolist()


def test_triton_classifies(triton: Any) -> None:
    import tritonclient.http as triton_http

    x = np.array([[1, 3, 2]], dtype=np.float32)
    wanted = [triton_http.InferRequestedOutput("y", class_count=2)]
    result = triton.infer("scale", [triton_input("x", x, "FP32")], outputs=wanted)
    assert result.as_numpy("y").tolist() == [[b"6.000000:1", b"4.000000:2"]]


def test_triton_manages_models(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    assert triton.get_model_metadata("scale")["inputs"][0]["shape"] == [-1, -1]
    assert triton.get_model_config("scale", "3")["max_batch_size"] == 64
    assert triton.get_inference_statistics("scale")["model_stats"][0]["name"] == "scale"
    assert len(triton.get_inference_statistics()["model_stats"]) > 1
    triton.unload_model("identity-int8")
    assert not triton.is_model_ready("identity-int8")
    assert {"name": "identity-int8", "version": "3", "state": "UNAVAILABLE", "reason": ""} in (
        triton.get_model_repository_index()
    )
    triton.load_model("identity-int8")
    assert triton.is_model_ready("identity-int8", "3")


def test_triton_shows_our_messages(triton: Any) -> None:
    from tritonclient.utils import InferenceServerException

    x = np.ones((1, 2), dtype=np.float64)
    with pytest.raises(InferenceServerException, match="input 'x' must be FP32") as wrong:
        triton.infer("scale", [triton_input("x", x, "FP64")])
    assert wrong.value.status() == "400"
    with pytest.raises(InferenceServerException, match="nobody"):
        triton.get_model_metadata("nobody")


# ---- kserve ----------------------------------------------------------------------------------------------------------


@pytest.mark.kserve
@pytest.mark.skipif(
    not KSERVE_PYTHON.exists(),
    reason="no environment with the kserve client: set BATCHD_KSERVE_PYTHON to its interpreter",
)
def test_kserve_infers_and_asks(address: str) -> None:
    done = subprocess.run(
        [KSERVE_PYTHON, KSERVE_CALLS, f"http://{address}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all kserve calls were answered"


# ---- openai ----------------------------------------------------------------------------------------------------------


def openai_client(address: str, **kwargs: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", **kwargs)


@pytest.mark.parametrize("given", ["abc", ["abc", "de"], [1, 2, 3], [[1, 2], [3]]])
def test_openai_embeds(address: str, given: Any) -> None:
    with openai_client(address, max_retries=0) as client:
        decoded = client.embeddings.create(model="embedder", input=given)  # asks for base64 by itself
        floats = client.embeddings.create(model="embedder", input=given, encoding_format="float")
    assert len(decoded.data) == (2 if isinstance(given, list) and not isinstance(given[0], int) else 1)
    for one, other in zip(decoded.data, floats.data, strict=True):
        assert len(one.embedding) == 4
        np.testing.assert_allclose(one.embedding, other.embedding, rtol=1e-6)
    assert decoded.usage.prompt_tokens == floats.usage.total_tokens > 0


def test_openai_lists_models_and_raises_typed_errors(address: str) -> None:
    with openai_client(address, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["embedder"]
        assert client.models.retrieve("embedder").owned_by == "batchd"
        with pytest.raises(openai.NotFoundError) as missing:
            client.embeddings.create(model="nobody", input="a")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as empty:
            client.embeddings.create(model="embedder", input="")
        assert empty.value.param == "input[0]"


def test_openai_comes_back_when_it_is_told_to() -> None:
    dispatcher = InlineDispatcher(refusal=QueueFull("full", retry_after_s=0.05))
    with serving(dispatcher) as address, openai_client(address, max_retries=2) as client:
        with pytest.raises(openai.RateLimitError):
            client.embeddings.create(model="embedder", input="a")
        assert len(dispatcher.requests) == 3


# ---- plain HTTP ------------------------------------------------------------------------------------------------------


def test_a_chunked_body_over_the_limit_is_413_and_the_connection_lives_on() -> None:
    with serving(max_body_bytes=100_000) as address, closing(HTTPConnection(address, timeout=20)) as connection:
        chunks = (b" " * 16_384 for _ in range(12))
        connection.request("POST", "/v2/models/scale/infer", body=chunks, encode_chunked=True)
        refusal = connection.getresponse()
        assert refusal.status == 413
        assert json.loads(refusal.read())["field"] == "body"
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().status == 200


def test_a_client_that_hangs_up_frees_its_work() -> None:
    dispatcher = InlineDispatcher(held=asyncio.Event())
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}'
    with serving(dispatcher) as address:
        with closing(HTTPConnection(address, timeout=20)) as connection:
            connection.request("POST", "/v2/models/scale/infer", body=body)
            assert dispatcher.seen.wait(20)
        assert dispatcher.abandoned.wait(20)
