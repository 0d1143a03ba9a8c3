"""A connection whose request broke off is not used again, and a slow one holds up nobody else."""

from __future__ import annotations

import asyncio

import pytest

from batchd_client.loadtest import Connections, Exchange, Payload, Target, connections
from batchd_client.loadtest.answer_parser import WireAnswer

PAYLOAD = Payload(path="/v2/models/m/infer", body=b"", size=1)


class Lane:
    """Stands for a connection: what was made first never answers, all others do."""

    made: list[Lane]
    status = 200

    def __init__(self, *_where: object) -> None:
        self.silent = not Lane.made
        self.asked = asyncio.Event()
        self.closed = False
        Lane.made.append(self)

    @property
    def usable(self) -> bool:
        return not self.closed

    async def post(self, request: bytes) -> WireAnswer:
        self.asked.set()
        if self.silent:
            await asyncio.get_running_loop().create_future()
        return WireAnswer(status=self.status, headers={}, body=b"{}", reusable=True)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> list[Lane]:
    monkeypatch.setattr(connections, "Lane", Lane)
    Lane.made = []
    return Lane.made


def test_a_cancelled_request_leaves_a_fresh_connection_to_those_that_wait(lanes: list[Lane]) -> None:
    async def run() -> list[Exchange]:
        async with Connections(Target(url="http://host", max_connections=1)) as opened:
            broken = asyncio.create_task(opened.send(PAYLOAD))
            waiting = asyncio.create_task(opened.send(PAYLOAD))
            await asyncio.sleep(0)
            await lanes[0].asked.wait()
            broken.cancel()
            with pytest.raises(asyncio.CancelledError):
                await broken
            return [await waiting, await opened.send(PAYLOAD)]

    assert [exchange.outcome for exchange in asyncio.run(run())] == ["200", "200"]
    assert [lane.closed for lane in lanes] == [True, True]  # the second as the connections' own end came


def test_a_request_that_was_given_up_leaves_a_fresh_connection(lanes: list[Lane]) -> None:
    async def run() -> list[Exchange]:
        async with Connections(Target(url="http://host", max_connections=1, timeout_s=0.01)) as opened:
            return [await opened.send(PAYLOAD), await opened.send(PAYLOAD)]

    assert [exchange.outcome for exchange in asyncio.run(run())] == ["timeout", "200"]
    assert len(lanes) == 2


def test_good_answers_are_shown_to_who_wants_to_read_them(lanes: list[Lane], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Payload, bytes]] = []
    Lane()  # the silent one

    async def run() -> list[bool]:
        target = Target(url="http://host")
        async with Connections(target, read=lambda payload, _, body: seen.append((payload, body))) as opened:
            good = await opened.send(PAYLOAD)
            monkeypatch.setattr(Lane, "status", 503)
            return [good.ok, (await opened.send(PAYLOAD)).ok]

    assert asyncio.run(run()) == [True, False]
    assert seen == [(PAYLOAD, b"{}")]
