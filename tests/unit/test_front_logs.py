"""What the log gets of a request, and what its client does not."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from front_rig import InlineDispatcher, Rig, Scale, input_tensor, rig

from batchd.item import Shape
from batchd_server.errors import ERROR_TYPES, ServingError
from batchd_server.link.codec import LinkError
from batchd_server.link.item_shape import item_shape
from batchd_server.models.spec import Tensors
from batchd_server.observe.logs import JsonFormatter, LineHandler

pytestmark = pytest.mark.asyncio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
X = {"inputs": [input_tensor("x", "FP32", [1, 2], data=[1, 2])]}
INFER = "/v2/models/scale/infer"


class Panic(BaseException):
    """As Rust's panics come through pyo3: no Exception."""


STRANGE = (RuntimeError, KeyError, AssertionError, MemoryError, RecursionError, StopIteration, SystemExit, Panic)


class Strange(Scale):
    """Raises what it was given where its front half is asked."""

    def __init__(self, error: type[BaseException], where: str) -> None:
        self.error, self.where = error, where

    def preprocess(self, item: Tensors) -> Tensors:
        if self.where == "preprocess":
            raise self.error("hidden words")
        return item

    def shape(self, item: Tensors) -> Shape:
        raise self.error("hidden words")


@contextmanager
def lines(level: int = logging.INFO) -> Iterator[list[dict[str, Any]]]:
    """Collect what is logged meanwhile, as a daemon with JSON lines would write it."""
    stream = io.StringIO()
    handler = LineHandler(stream)
    handler.setFormatter(JsonFormatter("front"))
    ours, collected = logging.getLogger("batchd_server"), list[dict[str, Any]]()
    before = ours.level
    ours.addHandler(handler)
    ours.setLevel(level)
    try:
        yield collected
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)
        collected += map(json.loads, stream.getvalue().splitlines())


async def post(front: Rig, headers: Mapping[str, str] | None = None, path: str = INFER) -> httpx.Response:
    return await front.client.post(path, json=X, headers=headers)


def tells_nothing(response: httpx.Response) -> None:
    assert "hidden" not in response.text
    assert "Traceback" not in response.text
    assert ".py" not in response.text
    assert set(response.json()) >= {"error", "code", "request_id"}


@pytest.mark.parametrize("error", STRANGE)
async def test_whatever_the_link_raises_is_one_line_here_and_500_there(error: type[BaseException]) -> None:
    class Broken(InlineDispatcher):
        def model(self, name: str) -> Any:
            raise error("hidden words")  # in the request's own task: an event loop ends by SystemExit in others

    with lines() as told:
        async with rig(Broken()) as front:
            response = await post(front, {"X-Request-Id": "find-me"})
    assert response.status_code == 500
    tells_nothing(response)
    [line] = told
    assert (line["level"], line["request_id"], line["message"]) == (
        "error",
        "find-me",
        f"POST {INFER} failed unexpectedly",
    )
    assert error.__name__ in line["error"]
    assert "hidden words" in line["error"]
    assert line["exception"].startswith("Traceback")


@pytest.mark.parametrize("error", [error for error in STRANGE if error is not StopIteration])
async def test_whatever_preprocessing_raises_is_the_models_failure(error: type[BaseException]) -> None:
    with lines() as told:
        async with rig(InlineDispatcher(models={"scale": Strange(error, "preprocess")})) as front:
            response = await post(front)
    assert response.status_code == 500
    tells_nothing(response)
    assert response.json()["code"] == "model_failed"
    [line] = told
    assert (line["level"], line["status"], line["code"], line["model"]) == ("warning", 500, "model_failed", "scale")
    assert "hidden words" in line["error"]


@pytest.mark.parametrize("error", [*STRANGE, TypeError, ValueError])
async def test_whatever_a_models_shape_raises_is_a_link_error(error: type[BaseException]) -> None:
    with pytest.raises(LinkError):
        item_shape(Strange(error, "shape"), {})


@pytest.mark.parametrize("kind", ERROR_TYPES.values(), ids=lambda kind: kind.__name__)
async def test_a_5xx_is_a_warning_and_a_4xx_a_debug_line_once_each(kind: type[ServingError]) -> None:
    with lines(logging.DEBUG) as told:
        async with rig(InlineDispatcher(refusal=kind("so it is"))) as front:
            response = await post(front, {"X-Request-Id": "find-me"})
    assert response.status_code == kind.status
    mine = [line for line in told if line.get("request_id") == "find-me"]
    [line] = mine
    assert line["message"] == f"POST {INFER} answered {kind.status}: so it is"
    assert (line["status"], line["code"], line["model"]) == (kind.status, kind.code, "scale")
    assert line["level"] == ("warning" if kind.status >= 500 else "debug")
    assert line["seconds"] >= 0


async def test_at_debug_every_request_can_be_found_and_nothing_of_its_content() -> None:
    marked = {"inputs": [input_tensor("x", "FP32", [1, 2], data=[31.4159, 2])], "id": "payload-mark"}
    secret = {"Authorization": "Bearer sekret-1", "X-Api-Key": "sekret-2", "Cookie": "sekret-3"}
    with lines(logging.DEBUG) as told:
        async with rig() as front:
            await front.client.post(f"{INFER}?key=sekret-4", json=marked, headers={"X-Request-Id": "a", **secret})
            await front.client.get("/v2/models/scale", headers={"X-Request-Id": "b"})
            await front.client.post("/v1/embeddings", json={"model": "embedder", "input": "payload-mark"})
    assert [line["request_id"] for line in told if line["message"].endswith(" answered 200")][:2] == ["a", "b"]
    text = json.dumps(told)
    assert not any(word in text for word in ("sekret", "payload-mark", "31.4159"))


async def test_a_server_that_is_asked_whether_it_is_ready_has_no_problem_with_that() -> None:
    with lines() as told:
        async with rig(InlineDispatcher(ready=False, unloaded={"scale"})) as front:
            for path in ("/v2/health/ready", "/v2/models/scale/ready"):
                assert (await front.client.get(path)).status_code == 503
    assert told == []


async def test_a_path_cannot_forge_a_line_or_flood_it() -> None:
    with lines(logging.DEBUG) as told:
        async with rig() as front:
            await front.client.get("/v2/x%0AERROR%20forged" + "y" * 5000)
    [line] = [line for line in told if "forged" in line["message"]]
    assert len(line["message"]) < 400


@pytest.mark.parametrize(
    ("headers", "trace", "parent"),
    [
        ([("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "a=b")], TRACE, PARENT),
        ([("traceparent", f"00-{TRACE}-{PARENT}-zz")], None, None),
        ([("traceparent", f"00-{TRACE}-{PARENT}-01"), ("traceparent", f"00-{TRACE}-{PARENT}-00")], None, None),
        ([], None, None),
    ],
)
async def test_a_trace_is_told_beside_an_id_of_our_own(
    headers: list[tuple[str, str]], trace: str | None, parent: str | None
) -> None:
    with lines(logging.DEBUG) as told:
        async with rig() as front:
            response = await front.client.post(INFER, json=X, headers=headers)
    own = response.headers["x-request-id"]
    [line] = [line for line in told if line.get("request_id") == own]
    assert (line.get("trace_id"), line.get("parent_id")) == (trace, parent)
    assert own not in (trace, parent)
    assert "traceparent" not in response.headers
    assert "tracestate" not in response.headers


async def test_a_problem_at_every_request_is_told_and_counted_but_no_flood() -> None:
    with lines() as told:
        async with rig(InlineDispatcher(refusal=ERROR_TYPES[500]("again"))) as front:
            for _ in range(200):
                await post(front)
    assert 0 < len(told) < 100
