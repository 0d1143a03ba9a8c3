"""A connection whose request broke off is not used again: httpcore may never answer on it."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from batchd_client.loadtest import Connections, Exchange, Payload, Target

PAYLOAD = Payload(path="/v2/models/m/infer", body=b"", size=1)


class Lane:
    """Stands for httpx's transport: what was made first never answers, all others do."""

    made: list[Lane]
    status = 200

    def __init__(self, **_settings: object) -> None:
        self.silent = not Lane.made
        self.asked = asyncio.Event()
        self.closed = False
        Lane.made.append(self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.set()
        if self.silent:
            await asyncio.get_running_loop().create_future()
        return httpx.Response(self.status, stream=httpx.ByteStream(b"{}"))

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> list[Lane]:
    monkeypatch.setattr(httpx, "AsyncHTTPTransport", Lane)
    Lane.made = []
    return Lane.made


def test_a_cancelled_request_leaves_a_fresh_connection_to_those_that_wait(lanes: list[Lane]) -> None:
    async def run() -> list[Exchange]:
        async with Connections(Target(url="http://host", max_connections=1)) as connections:
            broken = asyncio.create_task(connections.send(PAYLOAD))
            waiting = asyncio.create_task(connections.send(PAYLOAD))
            await asyncio.sleep(0)
            await lanes[0].asked.wait()
            broken.cancel()
            with pytest.raises(asyncio.CancelledError):
                await broken
            return [await waiting, await connections.send(PAYLOAD)]

    assert [exchange.outcome for exchange in asyncio.run(run())] == ["200", "200"]
    assert [lane.closed for lane in lanes] == [True, True]  # the second as the connections' own end came


def test_a_request_that_was_given_up_leaves_a_fresh_connection(lanes: list[Lane]) -> None:
    async def run() -> list[Exchange]:
        async with Connections(Target(url="http://host", max_connections=1, timeout_s=0.01)) as connections:
            return [await connections.send(PAYLOAD), await connections.send(PAYLOAD)]

    assert [exchange.outcome for exchange in asyncio.run(run())] == ["timeout", "200"]
    assert len(lanes) == 2


def test_good_answers_are_shown_to_who_wants_to_read_them(lanes: list[Lane], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Payload, bytes]] = []
    Lane()  # the silent one

    async def run() -> list[bool]:
        target = Target(url="http://host")
        async with Connections(target, read=lambda payload, _, body: seen.append((payload, body))) as connections:
            good = await connections.send(PAYLOAD)
            monkeypatch.setattr(Lane, "status", 503)
            return [good.ok, (await connections.send(PAYLOAD)).ok]

    assert asyncio.run(run()) == [True, False]
    assert seen == [(PAYLOAD, b"{}")]
