"""On a real CUDA device: real out-of-memory errors, exact peaks, NVML by UUID, and a context that dies."""

from __future__ import annotations

import queue
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np
import pytest
import torch

from batchd.item import BatchId
from batchd.outcome import Completed, OutOfMemory
from batchd_server.config.settings import DeviceSettings
from batchd_server.device.executor import Executor
from batchd_server.device.failures import EXIT_DEVICE_LOST
from batchd_server.device.memory.cuda import CudaPeaks, CudaTelemetry
from batchd_server.device.memory.nvml import NvmlDevice
from batchd_server.device.selection import select_device
from batchd_server.device.work import BatchDone, BatchWork, Done
from batchd_server.models.padded import PaddedBatch, PaddedModel
from batchd_server.models.spec import Tensors, TensorSpec

pytestmark = pytest.mark.gpu

MIB = 2**20


class Spender(PaddedModel):
    """Takes `mib` MiB of temporaries per item."""

    inputs: Sequence[TensorSpec] = (TensorSpec(name="x", datatype="FP32", shape=("n",)),)
    outputs: Sequence[TensorSpec] = (TensorSpec(name="y", datatype="FP32", shape=("n",)),)

    def __init__(self, device: torch.device, mib: int) -> None:
        self._mib = mib
        self.load(device)

    def build(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
        x = batch["x"]
        temporary = torch.ones(len(x), self._mib * MIB // 4, device=x.device)
        return {"y": x * 2 + temporary[:, :1] - 1}


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture
def fraction(device: torch.device) -> Iterator[None]:
    """Leave this process 1 GiB over what it holds."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + 2**30) / total, device)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, device)


class Rig:
    def __init__(self, device: torch.device) -> None:
        self.done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self.executor = Executor(device, CudaPeaks(device), self.done.put)
        self.executor.start()
        self._ids = count()

    def run(self, model: PaddedModel, size: int) -> BatchDone:
        items: tuple[Tensors, ...] = tuple({"x": np.full(8, index, np.float32)} for index in range(size))
        self.executor.submit(
            BatchWork(
                batch_id=BatchId(next(self._ids)),
                name="m",
                model=model,
                items=items,
                padded_shape=(8,),
                elements=8 * len(items),
            )
        )
        done = self.done.get(timeout=120)
        assert isinstance(done, BatchDone)
        return done


@pytest.fixture
def rig(device: torch.device) -> Iterator[Rig]:
    made = Rig(device)
    yield made
    assert made.executor.stop(timeout_s=30)


@pytest.mark.usefixtures("fraction")
def test_a_real_out_of_memory_error_leaves_nothing_behind_and_half_the_batch_runs(
    rig: Rig, device: torch.device
) -> None:
    model = Spender(device, mib=100)
    before = torch.cuda.memory_allocated(device)
    too_large = rig.run(model, 16)
    assert isinstance(too_large.outcome, OutOfMemory)
    assert torch.cuda.memory_allocated(device) == before
    smaller = rig.run(model, 8)
    assert isinstance(smaller.outcome, Completed)
    for index, answer in enumerate(smaller.answers):
        assert isinstance(answer, dict)
        np.testing.assert_array_equal(answer["y"], np.full(8, 2 * index, np.float32))


def test_the_peak_is_what_the_batch_took(rig: Rig, device: torch.device) -> None:
    model = Spender(device, mib=50)
    outcomes = [rig.run(model, size).outcome for size in (1, 2, 4, 4)]
    for size, outcome in zip((1, 2, 4, 4), outcomes, strict=True):
        assert isinstance(outcome, Completed)
        assert outcome.peak_bytes is not None
        assert size * 50 * MIB <= outcome.peak_bytes <= size * 50 * MIB + MIB
    assert [outcome.first_of_shape for outcome in outcomes if isinstance(outcome, Completed)] == [
        True,
        True,
        True,
        False,
    ]


def test_the_time_is_the_devices_not_the_launch(rig: Rig, device: torch.device) -> None:
    class Multiplier(Spender):
        def forward(self, batch: PaddedBatch) -> Mapping[str, torch.Tensor]:
            square = torch.ones(4096, 4096, device=batch["x"].device)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            for _ in range(20):
                square = square @ square * 1e-4
            end.record()
            events.append((start, end))
            return {"y": batch["x"] * 2 + 0 * square[0, 0]}

    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    model = Multiplier(device, mib=1)
    for _ in range(3):
        done = rig.run(model, 1)
    assert done.stages is not None
    start, end = events[-1]
    assert done.stages.run_s >= start.elapsed_time(end) / 1000


def test_telemetry_agrees_with_the_driver_and_sees_our_own_memory(device: torch.device) -> None:
    telemetry = CudaTelemetry.of(device)
    torch.cuda.empty_cache()
    before = telemetry.read(None)
    block = torch.ones(256 * MIB // 4, device=device)
    after = telemetry.read(None)
    for reading in (before, after):
        memory = reading.memory
        assert memory.total == torch.cuda.mem_get_info(device)[1]
        assert memory.device_free is not None
        assert 0 < memory.device_free <= (memory.total or 0)
    grown = (after.memory.allocated or 0) - (before.memory.allocated or 0)
    assert grown == block.untyped_storage().nbytes()
    assert (before.memory.device_free or 0) - (after.memory.device_free or 0) >= grown
    assert telemetry.read(resident=5).memory.allocated == 5


def test_nvml_finds_the_device_by_its_uuid(device: torch.device) -> None:
    found = NvmlDevice.find(str(torch.cuda.get_device_properties(device).uuid))
    if found is None:
        pytest.skip("NVML does not answer here")
    reading = found.read()
    assert reading.total is not None
    assert reading.free is not None
    driver_total = torch.cuda.mem_get_info(device)[1]
    assert abs(reading.total - driver_total) < 0.05 * driver_total
    assert reading.utilization is None or 0 <= reading.utilization <= 1
    assert NvmlDevice.find("GPU-00000000-0000-0000-0000-000000000000") is None


def test_auto_selects_cuda_and_says_what_it_is() -> None:
    selected = select_device(DeviceSettings(memory_fraction=1.0))
    assert selected.torch_device == torch.device("cuda", 0)
    assert selected.info.kind == "cuda"
    assert selected.info.uuid
    with pytest.raises(ValueError, match="cuda:99"):
        select_device(DeviceSettings(name="cuda:99"))


def test_a_device_side_assert_ends_the_process_with_its_own_status() -> None:
    script = textwrap.dedent("""
        import os, queue
        import numpy as np, torch
        from batchd.item import BatchId
        from batchd_server.device.executor import Executor
        from batchd_server.device.failures import EXIT_DEVICE_LOST
        from batchd_server.device.memory.cuda import CudaPeaks
        from batchd_server.device.work import BatchWork, DeviceLost

        class Model:
            inputs = outputs = ()
            def collate(self, items, padded_shape):
                return torch.tensor([999999], device="cuda")
            def run(self, batch):
                return torch.ones(4, device="cuda")[batch]
            def split(self, outputs, items):
                return [{"y": outputs.cpu().numpy()}]

        done = queue.SimpleQueue()
        device = torch.device("cuda", 0)
        executor = Executor(device, CudaPeaks(device), done.put)
        executor.start()
        work = BatchWork(batch_id=BatchId(0), name="m", model=Model(), items=({},), padded_shape=(), elements=1)
        executor.submit(work)
        os._exit(EXIT_DEVICE_LOST if isinstance(done.get(timeout=60), DeviceLost) else 1)
    """)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120, check=False)
    assert ended.returncode == EXIT_DEVICE_LOST, ended.stderr.decode()[-2000:]
