"""Embeddings, probes and management through both clients: what they send, and what they make of the answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from client_rig import Handler, VirtualTime, echo

from batchd_client import (
    ModelMetadata,
    ProtocolError,
    RepositoryEntry,
    ServerMetadata,
    TensorMetadata,
)


def embedding(index: int, values: list[float], encode: bool) -> dict[str, Any]:
    raw = np.array(values, "<f4").tobytes()
    return {"index": index, "embedding": base64.b64encode(raw).decode() if encode else values}


@pytest.mark.parametrize("encode", [True, False])
def test_embeddings_come_as_rows_in_the_order_of_the_texts(connect: Callable[..., Any], encode: bool) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"data": [embedding(1, [3, 4], encode), embedding(0, [1, 2], encode)]})

    rows = connect(handler).embed("m", ["a", "b"], dimensions=2, timeout_s=0.25)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1, 2], [3, 4]]
    assert seen[0].url.path == "/prefix/v1/embeddings"
    assert seen[0].headers["x-request-timeout-ms"] == "250"
    assert json.loads(seen[0].content) == {
        "model": "m",
        "input": ["a", "b"],
        "encoding_format": "base64",
        "dimensions": 2,
    }


def test_one_text_makes_one_row(connect: Callable[..., Any]) -> None:
    rows = connect(lambda _: httpx.Response(200, json={"data": [embedding(0, [1, 2, 3], True)]})).embed("m", "text")
    assert rows.shape == (1, 3)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        [embedding(0, [1], True)],
        [embedding(0, [1], True), embedding(0, [1], True)],
        [embedding(0, [1], True), embedding(2, [1], True)],
        [embedding(0, [1], True), embedding(1, [1], True), embedding(1, [2], True)],
        [embedding(0, [1], True), embedding(1, [1, 2], True)],
        [embedding(0, [1], True), {"index": 1, "embedding": "AAA"}],
        [embedding(0, [1], True), {"index": 1, "embedding": "AAAA"}],
        [embedding(0, [1], True), {"index": 1, "embedding": "?"}],
        [embedding(0, [1], True), {"index": 1, "embedding": ["1"]}],
        [embedding(0, [1], True), {"index": 1, "embedding": [10**400]}],
        [embedding(0, [1], True), {"index": 1}],
        [embedding(0, [1], True), {"index": "1", "embedding": "AAAAAA=="}],
    ],
)
def test_embeddings_that_do_not_fit_the_texts_are_a_protocol_error(connect: Callable[..., Any], data: Any) -> None:
    with pytest.raises(ProtocolError):
        connect(lambda _: httpx.Response(200, json={"data": data})).embed("m", ["a", "b"])


@pytest.mark.parametrize("texts", ["", [], ["a", ""]])
def test_nothing_to_embed_is_a_value_error(connect: Callable[..., Any], texts: Any) -> None:
    with pytest.raises(ValueError, match="at least one text"):
        connect(echo).embed("m", texts)


@pytest.mark.parametrize(
    ("ask", "path", "flag"),
    [
        (lambda client: client.is_live(), "/prefix/v2/health/live", "live"),
        (lambda client: client.is_ready(), "/prefix/v2/health/ready", "ready"),
        (lambda client: client.is_model_ready("m", model_version="2"), "/prefix/v2/models/m/versions/2/ready", "ready"),
    ],
)
def test_probes_answer_yes_or_no_at_once(
    connect: Callable[..., Any], time: VirtualTime, ask: Callable[[Any], bool], path: str, flag: str
) -> None:
    def server(status: int, body: bytes) -> Handler:
        def handler(request: httpx.Request) -> httpx.Response:
            assert (request.method, request.url.path) == ("GET", path)
            return httpx.Response(status, content=body)

        return handler

    def nobody(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert ask(connect(server(200, json.dumps({flag: True}).encode()))) is True
    assert ask(connect(server(200, b""))) is True
    assert ask(connect(server(200, json.dumps({flag: False}).encode()))) is False
    assert ask(connect(server(503, b"{}"))) is False
    assert ask(connect(server(404, b"{}"))) is False
    assert ask(connect(nobody)) is False
    assert time.slept == []


TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1, 8]}


@pytest.mark.parametrize(
    ("ask", "sent", "answer", "result"),
    [
        (
            lambda client: client.server_metadata(),
            ("GET", "/v2", b""),
            {"name": "batchd", "version": "1", "extensions": ["statistics"]},
            ServerMetadata(name="batchd", version="1", extensions=("statistics",)),
        ),
        (
            lambda client: client.model_metadata("m"),
            ("GET", "/v2/models/m", b""),
            {"name": "m", "versions": ["1"], "platform": "pytorch", "inputs": [TENSOR], "outputs": []},
            ModelMetadata(
                name="m",
                versions=("1",),
                platform="pytorch",
                inputs=(TensorMetadata(name="x", datatype="FP32", shape=(-1, 8)),),
                outputs=(),
            ),
        ),
        (
            lambda client: client.statistics(),
            ("GET", "/v2/models/stats", b""),
            {"model_stats": []},
            {"model_stats": []},
        ),
        (lambda client: client.statistics("m"), ("GET", "/v2/models/m/stats", b""), {"a": 1}, {"a": 1}),
        (lambda client: client.status(), ("GET", "/v1/status", b""), {"version": "1"}, {"version": "1"}),
        (
            lambda client: client.models(),
            ("POST", "/v2/repository/index", b"{}"),
            [{"name": "m", "version": "1", "state": "READY", "reason": ""}, {"name": "n"}],
            (
                RepositoryEntry(name="m", version="1", state="READY", reason=""),
                RepositoryEntry(name="n", version=None, state="", reason=""),
            ),
        ),
        (lambda client: client.load_model("m"), ("POST", "/v2/repository/models/m/load", b"{}"), {}, None),
        (
            lambda client: client.load_model("m", parameters={"k": 1}),
            ("POST", "/v2/repository/models/m/load", b'{"parameters": {"k": 1}}'),
            {},
            None,
        ),
        (lambda client: client.unload_model("m"), ("POST", "/v2/repository/models/m/unload", b"{}"), {}, None),
    ],
)
def test_management_calls_speak_the_protocol(
    connect: Callable[..., Any], ask: Callable[[Any], Any], sent: tuple[str, str, bytes], answer: Any, result: Any
) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=answer)

    assert ask(connect(handler)) == result
    assert (seen[0].method, seen[0].url.path.removeprefix("/prefix"), seen[0].content) == sent


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.server_metadata(),
        lambda client: client.model_metadata("m"),
        lambda client: client.statistics(),
        lambda client: client.status(),
        lambda client: client.models(),
        lambda client: client.embed("m", "t"),
        lambda client: client.infer("m", {"x": [1]}),
        lambda client: client.is_ready(),
    ],
)
@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'"x"', b"\xff"])
def test_an_answer_of_something_else_is_a_protocol_error(
    connect: Callable[..., Any], ask: Callable[[Any], Any], body: bytes
) -> None:
    with pytest.raises(ProtocolError):
        ask(connect(lambda _: httpx.Response(200, content=body)))
