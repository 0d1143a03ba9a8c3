"""Sizes that follow a plan: functions of the examples or epochs that have passed, without feedback or memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from batchd.parameters import Count, Growth, Positive
from batchd.schedules.schedule import BoundedSchedule, Proposal
from batchd.schedules.step_stats import StepStats


@dataclass(kw_only=True)
class Fixed(BoundedSchedule):
    """One size; without `size`, the one that training began with."""

    name: ClassVar = "fixed"
    immediate: ClassVar = True

    size: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.bounds.clamp(self.size) != self.size:
            raise ValueError(f"size must be in [{self.bounds.min_size}, {self.bounds.max_size}], got {self.size}")

    def _next(self, stats: StepStats) -> Proposal:
        return Proposal(float(self.size or stats.batch_size), "fixed")


@dataclass(kw_only=True)
class Planned(BoundedSchedule):
    """A plan counts whole periods: epochs, or `every_examples` examples.

    Not steps: a size that depended on the number of steps would depend on itself.
    """

    immediate: ClassVar = True

    every_examples: Count | None = None
    """Length of a period; None: an epoch."""

    def _period(self, stats: StepStats) -> int:
        if self.every_examples is not None:
            return max(0, stats.examples) // self.every_examples
        if not math.isfinite(stats.epoch):
            return 0
        return max(0, math.floor(stats.epoch + 1e-9))  # examples / train_size may fall short of a whole by rounding


@dataclass(kw_only=True)
class Linear(Planned):
    """`start + increment * i` in period i; a negative increment counts down."""

    name: ClassVar = "linear"

    start: Positive | None = None
    """None: the smallest size, or the largest when counting down."""
    increment: float = 8.0

    def _next(self, stats: StepStats) -> Proposal:
        period = self._period(stats)
        default = self.bounds.min_size if self.increment >= 0 else self.bounds.max_size
        return Proposal((self.start or default) + self.increment * period, f"period {period}")


@dataclass(kw_only=True)
class Exponential(Planned):
    """`start * factor**i` in period i, computed from logarithms: no overflow, however long the training."""

    name: ClassVar = "exponential"

    start: Positive | None = None
    """None: the smallest size, or the largest when the factor is below 1."""
    factor: Positive = 1.5

    def _next(self, stats: StepStats) -> Proposal:
        period = self._period(stats)
        start = self.start or (self.bounds.min_size if self.factor >= 1 else self.bounds.max_size)
        return Proposal(
            self.bounds.clamped_exp(math.log(start) + period * math.log(self.factor)),
            f"period {period}",
        )


@dataclass(kw_only=True)
class Cyclical(Planned):
    """Up from the smallest to the largest size, geometrically, and again from the start every `cycle` periods.

    `saw` drops at the end of a cycle, `triangle` and `cosine` come down as they went up. After `num_cycles` cycles the
    largest size stays: training should not end on a restart.
    """

    name: ClassVar = "cyclical"

    cycle: Count = 8
    shape: Literal["saw", "triangle", "cosine"] = "saw"
    num_cycles: Count | None = None

    def _next(self, stats: StepStats) -> Proposal:
        cycle, place = divmod(self._period(stats), self.cycle)
        if self.num_cycles is not None and cycle >= self.num_cycles:
            return Proposal(float(self.bounds.max_size), f"after {self.num_cycles} cycles")
        phase = place / self.cycle
        position = {
            "saw": phase,
            "triangle": 1 - abs(2 * phase - 1),
            "cosine": (1 - math.cos(2 * math.pi * phase)) / 2,
        }[self.shape]
        return Proposal(self.bounds.between(position), f"phase {phase:.2f} of cycle {cycle}")


@dataclass(kw_only=True)
class WarmUp(BoundedSchedule):
    """`start`, multiplied by `factor` at every milestone, a number of epochs.

    Source: the batch-size warm-up of large language models; equal milestones with factor 2 are AdaBatch (A. Devarakonda
    et al., arXiv 1712.02029), whose learning rate must be coupled: see `batchd.lr_rules`.
    """

    name: ClassVar = "warmup"
    immediate: ClassVar = True

    start: Positive | None = None
    factor: Growth = 2.0
    milestones: tuple[Positive, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.milestones or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be strictly increasing, got {list(self.milestones)}")

    def _next(self, stats: StepStats) -> Proposal:
        passed = sum(stats.epoch >= milestone for milestone in self.milestones)
        start = self.start or self.bounds.min_size
        return Proposal(
            self.bounds.clamped_exp(math.log(start) + passed * math.log(self.factor)),
            f"{passed} of {len(self.milestones)} milestones passed",
        )
