"""Chooses among candidate sizes by what each does to the loss on the same pool of examples.

The executor draws a pool of as many examples as the largest candidate, scores every candidate on it as
`StepStats.candidates` says, asks, and then trains on this pool in batches of the chosen size. Every candidate sees the
same examples, so the learning rate goes with the size: see the rule `online_selection` in `batchd.lr_rules`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from batchd.parameters import Count, NotNegative
from batchd.schedules.schedule import BoundedSchedule, Need, Proposal
from batchd.schedules.step_stats import CandidateLoss, StepStats


@dataclass(kw_only=True)
class OnlineSelection(BoundedSchedule):
    """Takes the candidate with the lowest or highest average loss; of equals, the largest.

    The mean of means of equal parts is the mean: without batch normalisation or dropout the averages of all candidates
    are equal but for rounding, and what is chosen among them is that noise. `tolerance` says what counts as equal.
    With `lookahead` the score is the loss on the next pool after training on this one, and where seconds are given, the
    decrease per second against the worst candidate.
    """

    name: ClassVar = "online_selection"
    needs: ClassVar[frozenset[Need]] = frozenset({"candidates"})
    immediate: ClassVar = True

    candidates: tuple[Count, ...] | None = None
    """None: the largest size, its half and its quarter, as far as the bounds allow."""
    choose: Literal["min", "max"] = "min"
    score: Literal["average", "lookahead"] = "average"
    tolerance: NotNegative = 1e-6
    """Scores that differ by less than this share are equal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.candidates or ():
            if self.bounds.clamp(size) != size:
                raise ValueError(
                    f"candidates must be in [{self.bounds.min_size}, {self.bounds.max_size}], got {list(self.sizes)}"
                )
        if self.candidates is not None and not self.candidates:
            raise ValueError("candidates must not be empty")
        if self.score == "lookahead" and self.choose == "max":
            raise ValueError("choose must be 'min' with score 'lookahead', got 'max'")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes to score, from large to small."""
        if self.candidates is not None:
            return tuple(sorted(set(self.candidates), reverse=True))
        halves = {max(self.bounds.min_size, self.bounds.max_size >> shift) for shift in range(3)}
        return tuple(sorted(halves, reverse=True))

    def _next(self, stats: StepStats) -> Proposal:
        known = [entry for entry in stats.candidates if entry.size in self.sizes and math.isfinite(entry.loss)]
        if not known:
            return self._hold(stats, "none of the scored sizes is a candidate")
        scores = self._scores(known)
        best = min(score for _, score in scores)
        ties = [
            size
            for size, score in scores
            if score == best or score - best <= self.tolerance * max(abs(best), abs(score))
        ]
        why = f"score {best:.6g}" if len(ties) == 1 else f"{len(ties)} candidates are equal"
        return Proposal(float(max(ties)), f"{self.choose} of {len(known)}: {why}")

    def _scores(self, known: list[CandidateLoss]) -> list[tuple[int, float]]:
        """What is to be small, by size."""
        if self.score == "lookahead" and all(entry.seconds and entry.seconds > 0 for entry in known):
            worst = max(entry.loss for entry in known)
            return [(entry.size, -(worst - entry.loss) / (entry.seconds or 1.0)) for entry in known]
        sign = -1.0 if self.choose == "max" else 1.0
        return [(entry.size, sign * entry.loss) for entry in known]
