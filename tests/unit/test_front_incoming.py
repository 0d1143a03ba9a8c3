"""What bodies hold of a front's memory until they are prepared: counted, bounded, and always given back."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from front_rig import InlineDispatcher, Scale, input_tensor, settings_for

from batchd_server.errors import Unavailable
from batchd_server.front.app import create_app
from batchd_server.front.connection_watch import ConnectionWatch
from batchd_server.front.disconnects import ClientGone
from batchd_server.front.limits import IncomingBytes, inflate
from batchd_server.front.preparation import Preparation
from batchd_server.models.spec import Tensors

MIB = 2**20
URL = "/v2/models/held/infer"
DOCUMENT = json.dumps({"inputs": [input_tensor("x", "FP32", [1, 2], data=[1, 2])]}).encode()
BODY = DOCUMENT.ljust(MIB)
"""So long that it is prepared in a thread."""
PACKED = gzip.compress(BODY, mtime=0)
GZIP = {"Content-Encoding": "gzip"}
PATIENCE_S = 30.0


class Held(Scale):
    """Is not done with an item's preprocessing before `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.busy = threading.Semaphore(0)

    def preprocess(self, item: Tensors) -> Tensors:
        self.busy.release()
        assert self.go.wait(PATIENCE_S)
        return super().preprocess(item)


@dataclass
class HeldFront:
    client: httpx.AsyncClient
    model: Held
    incoming: IncomingBytes


@asynccontextmanager
async def held_front(limit: int) -> AsyncIterator[HeldFront]:
    model = Held()
    dispatcher = InlineDispatcher({"held": model})
    settings = settings_for(dispatcher, max_body_bytes=MIB, max_incoming_bytes=limit)
    watch = ConnectionWatch(settings.server)
    transport = httpx.ASGITransport(app=create_app(settings, dispatcher, watch=watch))
    async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
        try:
            yield HeldFront(client, model, watch.incoming)
        finally:
            model.go.set()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "headers", "fit"),
    [(BODY, {}, 3), (PACKED, GZIP, 2)],  # of the compressed ones the third is not inflated to its end
    ids=["plain", "gzip"],
)
async def test_bodies_that_wait_to_be_prepared_hold_no_more_than_they_may(
    content: bytes, headers: dict[str, str], fit: int
) -> None:
    sent = 12
    async with held_front(3 * MIB) as front:
        tasks = [asyncio.create_task(front.client.post(URL, content=content, headers=headers)) for _ in range(sent)]
        refusals = asyncio.as_completed(tasks, timeout=PATIENCE_S)
        for _, refusal in zip(range(sent - fit), refusals, strict=False):
            answer = await refusal
            assert (answer.status_code, answer.json()["code"]) == (503, "too_much_incoming")
            assert int(answer.headers["retry-after"]) >= 1
        assert fit * MIB <= front.incoming.held <= 3 * MIB
        front.model.go.set()
        answers = await asyncio.gather(*tasks)
        assert sum(answer.status_code == 200 for answer in answers) == fit
        assert front.incoming.held == 0
        assert (await front.client.post(URL, content=content, headers=headers)).status_code == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "content", "headers", "status"),
    [
        (URL, DOCUMENT, {}, 200),
        (URL, PACKED, GZIP, 200),
        (URL, BODY + b" ", {}, 413),
        (URL, gzip.compress(BODY + b" ", mtime=0), GZIP, 413),
        (URL, PACKED[:-9], GZIP, 400),
        (URL, PACKED + b"more", GZIP, 400),
        (URL, PACKED, {"Content-Encoding": "br"}, 415),
        (URL, b"{nonsense", {}, 400),
        (URL, DOCUMENT.replace(b"FP32", b"FP64").ljust(MIB), {}, 400),
        (URL, DOCUMENT.replace(b"[1, 2]}", b"[-1, 2]}").ljust(MIB), {}, 400),
        ("/v1/embeddings", DOCUMENT, {}, 400),
        ("/v2/repository/index", gzip.compress(b"{}", mtime=0), GZIP, 200),
    ],
)
async def test_whatever_becomes_of_a_request_nothing_stays_counted(
    path: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    async with held_front(4 * MIB) as front:
        front.model.go.set()
        assert (await front.client.post(path, content=content, headers=headers)).status_code == status
        assert front.incoming.held == 0


@pytest.mark.asyncio
async def test_a_request_that_is_given_up_while_it_is_prepared_gives_its_bytes_back() -> None:
    async with held_front(4 * MIB) as front:
        task = asyncio.create_task(front.client.post(URL, content=BODY))
        assert await asyncio.to_thread(front.model.busy.acquire, timeout=PATIENCE_S)
        assert front.incoming.held == MIB
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert front.incoming.held == 0


@pytest.mark.asyncio
async def test_a_body_that_is_still_inflated_when_its_request_is_given_up_takes_no_more() -> None:
    incoming, preparation = IncomingBytes(limit=MIB), Preparation()
    begun, over = threading.Event(), threading.Event()
    outcomes: list[Any] = []

    def work(take: Any) -> None:
        begun.set()
        assert over.wait(PATIENCE_S)
        try:
            outcomes.append(inflate(PACKED, "gzip", MIB, take))
        except ClientGone as gone:
            outcomes.append(gone)

    async def request() -> None:
        with incoming.charge() as charge:
            charge.take(len(PACKED))
            await preparation.in_thread(lambda: work(charge.take))

    task = asyncio.create_task(request())
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    over.set()
    preparation.close()
    assert [type(outcome) for outcome in outcomes] == [ClientGone]
    assert incoming.held == 0


def test_what_is_not_granted_is_not_counted() -> None:
    incoming = IncomingBytes(limit=10)
    with incoming.charge() as first:
        first.take(6)
        with incoming.charge() as second:
            second.take(4)
            with pytest.raises(Unavailable):
                second.take(1)
            assert incoming.held == 10
        assert incoming.held == 6
        first.give_back(2)
        assert incoming.held == 4
    assert incoming.held == 0


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_all_that_is_inflated_is_told_of(size: int) -> None:
    pieces: list[int] = []
    body = bytes(range(251)) * (size // 251) + bytes(size % 251)
    assert inflate(gzip.compress(body, 1), "gzip", 3 * MIB, pieces.append) == body
    assert sum(pieces) == size
    assert max(pieces) <= MIB
