"""OpenAI's and batchd's own routes, disconnects and observations, without a socket."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any

import httpx
import numpy as np
import pytest
from front_rig import InlineDispatcher, Rig, input_tensor, rig

from batchd_server.errors import QueueFull, ServingError, Unavailable
from batchd_server.front.disconnects import ClientGone, run_while_awaited
from batchd_server.front.observer import outcome_of
from batchd_server.front.preparation import Preparation

pytestmark = pytest.mark.asyncio

X = input_tensor("x", "FP32", [1, 2], data=[1, 2])


def openai_error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_texts_and_tokens_embed_alike_as_floats_and_base64() -> None:
    async with rig() as front:
        answers = [
            (await front.client.post("/v1/embeddings", json={"model": "embedder", **rest})).json()
            for rest in (
                {"input": "abc"},
                {"input": [97, 98, 99]},
                {"input": ["abc"], "encoding_format": "base64"},
                {"input": [[97, 98, 99]], "dimensions": 4, "user": "u"},
            )
        ]
    vectors = [answer["data"][0]["embedding"] for answer in answers]
    vectors[2] = np.frombuffer(base64.b64decode(vectors[2]), dtype="<f4").tolist()
    assert np.allclose(vectors, [vectors[0]] * 4, atol=1e-7)
    assert all(answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3} for answer in answers)
    assert answers[0]["data"][0]["object"] == "embedding"


async def test_embeddings_keep_the_order_of_their_inputs() -> None:
    async with rig() as front:
        many = await front.client.post("/v1/embeddings", json={"model": "embedder", "input": [[1], [2, 3], [1]]})
    data = many.json()["data"]
    assert [entry["index"] for entry in data] == [0, 1, 2]
    assert data[0]["embedding"] == data[2]["embedding"] != data[1]["embedding"]


@pytest.mark.parametrize(
    ("document", "status", "param", "code"),
    [
        ({"model": "nobody", "input": "a"}, 404, "model", "model_not_found"),
        ({"model": "scale", "input": "a"}, 400, "model", "model_not_supported"),
        ({"model": "embedder", "input": ""}, 400, "input[0]", "bad_request"),
        ({"model": "embedder", "input": [[1], [256]]}, 400, "input[1]", "bad_request"),
        ({"model": "embedder", "input": "a", "dimensions": 2}, 400, "dimensions", "bad_request"),
    ],
)
async def test_refused_embeddings(document: dict[str, Any], status: int, param: str, code: str) -> None:
    async with rig() as front:
        error = openai_error(await front.client.post("/v1/embeddings", json=document), status)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")


@pytest.mark.parametrize("given", [["a", "b"], [[1], [2]]])
async def test_too_many_items_are_named_as_openai_names_them(given: Any) -> None:
    async with rig(max_items_per_request=1) as front:
        document = {"model": "embedder", "input": given}
        error = openai_error(await front.client.post("/v1/embeddings", json=document), 413)
    assert (error["param"], error["code"]) == ("input", "too_large")


async def test_a_text_that_the_model_refuses_is_named() -> None:
    class Particular(type(InlineDispatcher().models["embedder"])):  # type: ignore[misc]
        def preprocess(self, item: Any) -> Any:
            if item["text"].item() == b"b":
                raise ValueError("no b")
            return super().preprocess(item)

    async with rig(InlineDispatcher(models={"embedder": Particular()})) as front:
        document = {"model": "embedder", "input": ["a", "b"]}
        error = openai_error(await front.client.post("/v1/embeddings", json=document), 400)
    assert (error["param"], error["message"]) == ("input[1]", "item 1: no b")


async def test_a_full_queue_is_a_rate_limit_to_openai_clients() -> None:
    async with rig(InlineDispatcher(refusal=QueueFull("full", retry_after_s=0.25))) as front:
        response = await front.client.post("/v1/embeddings", json={"model": "embedder", "input": "a"})
    assert openai_error(response, 429)["type"] == "rate_limit_error"
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("1", "250")


async def test_only_models_that_embed_are_listed() -> None:
    async with rig() as front:
        listed = (await front.client.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["embedder"]
        assert (await front.client.get("/v1/models/embedder")).json() == listed["data"][0]
        assert openai_error(await front.client.get("/v1/models/scale"), 404)["code"] == "model_not_found"
        openai_error(await front.client.get("/v1/embeddings"), 405)


async def test_status_joins_the_device_and_this_front() -> None:
    async with rig() as front:
        status = (await front.client.get("/v1/status")).json()
        assert status["device"]["name"] == "cpu"
        assert {"pid": os.getpid()} in status["fronts"]
        assert {"pid": 1} in status["fronts"]
        assert status["ready"] is True
        assert status["uptime_s"] >= 0
        assert status["version"]


async def test_status_is_there_when_the_device_process_is_not() -> None:
    async with rig(InlineDispatcher(refusal=Unavailable("no answer"), ready=False)) as front:
        response = await front.client.get("/v1/status")
        assert response.status_code == 200
        assert response.json()["detail"] == "no answer"
        assert response.json()["ready"] is False
        metrics = await front.client.get("/metrics")
        assert metrics.status_code == 503
        assert metrics.headers["content-type"] == "application/problem+json"


async def test_status_tells_the_readiness_after_it_has_waited_for_the_device() -> None:
    class Failing(InlineDispatcher):
        async def control(self, action: str, **arguments: Any) -> Any:
            self.ready = False
            raise Unavailable("no answer")

    async with rig(Failing()) as front:
        assert (await front.client.get("/v1/status")).json()["ready"] is False


async def test_metrics_are_prometheus_text() -> None:
    async with rig() as front:
        response = await front.client.get("/metrics")
    assert response.text.startswith("# TYPE")
    assert response.headers["content-type"].startswith("text/plain; version=")


async def test_unknown_paths_are_problem_details() -> None:
    async with rig() as front:
        response = await front.client.get("/v1/nothing")
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["title"], problem["code"]) == (404, "Not Found", "not_found")


async def test_every_route_is_documented() -> None:
    async with rig() as front:
        paths = (await front.client.get("/openapi.json")).json()["paths"]
        operations = [operation for methods in paths.values() for operation in methods.values()]
        assert "/v2/models/{model}/versions/{version}/infer" in paths
        assert all(operation["description"] for operation in operations)
        ids = [operation["operationId"] for operation in operations]
        assert len(ids) == len(set(ids))
        infer = paths["/v2/models/{model}/infer"]["post"]
        assert set(infer["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
        assert (await front.client.get("/")).headers["location"] == "/docs"
        index = paths["/v2/repository/index"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert index["type"] == "array"
        assert set(paths["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}


async def test_observations_name_the_model_and_the_outcome() -> None:
    async with rig() as front:
        await front.client.post("/v2/models/scale/infer", json={"inputs": [X]})
        await front.client.post("/v2/models/scale/infer", json={"inputs": []})
        await front.client.post("/v2/models/made-up/infer", json={"inputs": [X]})
        await front.client.post("/v1/embeddings", json={"model": "embedder", "input": "a"})
        await front.client.get("/v2/models/scale")
        rows = front.observed.rows
    assert [row[:3] for row in rows] == [
        ("scale", "oip", "ok"),
        ("scale", "oip", "client_error"),
        ("", "oip", "client_error"),
        ("embedder", "openai", "ok"),
    ]
    assert all(0 <= overhead <= duration for *_, duration, overhead in rows)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (QueueFull("x"), "rejected_queue"),
        (QueueFull("x", code="deadline_infeasible"), "rejected_deadline"),
        (ServingError("x", code="insufficient_memory"), "rejected_memory"),
        (Unavailable("x", code="draining"), "unavailable"),
        (ServingError("x"), "error"),
        (RuntimeError("x"), "error"),
        (ClientGone(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
async def test_outcomes(error: BaseException | None, outcome: str) -> None:
    assert outcome_of(error) == outcome


INFER = (
    "/v2/models/scale/infer",
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}',
)
EMBED = ("/v1/embeddings", b'{"model":"embedder","input":"a"}')


async def call(front: Rig, path: str, body: bytes | None, gone: asyncio.Event, sent: list[Any]) -> None:
    """Call the application as an HTTP server does, with a client that leaves when `gone` is set."""
    messages = [] if body is None else [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    await front.app({**scope, "headers": [], "http_version": "1.1", "scheme": "http", "asgi": {}}, receive, send)


@pytest.mark.parametrize(("path", "body"), [INFER, EMBED])
async def test_work_ends_when_the_client_leaves(path: str, body: bytes) -> None:
    dispatcher = InlineDispatcher(held=asyncio.Event())
    gone = asyncio.Event()
    sent: list[Any] = []
    async with rig(dispatcher) as front:
        request = asyncio.create_task(call(front, path, body, gone, sent))
        await dispatcher.entered.wait()
        gone.set()
        await request
        assert sent == []
        assert dispatcher.cancelled == 1
        assert [row[2] for row in front.observed.rows] == ["cancelled"]


async def test_a_client_that_leaves_while_it_sends_is_not_an_error() -> None:
    gone = asyncio.Event()
    gone.set()
    sent: list[Any] = []
    async with rig() as front:
        await call(front, INFER[0], None, gone, sent)
        assert sent == []
        assert [row[2] for row in front.observed.rows] == ["cancelled"]


@pytest.mark.parametrize(("path", "body"), [INFER, EMBED])
async def test_a_request_cut_off_by_the_shutdown_is_503(path: str, body: bytes) -> None:
    dispatcher = InlineDispatcher(held=asyncio.Event())
    sent: list[Any] = []
    async with rig(dispatcher) as front:
        request = asyncio.create_task(call(front, path, body, asyncio.Event(), sent))
        await dispatcher.entered.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert sent[0]["status"] == 503
    assert dispatcher.cancelled == 1


async def test_results_and_errors_pass_through_the_watch() -> None:
    async def never() -> Any:
        await asyncio.Event().wait()

    async def result() -> int:
        return 7

    async def failure() -> int:
        raise Unavailable("no")

    assert await run_while_awaited(result(), never, 10) == 7
    with pytest.raises(Unavailable):
        await run_while_awaited(failure(), never, None)
    assert len(asyncio.all_tasks()) <= 2  # this one, and a watcher that is just being cancelled


async def test_costly_preparation_leaves_the_event_loop() -> None:
    import threading
    import time

    preparation = Preparation()

    def slow() -> str:
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        return threading.current_thread().name

    here = threading.current_thread().name
    assert await preparation.run("model", 100, slow) == here  # nothing is known yet
    assert await preparation.run("model", 100_000, slow) != here
    assert await preparation.run("other", 100, slow) == here
    preparation.close()
