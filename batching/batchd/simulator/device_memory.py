"""The memory of the simulated device: its size, what a batch takes of it, and what others do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchd.budget import MemoryReading
from batchd.load import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """Another process that holds `held` bytes of the device from `begins` until `ends`."""

    held: int
    begins: float = 0.0
    ends: float = math.inf

    def __post_init__(self) -> None:
        if self.held < 0 or self.begins < 0 or self.ends <= self.begins:
            raise ValueError("a neighbour holds bytes from 0 on, from one time until a later one")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Peak bytes of a batch: `fixed + B * (per_element * E + per_square * E^2)`, E being its padded elements."""

    total: int
    per_element: float
    per_square: float = 0.0
    fixed: int = 0
    resident: int = 0
    """Weights: held all the time, and no part of a batch's peak."""
    neighbours: tuple[Neighbour, ...] = ()

    def __post_init__(self) -> None:
        if min(self.per_element, self.per_square, self.fixed, self.resident) < 0 or self.total <= self.resident:
            raise ValueError("the device's bytes must be more than what is resident, and no other bytes negative")

    def peak_bytes(self, batch_size: int, elements: int) -> int:
        """Return what a batch takes over what is resident."""
        return self.peak_bytes_of(Load.padded(batch_size, elements))

    def peak_bytes_of(self, load: Load) -> int:
        """Return the same for any load."""
        return self.fixed + math.ceil(self.per_element * load.elements + self.per_square * load.squares)

    def free(self, now: float) -> int:
        """Return the bytes that nobody holds between two batches."""
        others = sum(neighbour.held for neighbour in self.neighbours if neighbour.begins <= now < neighbour.ends)
        return max(0, self.total - self.resident - others)

    def reading(self, now: float) -> MemoryReading:
        """Return what the memory probes would see."""
        return MemoryReading(
            total=self.total, device_free=self.free(now), reserved=self.resident, allocated=self.resident
        )
