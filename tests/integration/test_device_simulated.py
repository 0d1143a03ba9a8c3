"""The simulated device under the real executor: what is held, free and let go, and how long a batch takes."""

from __future__ import annotations

import gc
import queue
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from batchd.item import BatchId
from batchd.load import Load
from batchd.outcome import Completed, OutOfMemory
from batchd_server.config.settings import DeviceSettings, SimulatedDeviceSettings
from batchd_server.device.executor import Executor
from batchd_server.device.memory.cuda import CudaPeaks
from batchd_server.device.memory.simulated import SimulatedMemory
from batchd_server.device.pace import LawfulPace
from batchd_server.device.selection import SelectedDevice, select_device
from batchd_server.device.work import BatchDone, BatchWork, Done
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import Tensors, TensorSpec

KIB = 1024
MIB = 2**20


class Spender(PaddedModel):
    """Takes 64 KiB of temporaries per element, and shows them to `seen`."""

    inputs: Sequence[TensorSpec] = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs: Sequence[TensorSpec] = (TensorSpec(name="y", datatype="FP32", shape=("n",)),)

    def __init__(self, seen: Callable[[torch.Tensor], object] = lambda tensor: None) -> None:
        self._seen = seen
        self.load(torch.device("cpu"))

    def build(self) -> torch.nn.Module:
        return torch.nn.Linear(KIB, KIB, bias=False)  # 4 MiB

    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        for _ in range(3):
            self._seen(torch.empty(batch["x"].numel(), 16 * KIB))
        kept = [torch.empty(batch["x"].numel(), 8 * KIB) for _ in range(2)]
        self._seen(kept[0])
        return {"y": batch["x"] * 2}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., SelectedDevice]]:
    threads = torch.get_num_threads()

    def select(cost: str | None = None, memory_bytes: int = 64 * MIB, noise: float = 0.0) -> SelectedDevice:
        simulated = SimulatedDeviceSettings(
            memory_bytes=memory_bytes, cost=cost, noise=noise, neighbour=tmp_path / "neighbour"
        )
        return select_device(DeviceSettings(name="simulated", threads=1, memory_reserve_bytes=0, simulated=simulated))

    yield select
    torch.set_num_threads(threads)


@pytest.fixture
def run() -> Iterator[Callable[[SelectedDevice, PaddedModel, int], BatchDone]]:
    started: list[Executor] = []

    def run_one(device: SelectedDevice, model: PaddedModel, size: int, length: int = 8) -> BatchDone:
        done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        executor = Executor(device.torch_device, device.peaks, done.put, pace=device.pace, telemetry=device.telemetry)
        started.append(executor)
        executor.start()
        items: tuple[Tensors, ...] = tuple({"x": np.ones(length, np.float32)} for _ in range(size))
        executor.submit(
            BatchWork(
                batch_id=BatchId(1), name="m", model=model, items=items, elements=size * length, padded_shape=(length,)
            )
        )
        result = done.get(timeout=60)
        assert isinstance(result, BatchDone)
        return result

    yield run_one
    for executor in started:
        assert executor.stop(timeout_s=10)


Make = Callable[..., SelectedDevice]
Run = Callable[[SelectedDevice, PaddedModel, int], BatchDone]


def test_weights_count_while_they_live(make: Make) -> None:
    device = make()
    model = Spender()
    device.peaks.hold(model.network.parameters())
    device.peaks.hold(model.network.parameters())
    assert device.peaks.resident() == 4 * MIB, "counted once"
    assert device.telemetry.read(None).memory.device_free == 60 * MIB
    del model
    gc.collect()
    assert device.peaks.resident() == 0


def test_weights_that_do_not_fit_are_refused_and_not_counted(make: Make) -> None:
    device = make(memory_bytes=3 * MIB)
    with pytest.raises(torch.OutOfMemoryError, match="the tensors take 4194304 bytes, 3145728 are free"):
        device.peaks.hold(Spender().network.parameters())
    assert device.peaks.resident() == 0


def test_the_peak_of_every_batch_is_exact_and_does_not_spoil_its_time(make: Make, run: Run) -> None:
    device = make()
    for size in (1, 2, 4, 4):
        outcome = run(device, Spender(), size).outcome
        assert isinstance(outcome, Completed)
        small = 3 * size * 8 * 4  # the input, the output and the sizes
        assert size * 8 * 64 * KIB <= (outcome.peak_bytes or 0) <= size * 8 * 64 * KIB + small
        assert not outcome.first_of_shape


def test_an_out_of_memory_error_leaves_nothing_alive(make: Make, run: Run) -> None:
    device = make(memory_bytes=20 * MIB)
    seen: list[weakref.ref[torch.Tensor]] = []
    model = Spender(lambda tensor: seen.append(weakref.ref(tensor)))
    device.peaks.hold(model.network.parameters())
    done = run(device, model, 64)
    assert isinstance(done.outcome, OutOfMemory)
    assert (done.outcome.peak_bytes or 0) > 16 * MIB
    assert all(tensor() is None for tensor in seen)
    assert isinstance(run(device, model, 16).outcome, Completed), "what fits still runs"
    assert seen


def test_the_error_brings_a_reading_of_its_own(make: Make, run: Run, tmp_path: Path) -> None:
    device = make()
    model = Spender()
    device.peaks.hold(model.network.parameters())
    (tmp_path / "neighbour").write_text(f"{40 * MIB}\n")
    outcome = run(device, model, 64).outcome
    assert isinstance(outcome, OutOfMemory)
    assert outcome.reading is not None
    assert (outcome.reading.total, outcome.reading.device_free) == (64 * MIB, 20 * MIB)
    assert outcome.reading.reserved == outcome.reading.allocated == 4 * MIB


@pytest.mark.parametrize(("text", "held"), [("5000", 5000), (" 7 \n", 7), ("", 0), ("much", 0), ("-3", 0), ("\xb2", 0)])
def test_the_neighbour_is_what_its_file_says(tmp_path: Path, text: str, held: int) -> None:
    path = tmp_path / "neighbour"
    memory = SimulatedMemory(10_000, path)
    assert memory.neighbour() == 0
    path.write_text(text)
    assert (memory.neighbour(), memory.free) == (held, 10_000 - held)
    path.write_text("1" * 30)
    assert memory.free == 0


@pytest.mark.parametrize("size", [1, 5])
def test_a_batch_takes_what_the_law_says(make: Make, run: Run, size: int) -> None:
    device = make(cost="0.1:0.01")
    attempts = [run(device, Spender(), size) for _ in range(3)]  # some of which a busy machine may delay
    law = 0.1 + 0.01 * size * 8
    assert all(isinstance(each.outcome, Completed) for each in attempts)
    done = min(attempts, key=lambda each: each.outcome.seconds or 0.0)
    assert law <= (done.outcome.seconds or 0.0) <= law + 0.1
    assert done.stages is not None
    assert done.stages.run_s > 0.5 * law, "the device is what took the time"
    assert isinstance(device.pace, LawfulPace)
    assert device.pace.overruns < 3


def test_what_takes_longer_than_the_law_says_is_counted(make: Make, run: Run) -> None:
    device = make(cost="0:0.000000001")
    outcome = run(device, Spender(), 1).outcome
    assert isinstance(outcome, Completed)
    assert isinstance(device.pace, LawfulPace)
    assert device.pace.overruns == 1


def test_the_noise_is_the_seed_s() -> None:
    settings = DeviceSettings(
        name="simulated", threads=1, simulated=SimulatedDeviceSettings(cost="0.01:0", noise=0.5, seed=3)
    )
    waits: list[list[float]] = []
    for _ in range(2):
        pace = select_device(settings).pace
        assert isinstance(pace, LawfulPace)
        waits.append([pace.seconds(Load.padded(1, 1)) for _ in range(5)])
    assert waits[0] == waits[1]
    assert len(set(waits[0])) == 5


def test_a_cuda_batch_is_tight_when_the_allocator_had_to_flush_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    retries = iter([2, 2, 2, 3])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 150)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(
        torch.cuda, "memory_stats_as_nested_dict", lambda device: {"num_alloc_retries": next(retries), "num_ooms": 0}
    )
    peaks = CudaPeaks(torch.device("cuda", 0))
    for tight in (False, True):
        with peaks.measure(("m", 1, (8,))) as measurement:
            pass
        assert (measurement.peak_bytes, measurement.tight) == (50, tight)
