"""What a batch-size schedule is: from the statistics of training to a proposed global batch size, and nothing else.

A schedule belongs to the experiment: the same statistics give the same sizes on any hardware. It never sees the
device's memory or the microbatch size (`memory_pressure.py` is the one exception, and says so).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol

from batchd.parameters import Count, check
from batchd.schedules.step_stats import StepStats

Unit = Literal["step", "epoch"]
Need = Literal["loss", "entropy", "gradient", "time", "candidates", "memory"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The sizes that a global batch may have, both included.

    Raises:
        ValueError: a bound is below 1 or no integer, or they are in the wrong order.
    """

    min_size: Count
    max_size: Count

    def __post_init__(self) -> None:
        check(self)
        if self.max_size < self.min_size:
            raise ValueError(f"max_size must be at least min_size = {self.min_size}, got {self.max_size}")

    def clamp(self, size: float) -> float:
        """Return the nearest size within the bounds."""
        return min(max(size, self.min_size), self.max_size)

    def clamped_exp(self, log_size: float) -> float:
        """Return exp(log_size) within the bounds; never overflows."""
        return self.clamp(math.exp(min(max(log_size, 0.0), math.log(self.max_size) + 1.0)))

    def between(self, position: float) -> float:
        """Return min * (max / min)**position: 0 is the smallest size, 1 the largest, the way is geometric."""
        return self.clamp(self.min_size * (self.max_size / self.min_size) ** min(max(position, 0.0), 1.0))


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, as far as a schedule must know it.

    Raises:
        ValueError: a classification without its number of classes, or a training set that is empty.
    """

    kind: Literal["classification", "regression"] = "regression"
    num_classes: Count | None = None
    train_size: Count | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.kind == "classification" and self.num_classes is None:
            raise ValueError("num_classes must be given for a classification")


@dataclass(frozen=True, slots=True)
class Proposal:
    """The size that a schedule would choose. The governor decides what becomes of it."""

    target: float
    reason: str
    data_fraction: float = 1.0
    """The share of the easiest examples that may be drawn; 1 except for a curriculum."""


class Schedule(Protocol):
    """Anything that proposes global batch sizes. State goes out and in as JSON."""

    name: ClassVar[str]
    """The name in settings and in the journal."""
    unit: ClassVar[Unit]
    """When it is asked: after every step, or after every epoch."""
    needs: ClassVar[frozenset[Need]]
    """Which statistics it reads: without them it holds the size."""
    immediate: ClassVar[bool]
    """Whether a proposal is followed as it is, without smoothing, dead band, cool-down or limit of change."""

    def propose(self, stats: StepStats) -> Proposal:
        """Return a size within the bounds."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what another one remembered."""
        ...


@dataclass(kw_only=True)
class BoundedSchedule(ABC):
    """What the schedules of batchd share: parameters are fields, memory is fields outside `__init__`.

    Whatever comes in, a proposal lies within the bounds: without the statistics that it needs, or with one that is not
    finite, a schedule holds the size and forgets that it was asked.

    Raises:
        ValueError: a parameter is out of its range, or the schedule cannot work for the task.
    """

    name: ClassVar[str]
    unit: ClassVar[Unit] = "step"
    needs: ClassVar[frozenset[Need]] = frozenset()
    immediate: ClassVar[bool] = False
    portable: ClassVar[bool] = True
    """Whether another machine would choose the same sizes; so it is, unless the schedule is about the machine."""

    bounds: Bounds
    task: Task = field(default_factory=Task)

    def __post_init__(self) -> None:
        check(self)

    def propose(self, stats: StepStats) -> Proposal:
        """Return a size within the bounds, and why."""
        missing = sorted(need for need in self.needs if not stats.has(need))
        if missing:
            return self._hold(stats, f"{missing[0]} is missing or not finite")
        proposal = self._next(stats)
        if not math.isfinite(proposal.target):
            return self._hold(stats, f"no finite size: {proposal.reason}")
        return Proposal(self.bounds.clamp(proposal.target), proposal.reason, proposal.data_fraction)

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers, as JSON."""
        return {name: deepcopy(getattr(self, name)) for name in self._memory()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what another one of the same kind remembered.

        Raises:
            ValueError: the state is another schedule's.
        """
        if set(state) != set(self._memory()):
            raise ValueError(f"the state of {self.name} has {sorted(self._memory())}, got {sorted(state)}")
        for name, value in state.items():
            setattr(self, name, deepcopy(value))

    @abstractmethod
    def _next(self, stats: StepStats) -> Proposal:
        """The proposal; called only with finite statistics."""

    def _hold(self, stats: StepStats, reason: str) -> Proposal:
        return Proposal(self.bounds.clamp(float(stats.batch_size)), f"hold: {reason}")

    def _memory(self) -> list[str]:
        return [entry.name for entry in fields(self) if not entry.init]
