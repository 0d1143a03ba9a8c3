"""NVML as the drivers of the field behave: missing, unsupported, zeros, and other numbers than CUDA's."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from batchd_server.device.memory.nvml import NvmlDevice, NvmlReading

UUID = "GPU-0a1b2c3d-0000-1111-2222-333344445555"


class NVMLError(Exception):
    pass


def library(**answers: Any) -> ModuleType:
    """A pynvml whose functions return what they are given, or raise it."""
    module = ModuleType("pynvml")
    module.NVMLError = NVMLError  # type: ignore[attr-defined]
    module.NVML_TEMPERATURE_GPU = 0  # type: ignore[attr-defined]
    defaults: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlDeviceGetHandleByUUID": "handle",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=1000, used=300, free=700),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=42),
        "nvmlDeviceGetPowerUsage": 250_500,
        "nvmlDeviceGetTemperature": 61,
    }

    def function(name: str, answer: Any) -> None:
        def call(*arguments: Any) -> Any:
            calls.append((name, *arguments))
            if isinstance(answer, Exception):
                raise answer
            return answer

        setattr(module, name, call)

    calls: list[tuple[Any, ...]] = []
    module.calls = calls  # type: ignore[attr-defined]
    for name, answer in (defaults | answers).items():
        function(name, answer)
    return module


@pytest.mark.parametrize("given", [UUID, UUID.removeprefix("GPU-")])
def test_the_device_is_found_by_uuid_and_never_by_number(given: str) -> None:
    module = library()
    assert NvmlDevice.find(given, module) is not None
    assert ("nvmlDeviceGetHandleByUUID", UUID) in module.calls


def test_all_figures_in_base_units() -> None:
    device = NvmlDevice.find(UUID, library())
    assert device is not None
    assert device.read() == NvmlReading(
        total=1000, used=300, free=700, utilization=0.42, power_watts=250.5, temperature_celsius=61.0
    )


@pytest.mark.parametrize(
    "answers",
    [
        {"nvmlInit": NVMLError("Driver Not Loaded")},
        {"nvmlInit": OSError("libnvidia-ml.so.1: cannot open shared object file")},
        {"nvmlDeviceGetHandleByUUID": NVMLError("Not Found")},
    ],
)
def test_no_driver_or_no_such_device_is_a_normal_case(answers: dict[str, Any]) -> None:
    assert NvmlDevice.find(UUID, library(**answers)) is None


def test_unsupported_figures_are_missing_one_by_one() -> None:
    unsupported = NVMLError("Not Supported")
    device = NvmlDevice.find(UUID, library(nvmlDeviceGetMemoryInfo=unsupported, nvmlDeviceGetPowerUsage=unsupported))
    assert device is not None
    assert device.read() == NvmlReading(utilization=0.42, temperature_celsius=61.0)


def test_zeros_of_unified_memory_are_missing_not_full() -> None:
    device = NvmlDevice.find(UUID, library(nvmlDeviceGetMemoryInfo=SimpleNamespace(total=0, used=0, free=0)))
    assert device is not None
    reading = device.read()
    assert (reading.total, reading.used, reading.free) == (None, None, None)


def test_the_growth_of_others_shows() -> None:
    module = library()
    device = NvmlDevice.find(UUID, module)
    assert device is not None
    before = device.read().free
    module.nvmlDeviceGetMemoryInfo = lambda _: SimpleNamespace(total=1000, used=900, free=100)  # type: ignore[attr-defined]
    assert (before, device.read().free) == (700, 100)
