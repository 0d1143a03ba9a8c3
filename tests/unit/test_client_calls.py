"""Both clients through a transport that is a function: what they send, and what they make of the answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from client_rig import LENGTH, VirtualTime, echo

from batchd_client import (
    AsyncClient,
    BadRequest,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InferResult,
    Overloaded,
    ProtocolError,
    RetryPolicy,
)


@pytest.mark.parametrize("binary", [True, False])
def test_arrays_go_out_and_come_back_by_name(connect: Callable[..., Any], binary: bool) -> None:
    inputs = {"x": np.arange(6, dtype=np.int32).reshape(2, 3), "t": np.array([["a"], ["b"]])}
    result = connect(echo).infer("m", inputs, binary=binary, request_id="mine")
    assert isinstance(result, InferResult)
    np.testing.assert_array_equal(result["x"], inputs["x"])
    assert result["t"].tolist() == [[b"a"], [b"b"]]
    assert (result.model_name, result.model_version, result.request_id) == ("m", "1", "mine")


def test_a_request_goes_below_the_base_path_with_key_and_fresh_id(connect: Callable[..., Any]) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return echo(request)

    client = connect(handler, api_key="secret")
    results = [client.infer("m", {"x": [[1]]}) for _ in range(2)]
    assert seen[0].url == "http://server/prefix/v2/models/m/infer"
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert seen[0].headers["content-length"] == str(len(seen[0].content))
    ids = [request.headers["x-request-id"] for request in seen]
    assert ids == [result.request_id for result in results]
    assert len(set(ids)) == 2
    assert all(len(request_id) == 32 for request_id in ids)


def test_the_key_may_stand_in_the_environment(connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return echo(request)

    for variable, given in (("from outside", {}), ("from outside", {"api_key": "given"}), ("", {})):
        monkeypatch.setenv("BATCHD_API_KEY", variable)
        connect(handler, **given).infer("m", {"x": [[1]]})
    assert seen == ["Bearer from outside", "Bearer given", None]


def test_a_full_queue_is_waited_out_as_long_as_the_server_asks(connect: Callable[..., Any], time: VirtualTime) -> None:
    bodies: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content[: int(request.headers[LENGTH])]))
        if len(bodies) == 1:
            return httpx.Response(429, headers={"retry-after": "3"}, json={"error": "full", "code": "queue_full"})
        return echo(request)

    client = connect(handler, retry=RetryPolicy(backoff_s=0.0))
    client.infer("m", {"x": [[1]]}, timeout_s=10.0)
    assert time.slept == [3.0]
    assert [body["parameters"]["timeout"] for body in bodies] == [10_000_000, 7_000_000]
    assert bodies[0]["id"] == bodies[1]["id"]


def test_it_never_sleeps_past_the_deadline(connect: Callable[..., Any], time: VirtualTime) -> None:
    client = connect(lambda _: httpx.Response(429, headers={"retry-after": "3"}, json={"error": "full"}))
    with pytest.raises(Overloaded) as raised:
        client.infer("m", {"x": [[1]]}, timeout_s=2.0)
    assert raised.value.retry_after_s == 3
    assert time.slept == []


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError]
)
def test_a_broken_connection_is_tried_again(
    connect: Callable[..., Any], time: VirtualTime, failure: type[httpx.TransportError]
) -> None:
    attempts: Iterator[int] = iter(range(10))

    def handler(request: httpx.Request) -> httpx.Response:
        if next(attempts) < 2:
            raise failure("gone")
        return echo(request)

    assert connect(handler).infer("m", {"x": [[1]]})["x"].tolist() == [[1]]
    assert len(time.slept) == 2


@pytest.mark.parametrize(
    ("failure", "timeout_s", "error"),
    [
        (httpx.ConnectError("refused"), None, ConnectionFailed),
        (httpx.ReadTimeout("slow"), 1.0, DeadlineExceeded),
        (httpx.ReadTimeout("slow"), None, ConnectionFailed),
        (httpx.UnsupportedProtocol("odd"), None, ConnectionFailed),
        (httpx.DecodingError("not gzip"), None, ProtocolError),
    ],
)
def test_httpx_errors_never_come_through(
    connect: Callable[..., Any], failure: httpx.RequestError, timeout_s: float | None, error: type[Exception]
) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise failure

    with pytest.raises(error):
        connect(handler).infer("m", {"x": [[1]]}, timeout_s=timeout_s)


def test_a_refusal_names_field_and_request(connect: Callable[..., Any]) -> None:
    body = {"error": "x must be FP32", "code": "bad_request", "field": "x", "request_id": "r"}
    with pytest.raises(BadRequest) as raised:
        connect(lambda _: httpx.Response(400, json=body)).infer("m", {"x": [[1]]})
    assert (raised.value.field, raised.value.request_id) == ("x", "r")


def test_an_answer_that_trickles_in_ends_at_the_deadline(time: VirtualTime) -> None:
    def trickle() -> Iterator[bytes]:
        for _ in range(1000):
            time.now += 1.0
            yield b" "

    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=trickle())))
    client = Client("http://server", http=http, clock=time, sleep=time.sleep)
    with pytest.raises(DeadlineExceeded):
        client.infer("m", {"x": [[1]]}, timeout_s=5.0)
    assert time.now < 8.0


def test_an_answer_that_never_comes_ends_at_the_deadline_in_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchd_client.exchange.GRACE_S", 0.0)

    async def silence(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")

    async def ask() -> None:
        now = iter([0.0, 1.4999])  # nearly all of the time has gone already when the request is sent
        http = httpx.AsyncClient(transport=httpx.MockTransport(silence))
        client = AsyncClient("http://server", http=http, clock=lambda: next(now, 2.0))
        await client.infer("m", {"x": [[1]]}, timeout_s=1.5)

    with pytest.raises(DeadlineExceeded):
        asyncio.run(ask())


def test_items_of_different_shapes_come_back_in_order_without_batch_axis(connect: Callable[..., Any]) -> None:
    items = [{"x": np.full((n % 7, 2), n, np.float32)} for n in range(40)]
    results = connect(echo).infer_many("m", items, concurrency=8)
    assert [result["x"].shape for result in results] == [(n % 7, 2) for n in range(40)]
    assert all((result["x"] == n).all() for n, result in enumerate(results))


def test_no_items_make_no_results(connect: Callable[..., Any]) -> None:
    assert connect(echo).infer_many("m", []) == []


def test_items_are_drawn_only_when_a_worker_is_free(connect: Callable[..., Any]) -> None:
    lock, drawn, answered, ahead = threading.Lock(), 0, 0, 0

    def items() -> Iterator[dict[str, Any]]:
        nonlocal drawn, ahead
        for n in range(50):
            with lock:
                drawn += 1
                ahead = max(ahead, drawn - answered)
            yield {"x": [n]}

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal answered
        with lock:
            answered += 1
        return echo(request)

    results = connect(handler).infer_many("m", items(), concurrency=3)
    assert [result["x"].tolist() for result in results] == [[n] for n in range(50)]
    assert ahead <= 3


def test_the_first_failure_of_many_is_raised_names_the_item_and_stops_the_rest(connect: Callable[..., Any]) -> None:
    asked: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        value = int(np.frombuffer(request.content[int(request.headers[LENGTH]) :], np.int64)[0])
        asked.append(value)
        return httpx.Response(400, json={"error": "bad"}) if value == 5 else echo(request)

    with pytest.raises(BadRequest) as raised:
        connect(handler).infer_many("m", ({"x": [n]} for n in range(10_000)), concurrency=2)
    assert raised.value.__notes__ == ["batchd: while inferring item 5"]
    assert len(asked) < 10_000


def test_an_item_answered_with_several_is_a_protocol_error(connect: Callable[..., Any]) -> None:
    output = {"name": "y", "datatype": "INT8", "shape": [2], "data": [1, 2]}
    answer = {"model_name": "m", "outputs": [output]}
    with pytest.raises(ProtocolError, match="of one item has shape"):
        connect(lambda _: httpx.Response(200, json=answer)).infer_many("m", [{"x": [1]}])


@pytest.mark.parametrize(
    ("options", "error"),
    [({"concurrency": 0}, ValueError), ({"request_id": "r"}, TypeError), ({"tmeout_s": 1}, TypeError)],
)
def test_many_items_refuse_options_that_make_no_sense(
    connect: Callable[..., Any], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        connect(echo).infer_many("m", [{"x": [1]}], **options)
