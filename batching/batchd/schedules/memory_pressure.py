"""The size follows the device's memory: a classic policy, kept for comparison.

It makes the experiment depend on the hardware and on who else uses it; the same job elsewhere takes other steps. What
the device can hold is the microbatch's business, and changes nothing but speed. So this one must be asked for twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchd.parameters import Growth, Positive, Share
from batchd.schedules.schedule import BoundedSchedule, Need, Proposal
from batchd.schedules.step_stats import StepStats


@dataclass(kw_only=True)
class MemoryPressure(BoundedSchedule):
    """Down by `factor` above the share `high` of memory, up by `increment` below `low`. Not portable."""

    name: ClassVar = "memory"
    needs: ClassVar[frozenset[Need]] = frozenset({"memory"})
    portable: ClassVar = False

    accept_not_portable: bool = False
    low: Share = 0.6
    high: Share = 0.8
    factor: Growth = 2.0
    increment: Positive = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.accept_not_portable:
            raise ValueError(
                "accept_not_portable must be true: sizes will depend on this device's memory, and on what else is in it"
            )
        if self.low >= self.high:
            raise ValueError(f"low must be below high = {self.high}, got {self.low}")

    def _next(self, stats: StepStats) -> Proposal:
        size, used = self.bounds.clamp(stats.batch_size), stats.memory_used or 0.0
        why = f"{100 * used:.0f} % of memory used"
        if used > self.high:
            return Proposal(size / self.factor, f"down: {why}")
        if used < self.low:
            return Proposal(size + self.increment, f"up: {why}")
        return Proposal(size, f"hold: {why}")
