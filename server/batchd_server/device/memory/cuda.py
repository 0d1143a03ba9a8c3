"""A CUDA device's memory: the caching allocator's counters, the driver's free memory, and NVML where it answers.

The allocator's peak is process-wide: it speaks of one batch only because one thread runs batches, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from batchd.budget import MemoryReading
from batchd_server.device.memory.host import HostProbe
from batchd_server.device.memory.nvml import NvmlDevice, NvmlReading
from batchd_server.device.memory.telemetry import Cell, Measurement, Telemetry


class CudaTelemetry:
    """Readings of one CUDA device and of the host."""

    def __init__(self, device: torch.device, nvml: NvmlDevice | None, host: HostProbe) -> None:
        self._device = device
        self._nvml = nvml
        self._host = host

    @classmethod
    def of(cls, device: torch.device) -> CudaTelemetry:
        """Find the NVML handle that belongs to a CUDA device."""
        uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
        return cls(device, NvmlDevice.find(str(uuid)) if uuid is not None else None, HostProbe())

    def read(self, resident: int | None) -> Telemetry:
        """Look once."""
        # Reserved before free: an allocation in between then makes the sum too small, never too large.
        reserved = torch.cuda.memory_reserved(self._device)
        free, total = torch.cuda.mem_get_info(self._device)
        nvml = self._nvml.read() if self._nvml is not None else NvmlReading()
        host = self._host.read()
        return Telemetry(
            memory=MemoryReading(
                total=total,
                # For a MIG slice NVML may speak of the whole card, so the smaller figure holds.
                device_free=free if nvml.free is None else min(free, nvml.free),
                reserved=reserved,
                allocated=torch.cuda.memory_allocated(self._device) if resident is None else resident,
            ),
            device_used=total - free,
            utilization=nvml.utilization,
            power_watts=nvml.power_watts,
            temperature_celsius=nvml.temperature_celsius,
            host_used=host.used,
            host_limit=host.limit,
        )


class CudaPeaks:
    """Peak of every batch, by the allocator's own high-water mark: exact, and no synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @contextmanager
    def measure(self, cell: Cell | None) -> Iterator[Measurement]:
        """Measure one batch."""
        before = torch.cuda.memory_allocated(self._device)
        retries = self._retries()
        torch.cuda.reset_peak_memory_stats(self._device)
        measurement = Measurement()
        try:
            yield measurement
        finally:
            measurement.peak_bytes = max(0, torch.cuda.max_memory_allocated(self._device) - before)
            measurement.tight = self._retries() > retries

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """The allocator's counters tell."""

    def forget(self, model: str) -> None:
        """Nothing is remembered: every batch is measured."""

    def resident(self) -> int | None:
        """Return the bytes in live tensors."""
        return torch.cuda.memory_allocated(self._device)

    def _retries(self) -> int:
        """How often the allocator has given its cache back because nothing was free: each time it was a close call."""
        return int(torch.cuda.memory_stats_as_nested_dict(self._device).get("num_alloc_retries", 0))
