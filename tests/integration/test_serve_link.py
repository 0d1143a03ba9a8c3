"""The two ends of the link against each other: a real socket, the device's end in a thread that the test scripts."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchd_server.errors import DeadlineExceeded, NotFound, QueueFull, ServingError, Unavailable
from batchd_server.front.dispatcher import InferenceRequest
from batchd_server.front.link_dispatcher import LinkDispatcher
from batchd_server.link.codec import Frame, LinkError, pack_tensors, unpack_tensors
from batchd_server.link.device_endpoint import DeviceEndpoint, Received
from batchd_server.link.device_watch import DeviceWatch
from batchd_server.link.messages import (
    Announce,
    Answers,
    Cancel,
    Control,
    ControlReply,
    Goodbye,
    Hello,
    ItemAnswer,
    ModelState,
    Observations,
    Offer,
)

WITHIN_S = 20.0


class Identity:
    """The front half of a model; the scripted device answers with what it was sent."""

    inputs = outputs = ()

    def shape(self, item: Any) -> tuple[int, ...]:
        return tuple(item["x"].shape)


class Device:
    """A device process's end: greets fronts, answers offers unless told to keep them, and notes what it was told."""

    def __init__(self, address: str, incarnation: str, *, ready: bool = True, keeps: bool = False) -> None:
        self.announce = Announce(
            incarnation=incarnation,
            pid=1,
            ready=ready,
            draining=False,
            models=(ModelState("m", "READY" if ready else "LOADING", slo_s=30.0),),
        )
        self.keeps = keeps
        self.heard: list[Any] = []
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
def _device(address: str, incarnation: str = "first", **options: bool) -> Iterator[Device]:
    device = Device(address, incarnation, **options)
    try:
        yield device
    finally:
        device.stop()


@asynccontextmanager
async def _dispatcher(address: str) -> AsyncIterator[LinkDispatcher]:
    dispatcher = LinkDispatcher(address, {"m": Identity()})  # type: ignore[dict-item]
    dispatcher.open()
    try:
        yield dispatcher
    finally:
        await dispatcher.close()


def _request(*values: float, timeout_s: float | None = None) -> InferenceRequest:
    now = time.monotonic()
    return InferenceRequest(
        model="m",
        items=[{"x": np.array([value], dtype=np.float32)} for value in values],
        arrived=now,
        deadline=None if timeout_s is None else now + timeout_s,
    )


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - the condition is another thread's or process's
            await asyncio.sleep(0.01)


def _ended(task: asyncio.Future[Any]) -> Awaitable[Any]:
    return asyncio.wait_for(task, WITHIN_S)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/link"


@pytest.mark.asyncio
async def test_answers_come_back_in_the_order_of_the_request(address: str) -> None:
    with _device(address):
        async with _dispatcher(address) as dispatcher:
            await _until(lambda: dispatcher.state().ready)
            answer = await dispatcher.infer(_request(3, 1, 2))
            assert [float(output["x"][0]) for output in answer.outputs] == [3, 1, 2]
            assert [timing.batch_size for timing in answer.timings] == [3, 3, 3]


@pytest.mark.asyncio
async def test_thousands_at_once_are_all_answered_with_their_own_answers(address: str) -> None:
    with _device(address):
        async with _dispatcher(address) as dispatcher:
            await _until(lambda: dispatcher.state().ready)
            answers = await asyncio.gather(*(dispatcher.infer(_request(value)) for value in range(3000)))
            assert [float(answer.outputs[0]["x"][0]) for answer in answers] == list(range(3000))


@pytest.mark.asyncio
async def test_before_anything_was_ready_requests_are_refused_at_once(address: str) -> None:
    async with _dispatcher(address) as dispatcher:
        with pytest.raises(Unavailable) as refused:
            await dispatcher.infer(_request(1))
        assert refused.value.retry_after_s is not None
        with _device(address, ready=False):
            await _until(lambda: dispatcher.state().connected)
            with pytest.raises(Unavailable):
                await dispatcher.infer(_request(1))


@pytest.mark.asyncio
async def test_what_a_lost_device_had_is_offered_to_the_next_one(address: str) -> None:
    async with _dispatcher(address) as dispatcher:
        with _device(address, keeps=True) as lost:
            await _until(lambda: dispatcher.state().ready)
            waiting = [asyncio.create_task(dispatcher.infer(_request(value, timeout_s=60))) for value in range(5)]
            await _until(lambda: len(lost.told(Offer)) == 5)
        await _until(lambda: not dispatcher.state().connected)
        waiting.append(asyncio.create_task(dispatcher.infer(_request(5, timeout_s=60))))
        with _device(address, "second") as successor:
            answers = await _ended(asyncio.gather(*waiting))
            assert [float(answer.outputs[0]["x"][0]) for answer in answers] == [0, 1, 2, 3, 4, 5]
            assert len(successor.told(Offer)) == 6


@pytest.mark.asyncio
async def test_with_no_device_in_sight_a_request_ends_at_its_deadline(address: str) -> None:
    async with _dispatcher(address) as dispatcher:
        with _device(address):
            await _until(lambda: dispatcher.state().ready)
        await _until(lambda: not dispatcher.state().connected)
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await dispatcher.infer(_request(1, timeout_s=0.2))
        assert 0.15 < time.monotonic() - begun < 5


@pytest.mark.asyncio
async def test_a_cancelled_request_is_cancelled_at_the_device(address: str) -> None:
    with _device(address, keeps=True) as device:
        async with _dispatcher(address) as dispatcher:
            await _until(lambda: dispatcher.state().ready)
            task = asyncio.create_task(dispatcher.infer(_request(1)))
            await _until(lambda: bool(device.told(Offer)))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await _until(lambda: bool(device.told(Cancel)))
            assert device.told(Cancel)[0].request == device.told(Offer)[0].request


@pytest.mark.asyncio
async def test_one_refused_item_refuses_the_request_and_the_link_goes_on(address: str) -> None:
    with _device(address):
        async with _dispatcher(address) as dispatcher:
            await _until(lambda: dispatcher.state().ready)
            with pytest.raises(QueueFull) as refused:
                await dispatcher.infer(_request(1, -1, 2))
            assert (refused.value.code, refused.value.retry_after_s) == ("queue_full", 1.5)
            assert len((await dispatcher.infer(_request(4))).outputs) == 1


@pytest.mark.asyncio
async def test_controls_are_answered_refused_or_told_of_a_loss(address: str) -> None:
    async with _dispatcher(address) as dispatcher:
        with pytest.raises(Unavailable):
            await dispatcher.control("status")
        with _device(address) as device:
            await _until(lambda: dispatcher.state().ready)
            assert await dispatcher.control("status") == {"answered": True}
            with pytest.raises(NotFound, match="no such model"):
                await dispatcher.control("load", model="x")
            unanswered = asyncio.create_task(dispatcher.control("decisions"))
            await _until(lambda: any(control.action == "decisions" for control in device.told(Control)))
        with pytest.raises(Unavailable):
            await _ended(unanswered)


@pytest.mark.asyncio
async def test_nobody_waits_for_a_device_process_that_has_fallen_silent(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _device(address) as device:
        async with _dispatcher(address) as dispatcher:
            await _until(lambda: dispatcher.state().ready)
            monkeypatch.setattr(DeviceWatch, "is_silent", lambda self, now: True)
            with pytest.raises(Unavailable) as refused:
                await dispatcher.control("status")
            assert refused.value.code == "device_lost"
            with pytest.raises(Unavailable):
                await dispatcher.infer(_request(1))
            assert device.told(Control) == device.told(Offer) == []


@pytest.mark.asyncio
async def test_an_unknown_model_is_named_as_the_field_that_is_wrong(address: str) -> None:
    async with _dispatcher(address) as dispatcher:
        with pytest.raises(NotFound) as unknown:
            dispatcher.model("nobody")
    assert unknown.value.field == "model"


@pytest.mark.asyncio
async def test_observations_arrive_before_the_metrics_that_count_them_and_goodbye_is_last(address: str) -> None:
    with _device(address) as device:
        async with _dispatcher(address) as dispatcher:
            await _until(lambda: dispatcher.state().ready)
            dispatcher.observe("m", "oip", "ok", 0.5, 0.1)
            scrape = asyncio.create_task(dispatcher.control("metrics"))
            await _until(lambda: bool(device.told(Control)))
            scrape.cancel()
        await _until(lambda: bool(device.told(Goodbye)))
    kinds = [type(message) for message in device.heard]
    assert kinds.index(Observations) < kinds.index(Control)
    assert kinds[-1] is Goodbye
    assert device.told(Observations)[0].rows == (("m", "oip", "ok", 0.5, 0.1),)


@pytest.mark.asyncio
async def test_draining_refuses_what_is_new_and_abandoning_ends_what_is_old(address: str) -> None:
    with _device(address, keeps=True) as device:
        async with _dispatcher(address) as dispatcher:
            await _until(lambda: dispatcher.state().ready)
            waiting = asyncio.create_task(dispatcher.infer(_request(1)))
            await _until(lambda: bool(device.told(Offer)))
            dispatcher.begin_drain()
            assert dispatcher.state().draining
            with pytest.raises(Unavailable):
                await dispatcher.infer(_request(2))
            assert not waiting.done()
            dispatcher.abandon()
            with pytest.raises(ServingError) as ended:
                await _ended(waiting)
            assert ended.value.status == 503


def _say_hello_and_die(address: str) -> None:
    async def greet() -> None:
        async with _dispatcher(address) as dispatcher:
            await _until(lambda: dispatcher.state().ready)

    asyncio.run(greet())


def test_messages_to_a_front_that_has_gone_are_noticed(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with _device(address) as device:
        front = multiprocessing.get_context("spawn").Process(target=_say_hello_and_die, args=(address,))
        front.start()
        front.join(60)
        assert front.exitcode == 0
        assert device.told(Hello)
    endpoint = DeviceEndpoint(address)
    try:
        assert endpoint.send(b"front-that-never-was", device.announce) is False
        assert "front-that-never-was has gone" in caplog.text
    finally:
        endpoint.close()


def test_a_wake_up_ends_a_receive_that_waits_and_one_before_it_is_not_lost(address: str) -> None:
    endpoint = DeviceEndpoint(address)
    try:
        endpoint.waker().wake()
        begun = time.monotonic()
        assert endpoint.receive(30.0) == []
        timer = threading.Timer(0.05, endpoint.waker().wake)
        timer.start()
        assert endpoint.receive(30.0) == []
        assert time.monotonic() - begun < 15
        timer.join()
    finally:
        endpoint.close()


def test_an_address_that_cannot_be_bound_is_a_link_error(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="cannot listen"):
        DeviceEndpoint(f"ipc://{tmp_path}/absent/link")
