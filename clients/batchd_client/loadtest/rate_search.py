"""The search for the highest rate that holds: which rate to try next, given what was tried.

A pure function of the history: bracket by growing or shrinking, then bisect geometrically. It must not know how a trial
is run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate that was tried, in requests per second."""

    rate: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSearch:
    """How to search.

    Raises:
        ValueError: where a bound or a factor makes no sense.
    """

    start: float
    growth: float = 2.0  # factor between trials until one holds and one does not
    tolerance: float = 0.05  # stop when the bracket is this narrow, relative to its lower end
    floor: float = 0.1
    ceiling: float = 20_000.0

    def __post_init__(self) -> None:
        if not 0 < self.floor <= self.start <= self.ceiling:
            raise ValueError(
                f"rate search needs 0 < floor <= start <= ceiling, got {self.floor}, {self.start}, {self.ceiling}"
            )
        if not self.growth > 1 or not self.tolerance > 0:
            raise ValueError("rate search needs growth > 1 and tolerance > 0")

    def bracket(self, trials: Sequence[Trial]) -> tuple[float | None, float | None]:
        """Return the highest rate known to hold and the lowest known not to; None where there is none.

        Near the limit noise can let a rate hold above one that did not. The lower failure is then believed: the answer
        must be a rate that held with no failure below it.
        """
        failed = min((trial.rate for trial in trials if not trial.passed), default=None)
        held = [trial.rate for trial in trials if trial.passed and (failed is None or trial.rate < failed)]
        return max(held, default=None), failed

    def next_rate(self, trials: Sequence[Trial]) -> float | None:
        """Return the rate to try, or None when the search is over."""
        low, high = self.bracket(trials)
        if low is None and high is None:
            return self.start
        if high is None:
            assert low is not None
            return None if low >= self.ceiling else min(low * self.growth, self.ceiling)
        if low is None:
            return None if high <= self.floor else max(high / self.growth, self.floor)
        if high / low <= 1 + self.tolerance:
            return None
        return math.sqrt(low * high)
