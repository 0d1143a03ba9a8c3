"""Items through the device process's serving room, with the real controller and a device that the test plays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from batchd.budget import BudgetPolicy
from batchd.controller import Controller
from batchd.decision import Admitted, RunBatch
from batchd.item import Item, ItemId
from batchd.outcome import Completed, Failed, OutOfMemory
from batchd.policy import ModelPolicy
from batchd_server.device.answering import Answering
from batchd_server.device.black_box import FILE, BlackBox, fallen_before
from batchd_server.device.failures import Failure, FailureKind
from batchd_server.device.serving import Serving
from batchd_server.device.work import BatchDone, BatchWork, Stages
from batchd_server.errors import Unavailable
from batchd_server.link.codec import Frame, pack_tensors, unpack_tensors
from batchd_server.link.messages import Answers, DeviceMessage, ItemAnswer, Offer, OfferedItem, RunningItem
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors
from batchd_server.observe.arrival_trace import ArrivalTrace
from batchd_server.observe.instruments import Instruments
from batchd_server.observe.metrics import Metrics
from batchd_server.observe.model_statistics import ModelStatistics

POLICY = ModelPolicy(slo_s=1.0, max_batch_size=8, max_queue_size=16, max_wait_s=0.0)
MODEL = cast("Model", object())


class Device:
    """Fronts on one side, an executor on the other; time stands still unless the test moves it."""

    def __init__(self, box: Path, policy: ModelPolicy = POLICY) -> None:
        self.box = box
        self.now = 100.0
        self.controller = Controller(BudgetPolicy())
        self.controller.add_model("m", policy)
        self._let_batches_grow()
        self.work: list[BatchWork] = []
        self.messages: list[tuple[bytes, Answers, Sequence[Frame]]] = []
        metrics = Metrics(version="0", torch_version="0", device="test")
        statistics = {"m": ModelStatistics(name="m", version="1", memory_type="CPU")}
        self.instruments = Instruments(metrics, statistics)
        self.answering = Answering(self._send)
        self.black_box = BlackBox.open(box)
        self.serving = Serving(
            self.controller,
            self.answering,
            self.instruments,
            self.work.append,
            ArrivalTrace(None),
            black_box=self.black_box,
        )
        self.serving.open_model("m", MODEL, policy.slo_s)

    def _let_batches_grow(self) -> None:
        """Have the controller see batches of up to 8 succeed, as an earlier life of the process would have."""
        for size in (2, 4, 8):
            for number in range(size):
                item = Item(id=ItemId(-number), model="m", shape=(8,), arrived=self.now, deadline=self.now + 1)
                assert isinstance(self.controller.offer(item, self.now), Admitted)
            decision = self.controller.next(self.now)
            assert isinstance(decision, RunBatch)
            assert len(decision.items) == size
            self.controller.report(Completed(batch_id=decision.batch_id, seconds=0.01, peak_bytes=size * 50))

    def _send(self, front: bytes, message: DeviceMessage, frames: Sequence[Frame]) -> bool:
        assert isinstance(message, Answers)
        self.messages.append((front, message, frames))
        return True

    def offer(
        self,
        number: int,
        *values: float,
        front: bytes = b"f",
        model: str = "m",
        deadline: float | None = None,
        **flags: bool,
    ) -> None:
        frames: list[Any] = []
        items = tuple(OfferedItem((8,), pack_tensors({"x": np.full(8, value, np.float32)}, frames)) for value in values)
        offer = Offer(
            request=number, model=model, items=items, arrived=self.now, deadline=deadline, priority=0, **flags
        )
        self.serving.offer(front, offer, frames, self.now)

    def launch(self) -> BatchWork:
        known = len(self.work)
        self.serving.decide(self.now)
        assert len(self.work) == known + 1, "no batch was launched"
        return self.work[-1]

    def finish(self, *answers: Tensors | Failure) -> None:
        """Complete the running batch: with the given answers, else with every item doubled."""
        work = self.work[-1]
        started, self.now = self.now, self.now + 0.01
        given = answers or tuple({"y": item["x"].astype(np.float32) * 2} for item in work.items)
        failed = any(isinstance(answer, Failure) for answer in given)
        outcome = Failed(batch_id=work.batch_id)
        done = Completed(batch_id=work.batch_id, seconds=0.01, peak_bytes=100)
        self.serving.batch_done(
            BatchDone(
                work=work,
                outcome=outcome if failed else done,
                started=started,
                finished=self.now,
                answers=given,
                stages=None if failed else Stages(collate_s=0.001, run_s=0.008, split_s=0.001),
            ),
            self.now,
        )

    def run_out_of_memory(self) -> None:
        work = self.work[-1]
        self.serving.batch_done(
            BatchDone(
                work=work,
                outcome=OutOfMemory(batch_id=work.batch_id, peak_bytes=None),
                started=self.now,
                finished=self.now,
            ),
            self.now,
        )

    def answers(self, front: bytes = b"f") -> dict[tuple[int, int], ItemAnswer | float]:
        """Every answer so far: the first element of `y`, or the answer with its error."""
        self.answering.flush()
        found: dict[tuple[int, int], ItemAnswer | float] = {}
        for to, message, frames in self.messages:
            for answer in message.answers if to == front else ():
                key = (answer.request, answer.index)
                assert key not in found, "an item was answered twice"
                tensors = unpack_tensors(answer.tensors, frames)
                found[key] = answer if answer.error else float(tensors["y"][0])
        return found

    def noted(self) -> tuple[RunningItem, ...] | None:
        """What the next process would be told of this one."""
        return fallen_before(self.box / FILE, None)[-1].running

    def errors(self) -> dict[tuple[int, int], tuple[int, str]]:
        return {
            key: answer.error[:2]
            for key, answer in self.answers().items()
            if isinstance(answer, ItemAnswer) and answer.error
        }

    def count(self, sample: str, **labels: str) -> float:
        return self.instruments.metrics.registry.get_sample_value(f"batchd_{sample}", labels) or 0.0


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_batch_is_one_message_per_front(device: Device) -> None:
    device.offer(1, 1.0, 2.0)
    device.offer(1, 3.0, front=b"g")
    device.launch()
    device.finish()
    assert device.answers() == {(1, 0): 2.0, (1, 1): 4.0}
    assert device.answers(b"g") == {(1, 0): 6.0}
    assert [front for front, _, _ in device.messages] == [b"f", b"g"]
    assert device.serving.num_open == 0


def test_requests_are_admitted_while_a_batch_runs(device: Device) -> None:
    device.offer(1, 1.0)
    device.launch()
    device.offer(2, 2.0)
    assert device.serving.decide(device.now) == float("inf")
    device.finish()
    device.launch()
    device.finish()
    assert device.answers() == {(1, 0): 2.0, (2, 0): 4.0}


def test_one_refused_item_refuses_its_request_as_a_whole(device: Device) -> None:
    device.offer(1, *[1.0] * 12)
    device.offer(2, *[1.0] * 5)
    assert device.errors() == {(2, index): (429, "queue_full") for index in range(5)}
    assert device.controller.num_waiting() == 12, "its siblings wait no more"
    assert device.count("items_refused_total", model="m", reason="queue_full") == 1


def test_a_model_that_is_not_loaded_is_503_and_leaves_nothing(device: Device) -> None:
    device.offer(1, 1.0, model="nonesuch")
    assert device.errors() == {(1, 0): (503, "model_not_loaded")}
    assert device.serving.num_open == 0


def test_only_the_item_that_failed_is_told_so(device: Device) -> None:
    device.offer(1, 1.0, 2.0)
    device.offer(2, 3.0)
    device.launch()
    y = np.ones(1, np.float32)
    device.finish({"y": y}, Failure(FailureKind.MODEL, "ValueError: no"), {"y": y * 7})
    assert device.errors() == {(1, 1): (500, "model_failed")}
    assert device.answers()[1, 0] == 1.0
    assert device.answers()[2, 0] == 7.0
    stats = device.instruments.statistics["m"]
    assert (stats.success.count, stats.fail.count) == (1, 1)


def test_an_answer_that_is_no_array_is_the_models_failure(device: Device) -> None:
    device.offer(1, 1.0, 2.0)
    device.launch()
    device.finish({"y": np.ones(1, np.float32)}, cast("Any", {"y": "text"}))
    assert device.errors() == {(1, 1): (500, "model_failed")}
    assert device.answers()[1, 0] == 1.0


def test_out_of_memory_splits_until_it_fits_and_refuses_what_never_will(device: Device) -> None:
    device.offer(1, 1.0, 2.0)
    assert len(device.launch().items) == 2
    device.run_out_of_memory()
    assert device.answers() == {}
    assert len(device.launch().items) == 1
    device.run_out_of_memory()
    assert list(device.errors().values()) == [(507, "insufficient_memory")]
    assert len(device.launch().items) == 1
    device.finish()
    assert sorted(device.answers()) == [(1, 0), (1, 1)]
    assert device.count("oom_events_total", model="m", phase="infer") == 2
    assert device.count("oom_recoveries_total", model="m", phase="infer") == 1


def test_an_expired_item_is_504_and_does_not_run(device: Device) -> None:
    device.offer(1, 1.0)
    device.launch()
    device.offer(2, 2.0, deadline=device.now + 0.5)
    device.now += 1.0
    device.finish()
    device.serving.decide(device.now)
    assert device.errors() == {(2, 0): (504, "deadline_exceeded")}
    assert len(device.work) == 1


def test_cancelled_items_neither_run_nor_answer(device: Device) -> None:
    device.offer(1, 1.0)
    device.launch()
    device.offer(2, 2.0)
    device.serving.cancel(b"f", 1)  # aboard: its answer is dropped
    device.serving.cancel(b"f", 2)  # waiting: it does not run
    device.serving.cancel(b"f", 3)  # never heard of
    device.finish()
    device.serving.decide(device.now)
    assert device.answers() == {}
    assert len(device.work) == 1
    assert device.serving.num_open == 0


def test_a_front_that_has_gone_takes_its_items_with_it(device: Device) -> None:
    for number in range(4):
        device.offer(number, 1.0)
        device.offer(number, 1.0, front=b"g")
    device.serving.forget_front(b"f")
    assert device.controller.num_waiting() == 4
    device.launch()
    device.finish()
    assert device.answers() == {}
    assert len(device.answers(b"g")) == 4


def test_a_request_offered_again_counts_once(device: Device) -> None:
    device.offer(1, 1.0)
    device.offer(1, 5.0)
    assert device.controller.num_waiting() == 1
    device.launch()
    device.finish()
    assert device.answers() == {(1, 0): 10.0}


def test_an_unloaded_models_items_are_told_to_try_again(device: Device) -> None:
    device.offer(1, 1.0)
    device.launch()
    device.offer(2, 2.0)
    device.serving.close_model("m", device.now)
    device.offer(3, 3.0)
    device.finish()
    assert device.errors() == {(2, 0): (503, "unavailable"), (3, 0): (503, "model_not_loaded")}
    assert device.answers()[1, 0] == 2.0, "a batch that runs is not recalled"


def test_out_of_memory_of_an_unloaded_model_loses_no_answer(device: Device) -> None:
    device.offer(1, 1.0, 2.0)
    device.launch()
    device.serving.close_model("m", device.now)
    device.run_out_of_memory()
    assert device.errors() == {(1, 0): (503, "unavailable"), (1, 1): (503, "unavailable")}


def test_what_is_not_finished_at_the_end_is_answered(device: Device) -> None:
    device.offer(1, 1.0)
    device.launch()
    device.offer(2, 2.0)
    device.serving.fail_all(Unavailable("over", code="draining"), device.now)
    assert device.errors() == {(1, 0): (503, "draining"), (2, 0): (503, "draining")}
    assert device.serving.num_open == 0


def test_every_batch_leaves_a_record_that_explains_it(device: Device) -> None:
    device.offer(1, 1.0, 2.0, 3.0)
    device.launch()
    device.finish()
    (record,) = device.instruments.decisions.latest(10)
    assert record["batch_size"] == 3
    assert record["padded_shape"] == (8,)
    assert record["outcome"] == "completed"
    assert (record["actual_s"], record["peak_bytes"]) == (0.01, 100)
    assert record["reason"] in {"idle", "window", "full", "deadline", "memory"}
    assert device.instruments.decisions.latest(10, "other") == []
    assert device.instruments.decisions.latest(0) == []


def test_requests_are_in_time_or_late(device: Device) -> None:
    device.offer(1, 1.0)
    device.launch()
    device.finish()
    device.offer(2, 1.0)
    device.launch()
    device.now += 5.0
    device.finish()
    assert device.count("slo_requests_total", model="m", met="true") == 1
    assert device.count("slo_requests_total", model="m", met="false") == 1


def test_more_items_than_may_ever_wait_are_too_large_and_not_asked_for_again(device: Device) -> None:
    device.offer(1, *range(17))  # the queue holds 16
    answers = device.answers()
    assert len(answers) == 17
    for answer in answers.values():
        assert isinstance(answer, ItemAnswer)
        assert answer.error is not None
        status, code, _, retry_after_s = answer.error
        assert (status, code, retry_after_s) == (413, "too_large", None)
    device.offer(2, *range(16))
    assert device.serving.num_open == 16


def test_an_answer_whose_names_are_no_strings_is_the_models_failure(device: Device) -> None:
    device.offer(1, 1.0)
    device.launch()
    device.finish(cast("Tensors", {5: np.zeros(8, np.float32)}))
    assert device.errors() == {(1, 0): (500, "model_failed")}


def test_what_runs_is_in_the_black_box_for_as_long_as_it_runs(device: Device) -> None:
    device.offer(1, 1.0, 2.0)
    device.offer(9, 3.0, front=b"g")
    device.offer(2, 4.0, alone=True)
    assert device.noted() == ()
    seen = []
    for _ in range(2):
        device.launch()
        seen.append(device.noted())
        device.finish()
        assert device.noted() == ()
    assert seen == [
        (RunningItem(b"f", 1, 0), RunningItem(b"f", 1, 1), RunningItem(b"g", 9, 0)),
        (RunningItem(b"f", 2, 0),),
    ]


def test_what_was_accepted_by_another_process_is_not_refused_by_this_one(device: Device) -> None:
    device.offer(1, *[1.0] * 16)
    device.offer(2, 1.0)
    device.offer(3, 5.0, accepted=True)
    assert device.errors() == {(2, 0): (429, "queue_full")}
    while device.controller.num_waiting():
        device.launch()
        device.finish()
    assert device.answers()[3, 0] == 10.0
