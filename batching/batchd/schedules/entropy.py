"""The size follows how sure the model is of its predictions: unsure is small, sure is large."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from batchd.parameters import Positive, Range, Share
from batchd.schedules.schedule import Need, Proposal
from batchd.schedules.step_stats import StepStats
from batchd.schedules.stepwise import Stepwise

Fraction = Annotated[float, Range(at_least=0, at_most=1)]


@dataclass(kw_only=True)
class Entropy(Stepwise):
    """Normalised entropy h = H / log(classes) of the predictions, averaged over steps.

    `absolute`: `min * (max / min)**((1 - h)**power)`. `incremental`: below `low` up, above `high` down. Label smoothing
    keeps h above 0: raise `low` accordingly.
    """

    name: ClassVar = "entropy"
    needs: ClassVar[frozenset[Need]] = frozenset({"entropy"})

    mode: Literal["absolute", "incremental"] = "absolute"
    power: Positive = 1.0
    low: Fraction = 0.3
    high: Fraction = 0.7
    alpha: Share = 0.1

    average: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task.kind != "classification" or (self.task.num_classes or 0) < 2:
            raise ValueError("needs a classification with at least 2 classes: the entropy of one class is always 0")
        if self.low >= self.high:
            raise ValueError(f"low must be below high = {self.high}, got {self.low}")

    def _next(self, stats: StepStats) -> Proposal:
        share = (stats.entropy or 0.0) / math.log(self.task.num_classes or 2)
        share = min(max(share, 0.0), 1.0)  # rounding may lead out by a little
        self.average = share if self.average is None else self.average + self.alpha * (share - self.average)
        why = f"normalised entropy {self.average:.3g}"
        if self.mode == "absolute":
            return Proposal(self.bounds.between((1 - self.average) ** self.power), why)
        if self.average < self.low:
            return self._moved(stats, 1, self.low - self.average, why)
        if self.average > self.high:
            return self._moved(stats, -1, self.average - self.high, why)
        return self._moved(stats, 0, 0.0, why)
