"""Schedules that move their own target up or down: how far a move goes, and how many signals in a row it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from batchd.parameters import Count, Growth, Positive
from batchd.schedules.schedule import BoundedSchedule, Proposal
from batchd.schedules.step_stats import StepStats


@dataclass(kw_only=True)
class Stepwise(BoundedSchedule):
    """Moves after `patience` equal signals in a row, from a target that never leaves the bounds (no wind-up)."""

    move: Literal["multiply", "add", "proportional"] = "multiply"
    factor: Growth = 1.5
    """`multiply`: times or divided by this. `proportional`: the most that one move changes."""
    increment: Positive = 8.0
    """`add`: plus or minus this."""
    gain: Positive = 1.0
    """`proportional`: change of log size per unit of the signal."""
    patience: Count = 2

    target: float | None = field(init=False, default=None)
    streak: int = field(init=False, default=0)
    """Signals in a row: positive for up, negative for down."""

    def _moved(self, stats: StepStats, direction: int, strength: float, why: str) -> Proposal:
        """The target after a signal: +1 up, -1 down, 0 none; `strength` >= 0 counts for proportional moves."""
        size = self.bounds.clamp(self.target if self.target is not None else float(stats.batch_size))
        self.streak = self.streak + direction if direction * self.streak >= 0 and direction else direction
        if abs(self.streak) < self.patience:
            self.target = size
            waiting = f", {abs(self.streak)} of {self.patience} signals" if direction else ""
            return Proposal(size, f"hold: {why}{waiting}")
        self.streak = 0
        self.target = self.bounds.clamp(self._step(size, direction, strength))
        return Proposal(self.target, f"{'up' if direction > 0 else 'down'}: {why}")

    def _step(self, size: float, direction: int, strength: float) -> float:
        match self.move:
            case "multiply":
                return size * self.factor**direction
            case "add":
                return size + direction * self.increment
            case "proportional":
                return size * math.exp(direction * min(self.gain * strength, math.log(self.factor)))
