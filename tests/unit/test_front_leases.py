"""`/v1/leases` without a device process: what clients are told, and what becomes of the wish of one that leaves."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from front_rig import InlineDispatcher, rig

from batchd_server.errors import NotFound, Unavailable
from batchd_server.link.control_calls import ControlCalls
from batchd_server.link.messages import ControlReply

pytestmark = pytest.mark.asyncio

LEASE = {"id": "lease-1", "client": "me", "limit_s": 1.0, "predicted_s": None, "waited_s": 0.0}


@dataclass
class Lending(InlineDispatcher):
    """Answers what the test says, or raises it; None = waits for ever."""

    answer: Any = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def control(self, action: str, **arguments: Any) -> Any:
        self.calls.append((action, arguments))
        if action == "lease_drop":
            return None
        if self.answer is None:
            self.entered.set()
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_lease_is_the_answer_once_it_is_granted() -> None:
    async with rig(Lending(answer={"lease": LEASE})) as front:
        response = await front.client.post("/v1/leases", json={"client": "me", "weight": 2, "expected_s": 0.02})
    assert (response.status_code, response.json()) == (200, LEASE)
    assert isinstance(front.dispatcher, Lending)
    ((action, arguments),) = front.dispatcher.calls
    assert action == "lease"
    assert arguments["ask"] == {"client": "me", "weight": 2.0, "expected_s": 0.02, "timeout_s": 30.0}


@pytest.mark.parametrize("denied", ["too_long", None])
async def test_no_lease_in_time_is_no_content_with_the_reason(denied: str | None) -> None:
    async with rig(Lending(answer={"lease": None, "denied": denied})) as front:
        response = await front.client.post("/v1/leases", json={"client": "me"})
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers.get("x-lease-denied") == denied


@pytest.mark.parametrize("body", [b"", b"{}", b'{"next": null}'])
async def test_a_return_needs_no_body(body: bytes) -> None:
    told = {"held_s": 0.1, "expired": False, "lease": None}
    async with rig(Lending(answer=told)) as front:
        response = await front.client.post("/v1/leases/lease-1/return", content=body)
    assert (response.status_code, response.json()) == (200, told)
    assert isinstance(front.dispatcher, Lending)
    ((action, arguments),) = front.dispatcher.calls
    assert (action, arguments["lease"], arguments["next"]) == ("lease_return", "lease-1", None)


@pytest.mark.parametrize("draining", [False, True])
async def test_the_next_lease_is_asked_for_unless_the_server_stops(draining: bool) -> None:
    async with rig(Lending(answer={"lease": None}, draining=draining)) as front:
        response = await front.client.post("/v1/leases/lease-1/return", json={"next": {"timeout_s": 2}})
        asked = await front.client.post("/v1/leases", json={"client": "me"})
    assert response.status_code == 200
    assert asked.status_code == (503 if draining else 204)
    assert isinstance(front.dispatcher, Lending)
    assert front.dispatcher.calls[0][1]["next"] == (None if draining else {"expected_s": None, "timeout_s": 2.0})


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v1/leases", {}, 400, "client"),
        ("/v1/leases", {"client": "../x"}, 400, "client"),
        ("/v1/leases", {"client": "me", "timeout_s": "1"}, 400, "timeout_s"),
        ("/v1/leases", {"client": "me", "weigth": 1}, 400, "weigth"),
        ("/v1/leases", [], 400, "body"),
        ("/v1/leases/lease-1/return", {"next": {"weight": 1}}, 400, "next.weight"),
        ("/v1/leases/lease-1/return", {"next": 1}, 400, "next"),
    ],
)
async def test_wrong_requests_are_problems_that_name_the_field(path: str, body: Any, status: int, field: str) -> None:
    async with rig(Lending(answer={"lease": None})) as front:
        response = await front.client.post(path, json=body)
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, response.json()["field"]) == (status, field)


@pytest.mark.parametrize(("error", "status"), [(NotFound("no such lease"), 404), (Unavailable("gone"), 503)])
async def test_what_the_device_process_refuses_is_a_problem(error: Exception, status: int) -> None:
    async with rig(Lending(answer=error)) as front:
        response = await front.client.post("/v1/leases/lease-1/return")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status == 503)


async def test_the_clients_are_listed() -> None:
    async with rig(Lending(answer=[{"client": "me"}])) as front:
        assert (await front.client.get("/v1/leases")).json() == {"data": [{"client": "me"}]}


async def test_a_client_that_leaves_takes_its_wish_along() -> None:
    dispatcher = Lending()
    sent: list[Any] = []
    async with rig(dispatcher) as front:
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": json.dumps({"client": "me"}).encode()})

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/leases",
            "raw_path": b"/v1/leases",
            "query_string": b"",
            "headers": [],
        }
        running = asyncio.create_task(front.app(scope, messages.get, send))
        await asyncio.wait_for(dispatcher.entered.wait(), 10)
        messages.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(running, 10)
    (_, asked), (action, dropped) = dispatcher.calls
    assert action == "lease_drop"
    assert dropped["token"] == asked["token"]
    assert sent == []


async def test_a_front_that_drains_ends_the_calls_that_wait_for_leases_and_no_others() -> None:
    calls = ControlCalls()
    waiting = {action: calls.begin(action, {}) for action in ("lease", "lease_return", "status")}
    replies = {action: asyncio.create_task(calls.reply(control)) for action, control in waiting.items()}
    await asyncio.sleep(0)
    calls.begin_drain()
    for action in ("lease", "lease_return"):
        with pytest.raises(Unavailable) as refused:
            await replies[action]
        assert refused.value.code == "draining"
    calls.settle(ControlReply(call=waiting["status"].call, result="well"))
    assert await replies["status"] == "well"
