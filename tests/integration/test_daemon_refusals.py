"""Hostile and mistaken requests to a real daemon under traffic: a 4xx that names the field, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from daemon_rig import daemon

from batchd_client import AsyncClient, encode_infer
from batchd_server.models.digit_lines.scans import scan_lines

INFER = "/v2/models/digit-lines/infer"
MAX_BODY = 4 * 2**20


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = f"""
[server]
max_body_bytes = {MAX_BODY}
[models.digit-lines]
entrypoint = "batchd_server.models.digit_lines:DigitLines"
batching.slo_ms = 60000
"""
    with daemon(tmp_path_factory.mktemp("daemon"), config) as running:
        yield running.url


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": [0.5] * 64} | changes


def as_json(*tensors: dict[str, Any], **rest: Any) -> tuple[dict[str, str], bytes]:
    return {}, json.dumps({"inputs": list(tensors), **rest}).encode()


def as_binary(header: dict[str, Any], payload: bytes, length: int | None = None) -> tuple[dict[str, str], bytes]:
    head = json.dumps(header).encode()
    return {"Inference-Header-Content-Length": str(len(head) if length is None else length)}, head + payload


def binary_tensor(size: int, **changes: Any) -> dict[str, Any]:
    described = {"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "parameters": {"binary_data_size": size}}
    return {"inputs": [described | changes]}


BAD: dict[str, tuple[tuple[dict[str, str], bytes], int, str]] = {
    "wrong datatype": (as_json(tensor(datatype="INT64")), 400, "inputs[0]"),
    "unknown datatype": (as_json(tensor(datatype="FLOAT")), 400, "image"),
    "wrong fixed axis": (as_json(tensor(shape=[1, 4, 16])), 400, "image"),
    "wrong rank": (as_json(tensor(shape=[8, 8])), 400, "image"),
    "negative shape": (as_json(tensor(shape=[1, 8, -8])), 400, "image"),
    "shape that does not match the data": (as_json(tensor(shape=[1, 8, 16])), 400, "inputs[0]"),
    "shape of a million million elements": (as_json(tensor(shape=[1000000, 8, 1000000])), 400, "image"),
    "width that is no multiple of 8": (as_json(tensor(shape=[1, 8, 7], data=[0.5] * 56)), 400, "width"),
    "too wide": (as_json(tensor(shape=[1, 8, 264], data=[0.5] * 8 * 264)), 400, "image"),
    "unknown name": (as_json(tensor(name="picture")), 400, "picture"),
    "missing input": (as_json(), 400, "inputs"),
    "input given twice": (as_json(tensor(), tensor()), 400, "image"),
    "NaN": (as_binary(binary_tensor(256), np.full(64, np.nan, np.float32).tobytes()), 400, "image"),
    "infinity": (as_binary(binary_tensor(256), np.full(64, np.inf, np.float32).tobytes()), 400, "image"),
    "text for numbers": (as_json(tensor(data=["a"] * 64)), 400, "inputs[0].data"),
    "truncated binary": (as_binary(binary_tensor(256), b"\0" * 100), 400, "image"),
    "trailing bytes": (as_binary(binary_tensor(256), b"\0" * 300), 400, ""),
    "lying binary size": (as_binary(binary_tensor(128), b"\0" * 128), 400, "inputs[0].parameters.binary_data_size"),
    "negative binary size": (as_binary(binary_tensor(-1), b"\0" * 256), 400, "binary_data_size"),
    "header length beyond the body": (as_binary(binary_tensor(256), b"\0" * 256, length=10**9), 400, ""),
    "header length that is no number": (
        ({"Inference-Header-Content-Length": "many"}, b"{}"),
        400,
        "inference-header-content-length",
    ),
    "invalid JSON": (({}, b"{nonsense"), 400, ""),
    "empty body": (({}, b""), 400, ""),
    "JSON that is no object": (({}, b"[]"), 400, ""),
    "deeply nested JSON": (({}, b"[" * 200_000), 400, ""),
    "invalid UTF-8": (({}, b'{"inputs": "\xff\xfe"}'), 400, ""),
    "unsupported content encoding": (({"Content-Encoding": "br"}, b"{}"), 415, "content-encoding"),
    "gzip that is none": (({"Content-Encoding": "gzip"}, b"{}"), 400, "content-encoding"),
    "a body over the limit": (({}, b"x" * (MAX_BODY + 1)), 413, ""),
    "unknown output": (as_json(tensor(), outputs=[{"name": "poem"}]), 400, "poem"),
    "bad timeout": (as_json(tensor(), parameters={"timeout": "soon"}), 400, "timeout"),
    "bad priority": (as_json(tensor(), parameters={"priority": -3}), 400, "priority"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_in_the_protocols_form(url: str, name: str) -> None:
    (headers, body), status, mentioned = BAD[name]
    answer = httpx.post(url + INFER, content=body, headers=headers, timeout=30)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    problem = answer.json()
    assert mentioned.lower() in problem["error"].lower()
    assert "Traceback" not in answer.text


def test_unknown_models_and_versions_are_not_found(url: str) -> None:
    for path in ("/v2/models/nope/infer", "/v2/models/digit-lines/versions/7/infer"):
        answer = httpx.post(url + path, json={"inputs": [tensor()]}, timeout=60)
        assert answer.status_code == 404
        assert "error" in answer.json()


def test_a_hundred_megabytes_are_refused_without_being_buffered(url: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"\0" * 2**20

    try:
        answer = httpx.post(url + INFER, content=endless(), timeout=30)
    except httpx.TransportError:
        return  # the server closed the connection on what it had refused: as good
    assert answer.status_code == 413


def test_neighbours_of_bad_requests_get_the_right_answers(url: str) -> None:
    lines = scan_lines(21, 60)
    expected_count = len(lines)

    async def run() -> int:
        async with AsyncClient(url) as good, httpx.AsyncClient(timeout=60) as bad:
            small = [(headers, body) for (headers, body), status, _ in BAD.values() if len(body) < MAX_BODY]
            attacks = [bad.post(url + INFER, content=body, headers=headers) for headers, body in small * 3]
            wanted = [good.infer("digit-lines", {"image": image[None]}) for image, _ in lines]
            refused, answers = await asyncio.gather(asyncio.gather(*attacks), asyncio.gather(*wanted))
            assert all(400 <= answer.status_code < 500 for answer in refused)
            return sum(
                answer["digits"][0].shape == np.asarray(labels).shape
                for answer, (_, labels) in zip(answers, lines, strict=True)
            )

    assert asyncio.run(run()) == expected_count


def test_the_daemon_still_serves_after_all_that(url: str) -> None:
    image, labels = scan_lines(3, 1)[0]
    request = encode_infer("digit-lines", {"image": image[None]})
    answer = httpx.post(url + request.path, content=request.body, headers=dict(request.headers), timeout=60)
    assert answer.status_code == 200
    assert httpx.get(url + "/v2/health/ready", timeout=60).status_code == 200
    assert len(labels) == image.shape[1] // 8
