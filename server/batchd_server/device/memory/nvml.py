"""NVIDIA's management library, as far as it answers: total, used, free, utilization, power, temperature.

Devices are found by UUID: NVML ignores CUDA_VISIBLE_DEVICES, so its numbers are not CUDA's. Every figure is optional by
itself: unified-memory boards answer "not supported" or zeros, containers hide what they like.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlReading:
    """Bytes, a ratio, watts and degrees; None where the driver does not tell."""

    total: int | None = None
    used: int | None = None
    free: int | None = None
    utilization: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None


class NvmlDevice:
    """One device, by its handle. Keep it: initialising the library costs milliseconds."""

    def __init__(self, library: ModuleType, handle: Any) -> None:
        self._library = library
        self._handle = handle

    @classmethod
    def find(cls, uuid: str, library: ModuleType | None = None) -> NvmlDevice | None:
        """Return the device of this UUID (with or without the prefix `GPU-`), or None where NVML cannot be asked."""
        try:
            found = library or importlib.import_module("pynvml")
        except ImportError:
            log.info("NVML: the package nvidia-ml-py is not installed")
            return None
        try:
            found.nvmlInit()
            handle = found.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        except (found.NVMLError, OSError) as error:
            log.info("NVML cannot be asked about device %s: %s", uuid, error)
            return None
        return cls(found, handle)

    def read(self) -> NvmlReading:
        """Ask for every figure; one that fails is None and does not harm the others."""
        library, handle = self._library, self._handle
        memory = self._ask(lambda: library.nvmlDeviceGetMemoryInfo(handle))
        total = int(memory.total) if memory is not None and memory.total else None
        utilization = self._ask(lambda: library.nvmlDeviceGetUtilizationRates(handle).gpu)
        milliwatts = self._ask(lambda: library.nvmlDeviceGetPowerUsage(handle))
        celsius = self._ask(lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU))
        return NvmlReading(
            total=total,
            used=None if total is None else int(memory.used),
            free=None if total is None else int(memory.free),
            utilization=None if utilization is None else utilization / 100,
            power_watts=None if milliwatts is None else milliwatts / 1000,
            temperature_celsius=None if celsius is None else float(celsius),
        )

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (self._library.NVMLError, OSError, AttributeError):
            return None
