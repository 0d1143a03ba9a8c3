"""Which device is chosen, how many threads it gets, and what is read of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from batchd.budget import MemoryReading
from batchd_server.config.settings import DeviceSettings
from batchd_server.device.memory.cuda import CudaTelemetry
from batchd_server.device.memory.host import HostProbe
from batchd_server.device.memory.nvml import NvmlDevice, NvmlReading
from batchd_server.device.selection import default_threads, select_device


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_cpu_with_the_threads_that_were_asked_for() -> None:
    selected = select_device(DeviceSettings(name="cpu", threads=1))
    assert selected.torch_device == torch.device("cpu")
    assert (selected.info.kind, selected.info.threads, selected.info.pid) == ("cpu", 1, os.getpid())
    assert torch.get_num_threads() == 1
    memory = selected.telemetry.read(None).memory
    assert memory.total is not None
    assert memory.allocated == memory.reserved
    assert 0 < (memory.reserved or 0) < memory.total


def test_a_device_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"device\.name is 'cuda:99', but"):
        select_device(DeviceSettings(name="cuda:99"))


@pytest.mark.parametrize(("quota", "most"), [("100000 100000", 1), ("250000 100000", 1), ("max 100000", 4096)])
def test_a_containers_quota_bounds_the_threads(tmp_path: Path, quota: str, most: int) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(quota)
    threads = default_threads(HostProbe(tmp_path))
    assert 1 <= threads <= min(most, max(1, len(os.sched_getaffinity(0)) - 1))


def test_the_cuda_reading_takes_the_smaller_free_memory_and_what_the_executor_saw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Nvml(NvmlDevice):
        def __init__(self, free: int | None) -> None:
            self._free = free

        def read(self) -> NvmlReading:
            return NvmlReading(free=self._free, utilization=0.5)

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    device = torch.device("cuda", 0)
    for nvml, free in ((Nvml(50), 50), (Nvml(70), 60), (Nvml(None), 60), (None, 60)):
        telemetry = CudaTelemetry(device, nvml, HostProbe()).read(resident=None)
        assert telemetry.memory == MemoryReading(total=100, device_free=free, reserved=30, allocated=20)
        assert telemetry.device_used == 40
        assert telemetry.utilization == (None if nvml is None else 0.5)
    assert CudaTelemetry(device, None, HostProbe()).read(resident=7).memory.allocated == 7
