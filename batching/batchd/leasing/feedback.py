"""Corrects the leases by what they did: deadlines that were missed because of them halve the slack that is lent.

Whatever the cost models have wrong for good, this finds the level at which promises are kept. (The additive increase,
multiplicative decrease of congestion control, on the slack.)
"""

from __future__ import annotations

WINDOW_S = 1.0
TOLERATED = 0.005
"""Share of a window's answers that leases may make late."""
LOWEST = 0.1
RECOVERY = 0.05


class LeaseFeedback:
    """A factor in [0.1, 1] on the slack that may be lent."""

    def __init__(self) -> None:
        self.scale = 1.0
        self._window_ends = 0.0
        self._answers = 0
        self._misses = 0

    def answered(self, count: int, misses: int, now: float) -> None:
        """Count answers, and those of them that were late although they would not have been without leases."""
        self._answers += count
        self._misses += misses
        if now >= self._window_ends:
            self._close(now)

    def _close(self, now: float) -> None:
        if self._misses > TOLERATED * self._answers:
            self.scale = max(LOWEST, 0.5 * self.scale)
        else:
            self.scale = min(1.0, self.scale + RECOVERY)
        self._answers = self._misses = 0
        self._window_ends = now + WINDOW_S
