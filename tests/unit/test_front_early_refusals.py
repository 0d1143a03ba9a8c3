"""The layer that refuses what is like the refused: what it lets through, what it says, and what it leaves alone."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
from front_rig import InlineDispatcher, Rig, binary_body, input_tensor, rig, serving

from batchd_server.errors import DeadlineInfeasible, QueueFull, ServingError

pytestmark = pytest.mark.asyncio

SCALE = "/v2/models/scale/infer"
EMBEDDINGS = "/v1/embeddings"
BODY = {"inputs": [input_tensor("x", "FP32", [1, 3], data=[1, 2, 3])]}
EMBED = {"model": "embedder", "input": "hello"}
SHED = "requests like this one are being refused"
TRIES = 60


def full() -> InlineDispatcher:
    return InlineDispatcher(refusal=QueueFull("9 items wait", retry_after_s=60.0))


async def until_shed(front: Rig, path: str = SCALE, **request: Any) -> httpx.Response:
    """Ask again and again; a kind rests for longer after each refusal, so one comes too soon before long."""
    request = request or {"json": BODY}
    for _ in range(TRIES):
        before = len(front.dispatcher.requests)
        answer = await front.client.post(path, **request)
        assert answer.status_code == 429
        assert (SHED in answer.text) == (len(front.dispatcher.requests) == before)
        if SHED in answer.text:
            return answer
    raise AssertionError("nothing was turned away")


async def test_the_first_of_its_kind_is_asked_about_and_the_next_is_not() -> None:
    async with rig(full()) as front:
        first = await front.client.post(SCALE, json=BODY)
        shed = await until_shed(front)
        assert first.status_code == shed.status_code == 429
        assert first.json()["code"] == shed.json()["code"] == "queue_full"
        assert "9 items wait" in shed.json()["error"]
        assert int(shed.headers["retry-after"]) >= 1
        assert shed.headers["x-request-id"]
        outcomes = [(row[0], row[1], row[2]) for row in front.observed.rows]
        assert outcomes[0] == ("scale", "oip", "rejected_queue")
        assert outcomes[-1] == ("scale", "oip", "shed")


async def test_embeddings_are_refused_in_their_own_form() -> None:
    late = DeadlineInfeasible("late", retry_after_s=60.0)
    async with rig(InlineDispatcher(refusal=late)) as front:
        error = (await until_shed(front, EMBEDDINGS, json=EMBED)).json()["error"]
    assert error["code"] == "deadline_infeasible"
    assert error["type"] == "rate_limit_error"


BINARY, BINARY_HEADERS = binary_body(
    {"inputs": [input_tensor("x", "FP32", [1, 3], parameters={"binary_data_size": 12})]}, bytes(12)
)
WIDE = {"inputs": [input_tensor("x", "FP32", [1, 900], data=[1] * 900)]}
UNLIKE: list[tuple[str, dict[str, Any]]] = [
    (SCALE, {"json": {**BODY, "parameters": {"priority": 1}}}),
    (SCALE, {"json": {**BODY, "parameters": {"timeout": 9_000_000}}}),
    (SCALE, {"json": BODY, "headers": {"X-Request-Timeout-Ms": "9000"}}),
    (SCALE, {"json": WIDE}),
    (SCALE, {"content": BINARY, "headers": BINARY_HEADERS}),
    (SCALE, {"content": gzip.compress(json.dumps(BODY).encode()), "headers": {"Content-Encoding": "gzip"}}),
    (SCALE.replace("scale", "identity-fp32"), {"json": BODY}),
    (EMBEDDINGS, {"json": EMBED}),
]


@pytest.mark.parametrize(("path", "request_"), UNLIKE)
async def test_what_is_unlike_the_refused_reaches_the_device_process(path: str, request_: dict[str, Any]) -> None:
    async with rig(full()) as front:
        await until_shed(front)
        before = len(front.dispatcher.requests)
        answer = await front.client.post(path, **request_)
        assert answer.status_code == 429
        assert SHED not in answer.text
        assert len(front.dispatcher.requests) == before + 1


@pytest.mark.parametrize(
    ("path", "request_", "status"),
    [
        (SCALE, {"content": b"{nonsense"}, 400),
        (SCALE, {"content": b"[]"}, 400),
        (SCALE, {"content": b'{"inputs": [], "parameters": 7}'}, 400),
        (SCALE, {"content": b"{}", "headers": {"Inference-Header-Content-Length": "99"}}, 400),
        (SCALE, {"json": BODY, "headers": {"X-Request-Timeout-Ms": "soon"}}, 400),
        (SCALE, {"json": {**BODY, "parameters": {"timeout": "9"}}}, 400),
        (SCALE.replace("scale", "nobody"), {"json": BODY}, 404),
        (EMBEDDINGS, {"json": {"model": ["embedder"], "input": "hello"}}, 400),
        (EMBEDDINGS, {"json": {"model": "nobody", "input": "hello"}}, 404),
        (EMBEDDINGS, {"json": ["hello"]}, 400),
    ],
)
async def test_what_it_does_not_understand_gets_the_words_of_its_route(
    path: str, request_: dict[str, Any], status: int
) -> None:
    async with rig(full()) as calm:
        expected = await calm.client.post(path, **request_)
    async with rig(full()) as front:
        await until_shed(front)
        answer = await front.client.post(path, **request_)
    assert (answer.status_code, expected.status_code) == (status, status)
    without_id = [{k: v for k, v in each.json().items() if k != "request_id"} for each in (answer, expected)]
    assert without_id[0] == without_id[1]


async def test_when_there_is_room_again_answers_are_right() -> None:
    async with rig(full()) as front:
        await until_shed(front)
        front.dispatcher.refusal = None
        for _ in range(TRIES * 100):
            answer = await front.client.post(SCALE, json=BODY)
            if answer.status_code == 200:
                break
        assert answer.json()["outputs"][0]["data"] == [2, 4, 6]


@pytest.mark.parametrize("refusal", [ServingError("broken"), None])
async def test_other_failures_turn_nobody_away(refusal: ServingError | None) -> None:
    async with rig(InlineDispatcher(refusal=refusal)) as front:
        for number in range(1, 20):
            await front.client.post(SCALE, json=BODY)
            assert len(front.dispatcher.requests) == number


async def test_a_connection_serves_on_after_a_refusal_without_its_body() -> None:
    with serving(full()) as address:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client:
            answers, ports = [], set()
            for _ in range(TRIES):
                answers.append(await client.post(SCALE, json=BODY))
                ports.add(answers[-1].extensions["network_stream"].get_extra_info("client_addr"))
    assert any(SHED in answer.text for answer in answers)
    assert len(ports) == 1
