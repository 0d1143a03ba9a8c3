"""Easy examples first, in small batches; then more of the data, in larger ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from batchd.parameters import Count, Positive, Share
from batchd.schedules.schedule import BoundedSchedule, Proposal
from batchd.schedules.step_stats import StepStats


@dataclass(kw_only=True)
class Curriculum(BoundedSchedule):
    """Competence c = min(1, sqrt(t * (1 - c0**2) / T + c0**2)) after t examples.

    The size is `min + (max - min) * c`, and examples are drawn evenly from the easiest share c of the data. T should
    end well before training does: the last phase sees all data.
    Source: E. Platanios et al., Competence-based Curriculum Learning, NAACL 2019.
    """

    name: ClassVar = "curriculum"
    immediate: ClassVar = True

    initial: Share = 0.1
    """c0, the share of the data at the start."""
    duration_examples: Count | None = None
    """T; None: `duration_epochs` epochs."""
    duration_epochs: Positive = 5.0

    def _next(self, stats: StepStats) -> Proposal:
        competence = self.competence(stats.examples, stats.train_size)
        size = self.bounds.min_size + (self.bounds.max_size - self.bounds.min_size) * competence
        return Proposal(size, f"competence {competence:.3f}", data_fraction=competence)

    def competence(self, examples: int, train_size: int) -> float:
        """Return c after `examples` examples: it never falls, and ends at 1."""
        duration = self.duration_examples or max(1.0, self.duration_epochs * train_size)
        progress = min(1.0, max(0, examples) / duration)
        return min(1.0, math.sqrt(progress * (1 - self.initial**2) + self.initial**2))
