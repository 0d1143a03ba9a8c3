"""How much work arrives per second, as the larger of a quick and a slow average: bursts count at once."""

from __future__ import annotations

import math

QUICK_S = 0.5
SLOW_S = 10.0


class ArrivalRate:
    """Exponentially weighted sums of work, each with its own time constant."""

    def __init__(self) -> None:
        self._sums = [0.0, 0.0]
        self._at = 0.0
        self._since: float | None = None

    def add(self, work: float, now: float) -> None:
        """Count `work` (any unit) that arrived at `now` (monotonic seconds)."""
        if self._since is None:
            self._since = self._at = now
        self._decay(now)
        self._sums[0] += work
        self._sums[1] += work

    def per_second(self, now: float) -> float:
        """Return the work per second. What began less than a time constant ago is not watered down by the time before.

        The slow average is the floor, the quick one speaks while it is above it.
        """
        if self._since is None:
            return 0.0
        age = max(now - self._since, QUICK_S)
        gone = max(0.0, now - self._at)
        quick, slow = self._sums
        return max(_average(quick, QUICK_S, gone, age), _average(slow, SLOW_S, gone, age))

    def _decay(self, now: float) -> None:
        gone = now - self._at
        if gone > 0:
            self._sums[0] *= math.exp(-gone / QUICK_S)
            self._sums[1] *= math.exp(-gone / SLOW_S)
            self._at = now


def _average(total: float, tau: float, gone: float, age: float) -> float:
    return total * math.exp(-gone / tau) / (tau * -math.expm1(-age / tau))
