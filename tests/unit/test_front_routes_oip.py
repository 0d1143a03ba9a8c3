"""The Open Inference Protocol as a client sees it, without a socket."""

from __future__ import annotations

import asyncio
import gzip
import threading
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from front_rig import InlineDispatcher, binary_body, input_tensor, rig

from batchd_server.errors import (
    DeadlineExceeded,
    DeadlineInfeasible,
    InsufficientMemory,
    ModelFailed,
    QueueFull,
    Unavailable,
)
from batchd_server.front.oip.classification import classify

pytestmark = pytest.mark.asyncio

SCALE = "/v2/models/scale/infer"
X = input_tensor("x", "FP32", [1, 2], data=[1, 2])


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check that a refusal has the protocol's form, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document: dict[str, Any] = response.json()
    assert isinstance(document["error"], str)
    assert document["error"]
    assert document["request_id"] == response.headers["x-request-id"]
    return document


async def test_an_answer_says_what_was_asked_and_how_it_ran() -> None:
    async with rig() as front:
        response = await front.client.post(
            "/v2/models/scale/versions/3/infer",
            json={"id": "mine", "inputs": [input_tensor("x", "FP32", [2, 2], data=[[1, 2], [3, 4]])]},
        )
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "model_name": "scale",
        "model_version": "3",
        "id": "mine",
        "parameters": {"batch_size": 2, "queue_ms": 1.0, "compute_ms": 2.0},
        "outputs": [
            {"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [2, 4, 6, 8]},
            {"name": "total", "shape": [2], "datatype": "FP64", "data": [3, 7]},
        ],
    }


async def test_binary_goes_both_ways_and_json_can_stand_beside_it() -> None:
    x = np.array([[1, 2, 3]], dtype="<f4")
    body, headers = binary_body(
        {
            "inputs": [input_tensor("x", "FP32", [1, 3], parameters={"binary_data_size": 12})],
            "outputs": [{"name": "total"}, {"name": "y", "parameters": {"binary_data": True}}],
        },
        x.tobytes(),
    )
    async with rig() as front:
        response = await front.client.post(SCALE, content=body, headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    head = int(response.headers["inference-header-content-length"])
    document = httpx.Response(200, content=response.content[:head]).json()
    assert document["outputs"][0]["data"] == [6.0]
    assert document["outputs"][1]["parameters"] == {"binary_data_size": 12}
    assert response.content[head:] == (2 * x).tobytes()


async def test_a_raw_body_is_answered_in_binary() -> None:
    async with rig() as front:
        response = await front.client.post(
            SCALE, content=np.ones(3, "<f4").tobytes(), headers={"Inference-Header-Content-Length": "0"}
        )
        head = int(response.headers["inference-header-content-length"])
        assert response.content[head : head + 12] == np.full(3, 2, "<f4").tobytes()
        many = await front.client.post(
            "/v2/models/concatenate/infer", content=b"", headers={"Inference-Header-Content-Length": "0"}
        )
        assert "exactly one input" in refused(many, 400)["error"]


async def test_classification_answers_with_the_highest_classes() -> None:
    async with rig() as front:
        response = await front.client.post(
            SCALE, json={"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 1}}]}
        )
    (output,) = response.json()["outputs"]
    assert output == {"name": "y", "shape": [1, 1], "datatype": "BYTES", "data": ["4.000000:1"]}


@pytest.mark.parametrize(("classes", "threads"), [(10, {"MainThread"}), (10**9, {"prepare"})])
async def test_classes_by_the_thousand_are_written_out_in_a_thread(
    classes: int, threads: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()

    def watched(*arguments: Any) -> Any:
        seen.add(threading.current_thread().name.partition("_")[0])
        return classify(*arguments)

    monkeypatch.setattr("batchd_server.front.oip.response.classify", watched)
    x = input_tensor("x", "FP32", [2, 4000], data=list(range(8000)))
    async with rig() as front:
        response = await front.client.post(
            SCALE, json={"inputs": [x], "outputs": [{"name": "y", "parameters": {"classification": classes}}]}
        )
    (output,) = response.json()["outputs"]
    assert output["shape"] == [2, min(classes, 4000)]
    assert output["data"][:2] == ["7998.000000:3999", "7996.000000:3998"]
    assert seen == threads


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
async def test_compressed_requests_are_taken(encoding: str, compress: Any) -> None:
    body, headers = binary_body(
        {"inputs": [input_tensor("x", "FP32", [1, 2], parameters={"binary_data_size": 8})]}, b"\0" * 8
    )
    async with rig() as front:
        response = await front.client.post(
            SCALE, content=compress(body), headers={**headers, "Content-Encoding": encoding}
        )
    assert response.json()["outputs"][0]["data"] == [0, 0]


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
async def test_other_encodings_are_415(encoding: str) -> None:
    async with rig() as front:
        response = await front.client.post(SCALE, content=b"{}", headers={"Content-Encoding": encoding})
    assert refused(response, 415)["field"] == "Content-Encoding"


@pytest.mark.parametrize(
    ("path", "document", "field"),
    [
        (SCALE, {"inputs": [input_tensor("x", "FP64", [1, 2], data=[1, 2])]}, "x"),
        (SCALE, {"inputs": [input_tensor("x", "FP32", [2], data=[1, 2])]}, "x"),
        (SCALE, {"inputs": [input_tensor("z", "FP32", [1, 2], data=[1, 2])]}, "z"),
        (SCALE, {"inputs": [X, X]}, "x"),
        (SCALE, {"inputs": [X], "outputs": [{"name": "z"}]}, "outputs"),
        (SCALE, {"inputs": [input_tensor("x", "FP32", [1, 2], data=[-1, 2])]}, "inputs"),
        ("/v2/models/concatenate/infer", {"inputs": [input_tensor("b", "BYTES", [1], data=["t"])]}, "a"),
    ],
)
async def test_what_the_model_does_not_take_is_400_and_named(path: str, document: dict[str, Any], field: str) -> None:
    async with rig() as front:
        assert refused(await front.client.post(path, json=document), 400)["field"] == field
        assert front.dispatcher.requests == []


async def test_nan_is_refused_where_the_model_says_so() -> None:
    body, headers = binary_body(
        {"inputs": [input_tensor("x", "FP32", [1, 1], parameters={"binary_data_size": 4})]},
        np.array([np.nan], dtype="<f4").tobytes(),
    )
    async with rig() as front:
        assert refused(await front.client.post(SCALE, content=body, headers=headers), 400)["field"] == "x"


async def test_fp16_answers_need_binary() -> None:
    path = "/v2/models/identity-fp16/infer"
    tensor = input_tensor("x", "FP16", [1, 1], parameters={"binary_data_size": 2})
    half = np.ones(1, dtype="<f2").tobytes()
    async with rig() as front:
        body, headers = binary_body({"inputs": [tensor]}, half)
        refusal = refused(await front.client.post(path, content=body, headers=headers), 400)
        assert "binary" in refusal["error"]
        assert front.dispatcher.requests == []
        body, headers = binary_body({"inputs": [tensor], "parameters": {"binary_data_output": True}}, half)
        assert (await front.client.post(path, content=body, headers=headers)).content.endswith(half)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/nobody/infer", 404),
        ("POST", "/v2/models/scale/versions/1/infer", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v2/models/nobody/config", 404),
        ("GET", "/v2/models/nobody/stats", 404),
        ("GET", "/v2/models/scale/versions/9/ready", 404),
        ("POST", "/v2/repository/models/nobody/load", 404),
        ("GET", "/v2/trace/setting", 404),
        ("GET", "/v2/", 404),
        ("GET", SCALE, 405),
        ("PUT", "/v2", 405),
    ],
)
async def test_what_is_not_there_is_refused_in_the_protocols_form(method: str, path: str, status: int) -> None:
    async with rig() as front:
        refused(await front.client.request(method, path, json={"inputs": [X]}), status)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_413_and_read_no_further(chunked: bool) -> None:
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b" " * 1000

    async with rig(max_body_bytes=10_000) as front:
        content = chunks() if chunked else b" " * 1_000_000
        assert refused(await front.client.post(SCALE, content=content), 413)["field"] == "body"
    assert sent <= 12_000


async def test_a_swollen_gzip_is_413() -> None:
    async with rig(max_body_bytes=10_000) as front:
        response = await front.client.post(
            SCALE, content=gzip.compress(b" " * 5_000_000), headers={"Content-Encoding": "gzip"}
        )
        refused(response, 413)


async def test_more_items_than_allowed_are_413() -> None:
    async with rig(max_items_per_request=3) as front:
        document = {"inputs": [input_tensor("x", "FP32", [4, 1], data=[1, 2, 3, 4])]}
        refused(await front.client.post(SCALE, json=document), 413)


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (QueueFull("full", retry_after_s=2.3), 429, "3"),
        (QueueFull("full"), 429, "1"),
        (DeadlineInfeasible("late", retry_after_s=0.02), 429, "1"),
        (DeadlineInfeasible("never"), 429, None),
        (Unavailable("draining", code="draining"), 503, "1"),
        (DeadlineExceeded("late"), 504, None),
        (InsufficientMemory("too big"), 507, None),
        (ModelFailed("the model raised"), 500, None),
    ],
)
async def test_refusals_say_when_to_come_back(error: Any, status: int, retry_after: str | None) -> None:
    async with rig(InlineDispatcher(refusal=error)) as front:
        response = await front.client.post(SCALE, json={"inputs": [X]})
    document = refused(response, status)
    assert document["code"] == error.code
    assert response.headers.get("retry-after") == retry_after
    if retry_after is not None:
        wanted_ms = round((error.retry_after_s or 1.0) * 1000)
        assert (response.headers["retry-after-ms"], document["retry_after_ms"]) == (str(wanted_ms), wanted_ms)
    else:
        assert response.headers["x-should-retry"] == "false"


async def test_an_unexpected_exception_tells_the_client_nothing_but_the_id(caplog: pytest.LogCaptureFixture) -> None:
    async with rig(InlineDispatcher(refusal=RuntimeError("secret at /root/weights"))) as front:
        response = await front.client.post(SCALE, json={"inputs": [X]}, headers={"X-Request-Id": "find-me"})
    document = refused(response, 500)
    assert "secret" not in response.text
    assert document["request_id"] == "find-me"
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1._X", True), ("a" * 129, False), ("a b", False), ("<script>", False), ("", False)]
)
async def test_request_ids_are_the_clients_where_well_formed(given: str, kept: bool) -> None:
    async with rig() as front:
        answered = (await front.client.get("/v2", headers={"X-Request-Id": given})).headers["x-request-id"]
    assert (answered == given) is kept
    assert answered


async def test_deadline_and_priority_reach_the_device() -> None:
    async with rig(max_request_timeout_s=30) as front:
        for parameters, headers in (
            ({"timeout": 5_000_000, "priority": 1}, {"X-Request-Timeout-Ms": "9"}),
            ({"timeout": 0}, {"X-Request-Timeout-Ms": "2500"}),
            ({"timeout": 10**12}, {}),
            ({}, {}),
        ):
            response = await front.client.post(SCALE, json={"inputs": [X], "parameters": parameters}, headers=headers)
            assert response.status_code == 200
        calls = front.dispatcher.requests
    slo_s = 1.0
    granted = [slo_s if call.deadline is None else round(call.deadline - call.arrived, 6) for call in calls]
    assert granted[0] == 5.0
    # once answers have shown what the way back takes, it is kept free
    assert [given - got for given, got in zip([5.0, 2.5, 30.0, slo_s], granted, strict=True)] == [
        pytest.approx(0.1 * given, abs=0.1 * given) for given in (5.0, 2.5, 30.0, slo_s)
    ]
    assert [call.priority for call in calls] == [1, 0, 0, 0]


async def test_a_missed_deadline_is_504_at_once_and_cancels_the_work() -> None:
    async with rig(InlineDispatcher(held=asyncio.Event())) as front:
        response = await front.client.post(SCALE, json={"inputs": [X], "parameters": {"timeout": 20_000}})
        assert refused(response, 504)["code"] == "deadline_exceeded"
        assert front.dispatcher.cancelled == 1
        assert [row[2] for row in front.observed.rows] == ["deadline_exceeded"]


async def test_metadata_and_configuration() -> None:
    async with rig() as front:
        server = (await front.client.get("/v2")).json()
        assert server["name"] == "batchd"
        assert {"binary_tensor_data", "classification", "statistics"} <= set(server["extensions"])
        model = (await front.client.get("/v2/models/concatenate/versions/3")).json()
        assert model["versions"] == ["3"]
        assert model["inputs"] == [
            {"name": "a", "datatype": "INT64", "shape": [-1, 2]},
            {"name": "b", "datatype": "BYTES", "shape": [-1]},
        ]
        config = (await front.client.get("/v2/models/concatenate/config")).json()
        assert config["input"][1] == {"name": "b", "data_type": "TYPE_STRING", "dims": [], "optional": True}
        assert config["max_batch_size"] == 64
        assert (await front.client.get("/v2/health/live")).json()["live"] is True


async def test_head_is_answered_like_get_and_refused_where_get_is() -> None:
    async with rig() as front:
        for path, status in (("/v2/health/ready", 200), ("/v2/models/nobody", 404), (SCALE, 405), ("/metrics", 200)):
            assert (await front.client.head(path)).status_code == status
        front.dispatcher.ready = False
        assert (await front.client.head("/v2/health/ready")).status_code == 503


async def test_readiness_follows_the_device() -> None:
    async with rig() as front:
        assert (await front.client.get("/v2/health/ready")).json() == {"ready": True, "live": True}
        front.dispatcher.draining = True
        response = await front.client.get("/v2/health/ready")
        assert response.status_code == 503
        assert refused(response, 503)["ready"] is False
        assert "draining" in response.json()["error"]
        assert response.json()["live"] is True
        assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("1", "1000")


async def test_models_are_unloaded_and_loaded() -> None:
    async with rig() as front:
        unload = {"parameters": {"unload_dependents": False}}
        assert (await front.client.post("/v2/repository/models/scale/unload", json=unload)).status_code == 200
        gone = await front.client.get("/v2/models/scale/ready")
        assert refused(gone, 503)["ready"] is False
        assert "UNAVAILABLE" in gone.json()["error"]
        assert gone.json()["name"] == "scale"
        assert gone.headers["retry-after-ms"] == "1000"
        states = {entry["name"]: entry for entry in (await front.client.post("/v2/repository/index")).json()}
        assert states["scale"]["state"] == "UNAVAILABLE"
        assert states["embedder"] == {"name": "embedder", "version": "3", "state": "READY", "reason": ""}
        ready = (await front.client.post("/v2/repository/index", json={"ready": True})).json()
        assert "scale" not in {entry["name"] for entry in ready}
        assert (await front.client.post("/v2/repository/models/scale/load", content=b"")).status_code == 200
        assert (await front.client.get("/v2/models/scale/ready")).json() == {"name": "scale", "ready": True}


async def test_models_are_not_configured_by_load_requests() -> None:
    async with rig() as front:
        for parameter in ("config", "file:1/model.pt"):
            response = await front.client.post(
                "/v2/repository/models/scale/load", json={"parameters": {parameter: "{}"}}
            )
            assert refused(response, 400)["field"] == f"parameters.{parameter}"


async def test_statistics_of_all_models_and_of_one() -> None:
    async with rig() as front:
        assert len((await front.client.get("/v2/models/stats")).json()["model_stats"]) > 1
        (one,) = (await front.client.get("/v2/models/scale/stats")).json()["model_stats"]
    assert one["name"] == "scale"


async def test_items_whose_answers_differ_in_shape_are_asked_for_one_by_one() -> None:
    class Ragged(type(InlineDispatcher().models["scale"])):  # type: ignore[misc]
        def answer(self, item: Any) -> Any:
            return {"y": np.ones(int(item["x"][0]), dtype=np.float32), "total": np.float64(0)}

    async with rig(InlineDispatcher(models={"ragged": Ragged()})) as front:
        document = {"inputs": [input_tensor("x", "FP32", [2, 1], data=[1, 2])]}
        refusal = refused(await front.client.post("/v2/models/ragged/infer", json=document), 400)
    assert refusal["code"] == "ragged_output"
