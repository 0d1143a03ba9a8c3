"""The device process as a front process sees it: over the real link, with real torch models."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from device_process_rig import Device, settings_with

from batchd_server.config.settings import Settings
from batchd_server.link.messages import (
    Cancel,
    Goodbye,
    Observations,
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Settings], Device]]:
    devices: list[Device] = []

    def start_one(settings: Settings) -> Device:
        device = Device(tmp_path / f"device{len(devices)}", settings)
        devices.append(device)
        return device

    yield start_one
    for device in devices:
        device.close()


Start = Callable[[Settings], Device]
SLEEPER = {"sleeper": True}


def test_answers_every_item_alike_whatever_batch_it_ran_in(start: Start) -> None:
    front = start(settings_with(double={})).front
    front.until(front.ready)
    lengths = [1, 5, 8, 9, 30, 64, 3, 17]
    for number, length in enumerate(lengths):
        front.offer(number, np.arange(length), np.arange(length) + 1)
    front.until(lambda: len(front.answers) == 2 * len(lengths))
    for number, length in enumerate(lengths):
        np.testing.assert_array_equal(front.output(number, 0), 2 * np.arange(length, dtype=np.float32))
        np.testing.assert_array_equal(front.output(number, 1), 2 * np.arange(1, length + 1, dtype=np.float32))
    timings = [answer for answer, _ in front.answers.values()]
    assert all(answer.batch_size >= 1 and answer.queue_s >= 0 and answer.compute_s > 0 for answer in timings)


def test_one_poisoned_item_fails_alone(start: Start) -> None:
    front = start(settings_with(double={"poison": 13.0, "pause_s": 0.05})).front
    front.until(front.ready)
    for number in range(12):
        front.offer(number, [float(number + 5)] * 4)
    front.until(lambda: len(front.answers) == 12)
    status, code, message, _ = front.error(8)
    assert (status, code) == (500, "model_failed")
    assert "ValueError: poisoned at" in message
    assert "shadow" not in message, "a client must not learn paths"
    assert "Traceback" not in message
    for number in set(range(12)) - {8}:
        np.testing.assert_array_equal(front.output(number), [2.0 * (number + 5)] * 4)


def test_out_of_memory_splits_the_batch_and_loses_nothing(start: Start) -> None:
    front = start(settings_with(double={"limit": 40, "pause_s": 0.02})).front
    front.until(front.ready)
    for number in range(24):
        front.offer(number, [1.0] * 8)
    front.offer(99, [1.0] * 48)
    front.until(lambda: len(front.answers) == 25)
    for number in range(24):
        np.testing.assert_array_equal(front.output(number), [2.0] * 8)
    assert front.error(99)[:2] in {(507, "insufficient_memory"), (413, "insufficient_memory")}


def test_a_model_that_fails_to_load_is_unavailable_and_others_serve(start: Start) -> None:
    device = start(settings_with(double={}, broken={"broken": True}))
    front = device.front
    front.until(
        lambda: front.state is not None and {model.state for model in front.state.models} == {"READY", "UNAVAILABLE"}
    )
    assert front.state is not None
    states = {model.name: model for model in front.state.models}
    assert states["broken"].state == "UNAVAILABLE"
    assert "weights are missing" in states["broken"].reason
    assert "secret" not in states["broken"].reason
    assert not front.state.ready
    front.offer(1, [3.0])
    front.offer(2, [3.0], model="broken")
    front.until(lambda: len(front.answers) == 2)
    assert front.output(1)[0] == 6.0
    assert front.error(2)[:2] == (503, "model_not_loaded")
    reply = front.control("load", model="broken")
    assert reply.error is not None
    assert reply.error[1] == "load_failed"


def test_models_unload_and_load_again(start: Start) -> None:
    front = start(settings_with(double={"pause_s": 0.1})).front
    front.until(front.ready)
    for number in range(3):
        front.offer(number, [1.0] * 8)
    assert front.control("unload", model="double").result["state"] == "UNAVAILABLE"
    front.until(lambda: len(front.answers) == 3)
    assert {answer.error[0] if answer.error else 200 for answer, _ in front.answers.values()} <= {200, 503}
    front.offer(7, [1.0])
    front.until(lambda: (7, 0) in front.answers)
    assert front.error(7)[:2] == (503, "model_not_loaded")
    assert front.control("load", model="double").result == {"name": "double", "state": "READY", "reason": ""}
    front.offer(8, [1.0])
    front.until(lambda: (8, 0) in front.answers)
    assert front.output(8)[0] == 2.0
    assert front.control("load", model="nonesuch").error[0] == 404  # type: ignore[index]


def test_a_deadline_that_passes_in_the_queue_is_answered_504(start: Start) -> None:
    front = start(settings_with(double=SLEEPER)).front
    front.until(front.ready)
    front.occupy(1, 5.0)
    front.offer(2, [1.0] * 40, deadline_s=0.05)
    front.until(lambda: len(front.answers) == 2)
    assert front.output(1)[0] == -10.0
    assert front.error(2)[0] in {429, 504}  # refused at once, or expired behind the first


def test_a_cancelled_request_is_not_answered(start: Start) -> None:
    front = start(settings_with(double=SLEEPER)).front
    front.until(front.ready)
    front.occupy(1, 5.0)
    front.offer(2, [1.0] * 40)
    front.say(Cancel(request=2))
    front.offer(3, [1.0] * 40)
    front.until(lambda: (3, 0) in front.answers)
    assert set(front.answers) == {(1, 0), (3, 0)}


def test_sigterm_finishes_what_was_admitted_and_saves_what_was_learned(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state"
    device = start(settings_with(state=state, slo_ms=30_000, drain_timeout_s=30.0, double=SLEEPER))
    front = device.front
    front.until(front.ready)
    front.occupy(4, 6.0)  # time enough to be refused in
    for number in range(4):
        front.offer(number, [1.0] * (8 * (number + 1)))
    front.control("status")  # it is answered after these have been heard
    device.process.send_signal(signal.SIGTERM)
    front.until(lambda: front.state is not None and front.state.draining)
    front.offer(9, [1.0])
    front.until(lambda: len(front.answers) == 6)
    assert front.error(9)[:2] == (503, "draining")
    for number in range(4):
        np.testing.assert_array_equal(front.output(number), [2.0] * (8 * (number + 1)))
    assert front.output(4)[0] == -12.0
    assert device.process.wait(20) == 0
    saved = json.loads((state / "cost-models" / "double.json").read_text())
    assert saved["circumstances"]["entrypoint"] == "toy_models:Doubler"
    (state / "cost-models" / "double.json").write_text("{ broken")
    again = start(settings_with(state=state, double={"pause_s": 0.2}))
    again.front.until(again.front.ready)
    again.front.offer(1, [1.0])
    again.front.until(lambda: bool(again.front.answers))
    assert "cannot be read and is ignored" in again.log.read_text()


def test_a_drain_that_takes_too_long_answers_503(start: Start) -> None:
    device = start(settings_with(drain_timeout_s=0.1, double=SLEEPER))
    front = device.front
    front.until(front.ready)
    front.occupy(1, 60.0)
    device.process.send_signal(signal.SIGTERM)
    front.until(lambda: bool(front.answers))
    assert front.error(1)[:2] == (503, "draining")
    assert device.process.wait(20) == 0


def test_control_answers_are_json_and_tell_of_what_ran(start: Start) -> None:
    device = start(settings_with(double={}, other={}))
    front = device.front
    front.until(front.ready)
    for number in range(6):
        front.offer(number, [1.0] * 5, [1.0] * 8)
    front.until(lambda: len(front.answers) == 12)
    front.say(Observations(rows=(("double", "oip", "ok", 0.02, 0.001),)))

    status = front.control("status").result
    json.dumps(status)
    assert status["device"]["pid"] == device.process.pid
    assert status["device"]["kind"] == "cpu"
    assert status["fronts"] == [{"pid": os.getpid()}]
    assert status["incarnation"] == front.announced[0].incarnation
    assert {model["name"]: model["state"] for model in status["models"]} == {"double": "READY", "other": "READY"}
    assert status["budget"]["total_bytes"] > status["budget"]["headroom_bytes"] > 0

    (stats,) = front.control("statistics", model="double").result["model_stats"]
    assert stats["inference_count"] == 12
    assert stats["execution_count"] == sum(entry["compute_infer"]["count"] for entry in stats["batch_stats"])
    assert stats["inference_stats"]["success"]["count"] == 6
    assert stats["inference_stats"]["queue"]["count"] == 12
    assert [entry["name"] for entry in front.control("statistics").result["model_stats"]] == ["double", "other"]
    assert front.control("statistics", model="nonesuch").error[0] == 404  # type: ignore[index]

    decisions = front.control("decisions", limit=50).result
    assert sum(decision["batch_size"] for decision in decisions) == 12
    assert any(decision["peak_bytes"] for decision in decisions), "the first run of a cell measures its peak"
    assert all(0 <= decision["padding_ratio"] < 1 for decision in decisions)

    text = front.control("metrics").result
    assert 'batchd_requests_total{api="oip",model="double",outcome="ok"} 1.0' in text
    assert 'batchd_batch_size_items_sum{model="double"} 12.0' in text
    assert 'batchd_model_ready{model="double"} 1.0' in text


def test_a_front_that_says_goodbye_leaves_nothing_behind(start: Start) -> None:
    device = start(settings_with(double={"pause_s": 0.2}))
    device.front.until(device.front.ready)
    for number in range(5):
        device.front.offer(number, [1.0] * 8 * (number + 1))
    device.front.say(Goodbye())
    assert device.terminate() == 0
    assert not device.front.answers


def test_sigterm_does_not_wait_for_a_slow_load(start: Start) -> None:
    device = start(settings_with(double={}, slow={"load_s": 600.0}))
    device.front.until(lambda: device.front.states() == {"double": "READY", "slow": "LOADING"})
    device.front.offer(1, [1.0])
    device.front.until(lambda: bool(device.front.answers))
    assert device.front.output(1)[0] == 2.0, "others are served meanwhile"
    assert device.terminate() == 0
