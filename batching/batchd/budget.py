"""How many bytes a batch may take: the limit, less what others and the resident tensors hold.

Readings are optional one by one: a source that cannot tell says None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReading:
    """What the probes saw at one moment, in bytes. On the CPU `device_free` is the free memory of cgroup or machine."""

    total: int | None = None  # of the device, or the cgroup's limit
    device_free: int | None = None  # not held by any process
    reserved: int | None = None  # held by this process's allocator, used or cached
    allocated: int | None = None  # in live tensors of this process: weights, gradients, optimizer state


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPolicy:
    """What an operator allows: a fraction of the device, and bytes kept free in any case."""

    limit_fraction: float = 0.85
    safety_bytes: int = 64 * 2**20
    headroom_share: float = 1.0
    """Of what is left, how much one batch may take: what runs at the same time must not count on the same bytes."""

    def __post_init__(self) -> None:
        if not 0 < self.limit_fraction <= 1:
            raise ValueError(f"limit_fraction must be in (0, 1], got {self.limit_fraction}")
        if self.safety_bytes < 0:
            raise ValueError(f"safety_bytes must not be negative, got {self.safety_bytes}")
        if not 0 < self.headroom_share <= 1:
            raise ValueError(f"headroom_share must be in (0, 1], got {self.headroom_share}")


def budget_bytes(reading: MemoryReading, policy: BudgetPolicy) -> int | None:
    """Return the bytes this process may hold in all: `min(fraction * total, free + reserved) - safety`.

    What the allocator already holds counts as available, because it is: only other processes' memory is not. None where
    neither bound is known.
    """
    bounds: list[int] = []
    if reading.total is not None:
        bounds.append(int(policy.limit_fraction * reading.total))
    if reading.device_free is not None:
        bounds.append(reading.device_free + (reading.reserved or 0))
    if not bounds:
        return None
    return max(0, min(bounds) - policy.safety_bytes)


def headroom_bytes(reading: MemoryReading, policy: BudgetPolicy) -> int | None:
    """Return the bytes that one batch may take over what is resident; None where no bound is known."""
    budget = budget_bytes(reading, policy)
    if budget is None:
        return None
    return int(policy.headroom_share * max(0, budget - (reading.allocated or 0)))
