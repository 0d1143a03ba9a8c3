"""The two ends of the link against each other: a real socket, the device's end in a thread that the test scripts."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from scripted_device_rig import device_at, dispatcher_to, ended, request_of, say_hello_and_die, until

from batchd_server.errors import DeadlineExceeded, NotFound, QueueFull, ServingError, Unavailable
from batchd_server.link.codec import LinkError
from batchd_server.link.device_endpoint import DeviceEndpoint
from batchd_server.link.device_watch import DeviceWatch
from batchd_server.link.messages import Cancel, Control, Goodbye, Hello, Observations, Offer


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/link"


@pytest.mark.asyncio
async def test_answers_come_back_in_the_order_of_the_request(address: str) -> None:
    with device_at(address):
        async with dispatcher_to(address) as dispatcher:
            await until(lambda: dispatcher.state().ready)
            answer = await dispatcher.infer(request_of(3, 1, 2))
            assert [float(output["x"][0]) for output in answer.outputs] == [3, 1, 2]
            assert [timing.batch_size for timing in answer.timings] == [3, 3, 3]


@pytest.mark.asyncio
async def test_thousands_at_once_are_all_answered_with_their_own_answers(address: str) -> None:
    with device_at(address):
        async with dispatcher_to(address) as dispatcher:
            await until(lambda: dispatcher.state().ready)
            answers = await asyncio.gather(*(dispatcher.infer(request_of(value)) for value in range(3000)))
            assert [float(answer.outputs[0]["x"][0]) for answer in answers] == list(range(3000))


@pytest.mark.asyncio
async def test_before_anything_was_ready_requests_are_refused_at_once(address: str) -> None:
    async with dispatcher_to(address) as dispatcher:
        with pytest.raises(Unavailable) as refused:
            await dispatcher.infer(request_of(1))
        assert refused.value.retry_after_s is not None
        with device_at(address, ready=False):
            await until(lambda: dispatcher.state().connected)
            with pytest.raises(Unavailable):
                await dispatcher.infer(request_of(1))


@pytest.mark.asyncio
async def test_what_a_lost_device_had_is_offered_to_the_next_one(address: str) -> None:
    async with dispatcher_to(address) as dispatcher:
        with device_at(address, keeps=True) as lost:
            await until(lambda: dispatcher.state().ready)
            waiting = [asyncio.create_task(dispatcher.infer(request_of(value, timeout_s=60))) for value in range(5)]
            await until(lambda: len(lost.told(Offer)) == 5)
        await until(lambda: not dispatcher.state().connected)
        waiting.append(asyncio.create_task(dispatcher.infer(request_of(5, timeout_s=60))))
        with device_at(address, "second") as successor:
            answers = await ended(asyncio.gather(*waiting))
            assert [float(answer.outputs[0]["x"][0]) for answer in answers] == [0, 1, 2, 3, 4, 5]
            assert len(successor.told(Offer)) == 6


@pytest.mark.asyncio
async def test_with_no_device_in_sight_a_request_ends_at_its_deadline(address: str) -> None:
    async with dispatcher_to(address) as dispatcher:
        with device_at(address):
            await until(lambda: dispatcher.state().ready)
        await until(lambda: not dispatcher.state().connected)
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await dispatcher.infer(request_of(1, timeout_s=0.2))
        assert 0.15 < time.monotonic() - begun < 20


@pytest.mark.asyncio
async def test_a_cancelled_request_is_cancelled_at_the_device(address: str) -> None:
    with device_at(address, keeps=True) as device:
        async with dispatcher_to(address) as dispatcher:
            await until(lambda: dispatcher.state().ready)
            task = asyncio.create_task(dispatcher.infer(request_of(1)))
            await until(lambda: bool(device.told(Offer)))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await until(lambda: bool(device.told(Cancel)))
            assert device.told(Cancel)[0].request == device.told(Offer)[0].request


@pytest.mark.asyncio
async def test_one_refused_item_refuses_the_request_and_the_link_goes_on(address: str) -> None:
    with device_at(address):
        async with dispatcher_to(address) as dispatcher:
            await until(lambda: dispatcher.state().ready)
            with pytest.raises(QueueFull) as refused:
                await dispatcher.infer(request_of(1, -1, 2))
            assert (refused.value.code, refused.value.retry_after_s) == ("queue_full", 1.5)
            assert len((await dispatcher.infer(request_of(4))).outputs) == 1


@pytest.mark.asyncio
async def test_controls_are_answered_refused_or_told_of_a_loss(address: str) -> None:
    async with dispatcher_to(address) as dispatcher:
        with pytest.raises(Unavailable):
            await dispatcher.control("status")
        with device_at(address) as device:
            await until(lambda: dispatcher.state().ready)
            assert await dispatcher.control("status") == {"answered": True}
            with pytest.raises(NotFound, match="no such model"):
                await dispatcher.control("load", model="x")
            unanswered = asyncio.create_task(dispatcher.control("decisions"))
            await until(lambda: any(control.action == "decisions" for control in device.told(Control)))
        with pytest.raises(Unavailable):
            await ended(unanswered)


@pytest.mark.asyncio
async def test_nobody_waits_for_a_device_process_that_has_fallen_silent(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with device_at(address) as device:
        async with dispatcher_to(address) as dispatcher:
            await until(lambda: dispatcher.state().ready)
            monkeypatch.setattr(DeviceWatch, "is_silent", lambda self, now: True)
            monkeypatch.setattr(DeviceWatch, "is_given_up", lambda self, now: True)
            with pytest.raises(Unavailable) as refused:
                await dispatcher.control("status")
            assert refused.value.code == "device_lost"
            with pytest.raises(Unavailable):
                await dispatcher.infer(request_of(1))
            assert device.told(Control) == device.told(Offer) == []


@pytest.mark.asyncio
async def test_an_unknown_model_is_named_as_the_field_that_is_wrong(address: str) -> None:
    async with dispatcher_to(address) as dispatcher:
        with pytest.raises(NotFound) as unknown:
            dispatcher.model("nobody")
    assert unknown.value.field == "model"


@pytest.mark.asyncio
async def test_observations_arrive_before_the_metrics_that_count_them_and_goodbye_is_last(address: str) -> None:
    with device_at(address) as device:
        async with dispatcher_to(address) as dispatcher:
            await until(lambda: dispatcher.state().ready)
            dispatcher.observe("m", "oip", "ok", 0.5, 0.1)
            scrape = asyncio.create_task(dispatcher.control("metrics"))
            await until(lambda: bool(device.told(Control)))
            scrape.cancel()
        await until(lambda: bool(device.told(Goodbye)))
    kinds = [type(message) for message in device.heard]
    assert kinds.index(Observations) < kinds.index(Control)
    assert kinds[-1] is Goodbye
    assert device.told(Observations)[0].rows == (("m", "oip", "ok", 0.5, 0.1),)


@pytest.mark.asyncio
async def test_draining_refuses_what_is_new_and_abandoning_ends_what_is_old(address: str) -> None:
    with device_at(address, keeps=True) as device:
        async with dispatcher_to(address) as dispatcher:
            await until(lambda: dispatcher.state().ready)
            waiting = asyncio.create_task(dispatcher.infer(request_of(1)))
            await until(lambda: bool(device.told(Offer)))
            dispatcher.begin_drain()
            assert dispatcher.state().draining
            with pytest.raises(Unavailable):
                await dispatcher.infer(request_of(2))
            assert not waiting.done()
            dispatcher.abandon()
            with pytest.raises(ServingError) as told:
                await ended(waiting)
            assert told.value.status == 503


def test_messages_to_a_front_that_has_gone_are_noticed(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with device_at(address) as device:
        front = multiprocessing.get_context("spawn").Process(target=say_hello_and_die, args=(address,))
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
