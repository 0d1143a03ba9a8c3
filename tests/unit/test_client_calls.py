"""Both clients through a transport that is a function: what they send, and what they make of the answer."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from batchd_client import (
    AsyncClient,
    BadRequest,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InferResult,
    ModelMetadata,
    Overloaded,
    ProtocolError,
    RepositoryEntry,
    RetryPolicy,
    ServerMetadata,
    TensorMetadata,
)

Handler = Callable[[httpx.Request], httpx.Response]
LENGTH = "inference-header-content-length"


@dataclass
class VirtualTime:
    """A clock that only sleeping moves."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class Blocking:
    """An AsyncClient whose methods block, so that one test covers both clients."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        async def run(*args: Any, **options: Any) -> Any:
            return await method(*args, **options)

        return lambda *args, **options: asyncio.run(run(*args, **options))


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, time: VirtualTime) -> Callable[..., Any]:
    """Return a maker of clients whose server is a function."""

    def make(handler: Handler, **settings: Any) -> Any:
        transport = httpx.MockTransport(handler)
        if request.param == "sync":
            http = httpx.Client(transport=transport)
            return Client("http://server/prefix/", http=http, clock=time, sleep=time.sleep, **settings)
        async_http = httpx.AsyncClient(transport=transport)
        return Blocking(
            AsyncClient("http://server/prefix/", http=async_http, clock=time, sleep=time.sleep_async, **settings)
        )

    return make


def echo(request: httpx.Request) -> httpx.Response:
    """Answer an inference request with its inputs as outputs, in binary if asked for."""
    length = request.headers.get(LENGTH)
    head = json.loads(request.content if length is None else request.content[: int(length)])
    answer = {"model_name": "m", "model_version": "1", "id": head.get("id"), "outputs": head["inputs"]}
    text = json.dumps(answer).encode()
    if length is None:
        return httpx.Response(200, content=text)
    return httpx.Response(200, headers={LENGTH: str(len(text))}, content=text + request.content[int(length) :])


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
