"""A scripted device process's end of the link in a thread, and the dispatcher of a front that is connected to it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np

from batchd_server.front.dispatcher import InferenceRequest
from batchd_server.front.link_dispatcher import LinkDispatcher
from batchd_server.link.codec import Frame, pack_tensors, unpack_tensors
from batchd_server.link.device_endpoint import DeviceEndpoint, Received
from batchd_server.link.messages import (
    Announce,
    Answers,
    Control,
    ControlReply,
    Fallen,
    Hello,
    ItemAnswer,
    ModelState,
    Offer,
)

WITHIN_S = 60.0


class Identity:
    """The front half of a model; the scripted device answers with what it was sent."""

    inputs = outputs = ()

    def shape(self, item: Any) -> tuple[int, ...]:
        return tuple(item["x"].shape)


class Device:
    """A device process's end: greets fronts, answers offers unless told to keep them, and notes what it was told."""

    def __init__(
        self,
        address: str,
        incarnation: str,
        *,
        ready: bool = True,
        keeps: bool = False,
        fallen: tuple[Fallen, ...] = (),
    ) -> None:
        self.announce = Announce(
            incarnation=incarnation,
            pid=1,
            ready=ready,
            draining=False,
            models=(ModelState("m", "READY" if ready else "LOADING", slo_s=30.0),),
            fallen=fallen,
        )
        self.keeps = keeps
        self.heard: list[Any] = []
        self.front = b""
        self._endpoint = DeviceEndpoint(address)
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._endpoint.waker().wake()
        self._thread.join()

    def told(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    def _run(self) -> None:
        while not self._stopping:
            for received in self._endpoint.receive(10.0):
                self._take(received)
        self._endpoint.close()

    def _take(self, received: Received) -> None:
        self.heard.append(received.message)
        self.front = received.front
        match received.message:
            case Hello():
                self._endpoint.send(received.front, self.announce)
            case Offer() as offer if not self.keeps:
                answers, frames = _echo(offer, received.frames)
                self._endpoint.send(received.front, Answers(answers), frames)
            case Control(call=call, action="status"):
                self._endpoint.send(received.front, ControlReply(call, result={"answered": True}))
            case Control(call=call, action="load"):
                self._endpoint.send(received.front, ControlReply(call, error=(404, "not_found", "no such model")))


def _echo(offer: Offer, received: list[memoryview]) -> tuple[tuple[ItemAnswer, ...], list[Frame]]:
    frames: list[Frame] = []
    answers = []
    for index, item in reversed(list(enumerate(offer.items))):
        x = unpack_tensors(item.tensors, received)["x"]
        if x[0] < 0:
            answers.append(ItemAnswer(offer.request, index, error=(429, "queue_full", "full", 1.5)))
        else:
            answers.append(
                ItemAnswer(offer.request, index, pack_tensors({"x": x}, frames), batch_size=len(offer.items))
            )
    return tuple(answers), frames


@contextmanager
def device_at(address: str, incarnation: str = "first", **options: Any) -> Iterator[Device]:
    device = Device(address, incarnation, **options)
    try:
        yield device
    finally:
        device.stop()


@asynccontextmanager
async def dispatcher_to(address: str) -> AsyncIterator[LinkDispatcher]:
    # the scripted device says once that it is there, and is not to be given up for that
    dispatcher = LinkDispatcher(address, {"m": Identity()}, hang_timeout_s=WITHIN_S)  # type: ignore[dict-item]
    dispatcher.open()
    try:
        yield dispatcher
    finally:
        await dispatcher.close()


def request_of(*values: float, timeout_s: float | None = None) -> InferenceRequest:
    now = time.monotonic()
    return InferenceRequest(
        model="m",
        items=[{"x": np.array([value], dtype=np.float32)} for value in values],
        arrived=now,
        deadline=None if timeout_s is None else now + timeout_s,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - the condition is another thread's or process's
            await asyncio.sleep(0.01)


def ended(task: asyncio.Future[Any]) -> Awaitable[Any]:
    return asyncio.wait_for(task, WITHIN_S)


def say_hello_and_die(address: str) -> None:
    """A front process's whole life. Here, because a spawned process can import this module, but no test."""

    async def greet() -> None:
        async with dispatcher_to(address) as dispatcher:
            await until(lambda: dispatcher.state().ready)

    asyncio.run(greet())
