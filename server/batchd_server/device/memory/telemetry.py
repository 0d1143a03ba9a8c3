"""What the probes tell: one record per look, and the two small protocols behind which every device hides.

This module must not know which device there is. A source that cannot tell says None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from batchd.budget import MemoryReading
from batchd.item import Shape

if TYPE_CHECKING:
    import torch

Cell: TypeAlias = tuple[str, int, Shape]
"""Model, batch size and padded shape, both rounded up to powers of two: what shares one measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """One look at the device and its host. Memory in bytes."""

    memory: MemoryReading = field(default_factory=MemoryReading)
    device_used: int | None = None  # by all processes
    utilization: float | None = None  # 0 to 1, as the driver samples it
    power_watts: float | None = None
    temperature_celsius: float | None = None
    host_used: int | None = None
    host_limit: int | None = None


class TelemetrySource(Protocol):
    """Reads a device. Called by the sampler's thread, and by the executor's when a batch did not fit."""

    def read(self, resident: int | None) -> Telemetry:
        """Look once; `resident` is what the executor last saw this process hold between two batches."""
        ...


@dataclass(slots=True, kw_only=True)
class Measurement:
    """What one batch took; filled in when its `with` block ends."""

    peak_bytes: int | None = None  # over what was resident before
    disturbs_timing: bool = False  # measuring slowed the batch down
    tight: bool = False  # it fitted only once cached memory had been given back

    def adopt(self, batch: Any) -> None:
        """Count the tensors of a collated batch that came into being outside torch."""


class PeakMeter(Protocol):
    """Measures the peak memory of single batches. Called by the executor's thread, but for `hold`."""

    def measure(self, cell: Cell | None) -> AbstractContextManager[Measurement]:
        """Measure what runs inside the `with` block; without a cell only where that costs no time."""
        ...

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Hear of a model's weights, which are resident for as long as they live. Called by the loader's thread.

        Raises:
            torch.OutOfMemoryError: they do not fit.
        """
        ...

    def forget(self, model: str) -> None:
        """Measure the cells of a model as if it had never run."""
        ...

    def resident(self) -> int | None:
        """Return the bytes that this process holds while no batch runs."""
        ...
