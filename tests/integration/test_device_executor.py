"""The executor with real torch models: isolation, recovery, measurement. Models are tiny; the threads are real."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from batchd.item import BatchId
from batchd.outcome import Completed, Failed, OutOfMemory
from batchd_server.device.executor import Executor
from batchd_server.device.failures import Failure, FailureKind
from batchd_server.device.loader import resident_bytes
from batchd_server.device.memory.cpu import LedgerPeaks
from batchd_server.device.memory.host import HostProbe
from batchd_server.device.memory.telemetry import PeakMeter
from batchd_server.device.work import (
    BatchDone,
    BatchWork,
    DeviceLost,
    Done,
    Example,
    ReleaseDone,
    ReleaseWork,
    WarmUpDone,
    WarmUpWork,
)
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import Array, Tensors, TensorSpec

CPU = torch.device("cpu")


class Net(PaddedModel):
    inputs: Sequence[TensorSpec] = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs: Sequence[TensorSpec] = (TensorSpec(name="y", datatype="FP32", shape=("n",)),)

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor] = lambda x: x * 2) -> None:
        self._forward = forward
        self.load(CPU)

    def build(self) -> torch.nn.Module:
        return torch.nn.Linear(4, 4)

    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        return {"y": self._forward(batch["x"])}


class Rig:
    def __init__(self, peaks: PeakMeter) -> None:
        self.done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self.executor = Executor(CPU, peaks, self.done.put)
        self.executor.start()
        self._ids = count()

    def run(self, model: PaddedModel, values: Sequence[float], length: int = 8) -> BatchDone:
        items: tuple[Tensors, ...] = tuple({"x": np.full(length, value, dtype=np.float32)} for value in values)
        work = BatchWork(
            batch_id=BatchId(next(self._ids)),
            name="net",
            model=model,
            items=items,
            padded_shape=(length,),
            elements=length * len(items),
        )
        self.executor.submit(work)
        done = self.done.get(timeout=30)
        assert isinstance(done, BatchDone)
        return done


def measuring(sample_every: int = 1, limit_bytes: int | None = None) -> LedgerPeaks:
    return LedgerPeaks(HostProbe(), sample_every=sample_every, limit_bytes=limit_bytes)


@pytest.fixture
def rigs() -> Iterator[Callable[[PeakMeter], Rig]]:
    made: list[Rig] = []

    def make(peaks: PeakMeter) -> Rig:
        made.append(Rig(peaks))
        return made[-1]

    yield make
    for rig in made:
        assert rig.executor.stop(timeout_s=10)


Rigs = Callable[[PeakMeter], Rig]


def outputs(done: BatchDone) -> list[float | Failure]:
    return [answer if isinstance(answer, Failure) else float(answer["y"].reshape(-1)[0]) for answer in done.answers]


def raise_on(value: float, error: Callable[[], BaseException]) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        if bool((x == value).any()):
            raise error()
        return x * 2

    return forward


def test_a_batch_completes_with_its_time_and_one_answer_per_item(rigs: Rigs) -> None:
    done = rigs(measuring()).run(Net(), [1, 2, 3])
    assert outputs(done) == [2, 4, 6]
    assert isinstance(done.outcome, Completed)
    assert done.stages is not None
    assert 0 < done.outcome.seconds == done.stages.total_s <= done.finished - done.started


def test_gradients_are_off(rigs: Rigs) -> None:
    model = Net()
    seen: list[bool] = []
    model._forward = lambda x: seen.append(torch.is_grad_enabled()) or x  # type: ignore[func-returns-value]
    rigs(measuring()).run(model, [1])
    assert seen == [False]


def test_only_the_culprits_fail_and_with_one_line(rigs: Rigs) -> None:
    model = Net(raise_on(3, lambda: ValueError("bad item\nat line 2")))
    done = rigs(measuring()).run(model, [1, 3, 2, 3])
    assert isinstance(done.outcome, Failed)
    culprit = Failure(FailureKind.MODEL, "ValueError: bad item")
    assert outputs(done) == [2, culprit, 4, culprit]


def test_code_that_wants_to_end_the_process_fails_its_item_alone(rigs: Rigs) -> None:
    done = rigs(measuring()).run(Net(raise_on(3, lambda: SystemExit(1))), [1, 3])
    assert outputs(done) == [2, Failure(FailureKind.MODEL, "SystemExit: 1")]


def test_another_number_of_answers_than_items_is_the_models_failure(rigs: Rigs) -> None:
    class Forgetful(Net):
        def split(self, outputs: Mapping[str, torch.Tensor], items: Sequence[Tensors]) -> list[dict[str, Array]]:
            return super().split(outputs, items)[:1]

    done = rigs(measuring()).run(Forgetful(), [5, 6])
    assert isinstance(done.outcome, Failed)
    assert outputs(done) == [10, 12], "alone, each item has one answer"


def test_an_output_that_is_promised_and_not_given_is_the_models_failure(rigs: Rigs) -> None:
    class Forgetful(Net):
        outputs = (*Net.outputs, TensorSpec(name="z", datatype="FP32", shape=("n",)))

        def split(self, outputs: Any, items: Sequence[Tensors]) -> Sequence[Tensors]:
            return [{"y": item["x"]} for item in items]

    done = rigs(measuring()).run(Forgetful(), [1, 2])
    for answer in done.answers:
        assert isinstance(answer, Failure)
        assert "without the output 'z'" in answer.message


def test_running_out_of_memory_leaves_the_answers_to_smaller_batches(rigs: Rigs) -> None:
    rig = rigs(measuring(limit_bytes=600))
    too_large = rig.run(Net(), [1] * 16)
    assert isinstance(too_large.outcome, OutOfMemory)
    assert too_large.answers == ()
    fits = rig.run(Net(), [1] * 4)
    assert isinstance(fits.outcome, Completed)
    assert outputs(fits) == [2] * 4


def test_out_of_memory_releases_what_the_batch_held(rigs: Rigs) -> None:
    held: list[Any] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        import weakref

        temporary = x + 1
        held.append(weakref.ref(temporary.untyped_storage()))
        raise torch.OutOfMemoryError("no more")

    done = rigs(measuring()).run(Net(forward), [1, 2])
    assert isinstance(done.outcome, OutOfMemory)
    assert [reference() for reference in held] == [None], "the traceback must not keep the batch alive"


def test_a_poisoned_device_is_reported_as_lost(rigs: Rigs) -> None:
    rig = rigs(measuring())
    model = Net(raise_on(1, lambda: RuntimeError("CUDA error: device-side assert triggered")))
    work = BatchWork(
        batch_id=BatchId(1),
        name="net",
        model=model,
        items=({"x": np.ones(2, np.float32)},),
        padded_shape=(2,),
        elements=2,
    )
    rig.executor.submit(work)
    done = rig.done.get(timeout=30)
    assert isinstance(done, DeviceLost)
    assert "device-side assert" in done.reason


def test_the_first_run_of_a_cell_is_measured_and_kept_out_of_the_latency_fit(rigs: Rigs) -> None:
    rig = rigs(measuring(sample_every=512))
    model = Net()
    first, second, other = (rig.run(model, values).outcome for values in ([1, 1], [1, 1], [1] * 5))
    assert isinstance(first, Completed)
    assert isinstance(second, Completed)
    assert isinstance(other, Completed)
    assert first.first_of_shape
    assert other.first_of_shape
    assert not second.first_of_shape
    assert second.peak_bytes is None
    assert first.peak_bytes is not None
    assert other.peak_bytes is not None
    assert first.peak_bytes < other.peak_bytes


def test_a_reloaded_model_is_measured_anew(rigs: Rigs) -> None:
    rig = rigs(measuring(sample_every=512))
    rig.run(Net(), [1])
    rig.executor.submit(ReleaseWork(name="net"))
    assert rig.done.get(timeout=30) == ReleaseDone(name="net")
    again = rig.run(Net(), [1]).outcome
    assert isinstance(again, Completed)
    assert again.peak_bytes is not None


def test_warm_up_runs_the_network_and_reports_what_is_wrong(rigs: Rigs) -> None:
    rig = rigs(measuring())
    sizes: list[int] = []
    broken = Net(raise_on(0, lambda: TypeError("not for zeros")))
    fine = Net(lambda x: sizes.append(len(x)) or x)  # type: ignore[func-returns-value]
    results = []
    calibrations = []
    for model in (fine, broken):
        example = Example({"x": np.zeros(3, np.float32)}, (8,))
        rig.executor.submit(WarmUpWork(name="net", model=model, examples=(example,)))
        done = rig.done.get(timeout=30)
        assert isinstance(done, WarmUpDone)
        results.append(done.failure)
        calibrations.append([(run.batch_size, run.shape) for run in done.calibration])
    assert results == [None, Failure(FailureKind.MODEL, "TypeError: not for zeros")]
    assert sizes == [1, 2, 1, 1, 4, 4], "proves that it works, then times what is warm"
    assert calibrations == [[(1, (8,)), (4, (8,))], []]
    assert (rig.executor.resident() or 0) > 0


def test_resident_bytes_are_those_of_the_weights() -> None:
    assert resident_bytes(Net()) == (4 * 4 + 4) * 4
