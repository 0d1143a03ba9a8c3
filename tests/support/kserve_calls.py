"""Calls a front with the kserve client; runs in the environment that holds it, and knows nothing of batchd."""

from __future__ import annotations

import asyncio
import sys

import numpy as np
from httpx import HTTPStatusError
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(url: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    assert await client.is_server_ready(url) is True
    assert await client.is_server_live(url) is True
    assert await client.is_model_ready(url, "scale") is True

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for binary in (True, False):
        given = InferInput("x", list(x.shape), "FP32")
        given.set_data_from_numpy(x, binary_data=binary)
        request = InferRequest(model_name="scale", infer_inputs=[given], request_id="mine")
        answer = await client.infer(url, request, model_name="scale")
        assert answer.model_name == "scale"
        assert answer.id == "mine"
        np.testing.assert_array_equal(answer.outputs[0].as_numpy(), x * 2)
        np.testing.assert_array_equal(answer.outputs[1].as_numpy(), x.sum(axis=1))

    half = InferInput("x", [1, 2], "FP16")
    half.set_data_from_numpy(np.ones((1, 2), dtype=np.float16), binary_data=True)
    wanted = InferRequest(model_name="identity-fp16", infer_inputs=[half], parameters={"binary_data_output": True})
    answer = await client.infer(url, wanted, model_name="identity-fp16")
    assert answer.outputs[0].as_numpy().dtype == np.float16

    wrong = InferInput("x", [1, 2], "FP64")
    wrong.set_data_from_numpy(np.ones((1, 2)), binary_data=True)
    refusal = None
    try:
        await client.infer(url, InferRequest(model_name="scale", infer_inputs=[wrong]), model_name="scale")
    except HTTPStatusError as error:
        refusal = error
    assert refusal is not None
    assert refusal.response.status_code == 400
    assert "input 'x' must be FP32" in str(refusal), refusal
    await client.close()
    print("all kserve calls were answered")  # noqa: T201


asyncio.run(main(sys.argv[1]))
