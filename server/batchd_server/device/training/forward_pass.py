"""A pass over examples without gradients: for validation, and to score candidate batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchd_server.device.training.step_plan import Cut, Sizes, StepPlan
from batchd_server.models.trainable import Losses


@dataclass(slots=True)
class LossSums:
    """Sums over loss terms."""

    total: float = 0.0
    terms: float = 0.0
    correct: int | None = 0
    entropy: float | None = 0.0
    """Of predictions, over log(classes)."""

    def add(self, total: float, losses: Losses) -> None:
        """Add a microbatch, whose loss was read as `total`; one without a figure leaves the sum without it."""
        self.total += total
        self.terms += losses.terms
        self.correct = None if self.correct is None or losses.correct is None else self.correct + losses.correct
        self.entropy = None if self.entropy is None or losses.entropy is None else self.entropy + losses.entropy

    def values(self) -> list[float | int | None]:
        """Return the sums in the order in which the class takes them."""
        return [self.total, self.terms, self.correct, self.entropy]

    @property
    def mean(self) -> float:
        """The loss per term."""
        return self.total / self.terms if self.terms else 0.0

    @property
    def accuracy(self) -> float | None:
        """The share that was predicted right; None where that has no meaning."""
        return None if self.correct is None or not self.terms else self.correct / self.terms


class ForwardPass:
    """Parts of examples, and what each part's losses sum to."""

    def __init__(self, parts: Sequence[Sequence[int]], sizes: Sizes, *, slice_size: int | None, group: int = 1) -> None:
        self.plan = StepPlan(parts, sizes, slice_size=slice_size, group=group)
        self.sums = [LossSums() for part in parts if len(part)]
        self._open = 0

    @property
    def finished(self) -> bool:
        """Whether every part has run."""
        return self.plan.finished

    def add(self, cut: Cut, total: float, losses: Losses) -> None:
        """Count a cut of the open part."""
        self.sums[self._open].add(total, losses)
        self.plan.done(cut)
        if self.plan.part_complete:
            self.plan.close_part()
            self._open += 1
