"""Chooses the device, sets torch up for it, and brings the probes that go with it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

from batchd.simulator import parse_cost
from batchd_server.config.settings import DeviceSettings, SimulatedDeviceSettings
from batchd_server.device.device_info import DeviceInfo
from batchd_server.device.memory.cpu import CpuTelemetry, LedgerPeaks
from batchd_server.device.memory.cuda import CudaPeaks, CudaTelemetry
from batchd_server.device.memory.host import HostProbe
from batchd_server.device.memory.simulated import SimulatedMemory, SimulatedPeaks, SimulatedTelemetry
from batchd_server.device.memory.telemetry import PeakMeter, TelemetrySource
from batchd_server.device.pace import LawfulPace, OwnPace, Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedDevice:
    """A device, ready to be used, and the probes that go with it."""

    torch_device: torch.device
    info: DeviceInfo
    peaks: PeakMeter
    telemetry: TelemetrySource
    pace: Pace = field(default_factory=OwnPace)


def select_device(settings: DeviceSettings, *, training_threads: int = 0) -> SelectedDevice:
    """Set up the configured device; `auto` is CUDA where there is one. Training has `training_threads` to itself.

    Raises:
        ValueError: that device does not exist here, or has no threads to divide.
    """
    host = HostProbe()
    threads = settings.threads or max(1, default_threads(host) - training_threads)
    torch.set_num_threads(threads)
    name = settings.name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda" and training_threads:
            raise ValueError('training.split "space" divides the cores of a CPU, but device.name "auto" is CUDA here')
    if name == "cpu":
        return _cpu(threads, host)
    if name == "simulated":
        return _simulated(settings.simulated, threads, host)
    return _cuda(torch.device(name), threads, settings)


def default_threads(host: HostProbe) -> int:
    """Return the processors that this process may use less one for everything else, at least one."""
    available = len(os.sched_getaffinity(0))
    quota = host.cpus()
    if quota is not None:
        available = min(available, max(1, int(quota)))
    return max(1, available - 1)


def _cpu(threads: int, host: HostProbe) -> SelectedDevice:
    return SelectedDevice(
        torch_device=torch.device("cpu"),
        info=DeviceInfo(
            pid=os.getpid(), name="cpu", kind="cpu", index=None, uuid=None, threads=threads, torch=torch.__version__
        ),
        peaks=LedgerPeaks(host),
        telemetry=CpuTelemetry(host),
    )


def _simulated(settings: SimulatedDeviceSettings, threads: int, host: HostProbe) -> SelectedDevice:
    memory = SimulatedMemory(settings.memory_bytes, settings.neighbour)
    return SelectedDevice(
        torch_device=torch.device("cpu"),
        info=DeviceInfo(
            pid=os.getpid(),
            # What was learned under one law does not count under another, and the name tells them apart.
            name="simulated" if settings.cost is None else f"simulated {settings.cost}",
            kind="simulated",
            index=None,
            uuid=None,
            threads=threads,
            torch=torch.__version__,
        ),
        peaks=SimulatedPeaks(memory),
        telemetry=SimulatedTelemetry(memory, host),
        pace=(
            OwnPace() if settings.cost is None else LawfulPace(parse_cost(settings.cost, settings.noise), settings.seed)
        ),
    )


def _cuda(wanted: torch.device, threads: int, settings: DeviceSettings) -> SelectedDevice:
    if not torch.cuda.is_available():
        raise ValueError(f"device.name is {settings.name!r}, but torch sees no CUDA device")
    index = 0 if wanted.index is None else wanted.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"device.name is {settings.name!r}, but there are {torch.cuda.device_count()} CUDA devices")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    # The allocator then raises at the budget, rather than take what other processes live on.
    torch.cuda.set_per_process_memory_fraction(settings.memory_fraction, device)
    properties = torch.cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    return SelectedDevice(
        torch_device=device,
        info=DeviceInfo(
            pid=os.getpid(),
            name=properties.name,
            kind="cuda",
            index=index,
            uuid=None if uuid is None else str(uuid),
            threads=threads,
            torch=torch.__version__,
        ),
        peaks=CudaPeaks(device),
        telemetry=CudaTelemetry.of(device),
    )
