"""The factor on predicted peaks: a guess at first, then what measurements have shown to be needed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

ENOUGH = 8
"""Ratios that replace the guess."""
RECENT = 128
"""Ratios that are remembered."""


@dataclass(slots=True)
class MemoryCorrection:
    """The largest recent ratio of measured to predicted peak, at least 1."""

    factor: float
    """The guess, until there are enough ratios."""
    _ratios: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def observe(self, predicted: float, measured: int) -> bool:
        """Learn how an uncorrected prediction did; return whether the factor has changed."""
        if predicted <= 0:
            return False
        self._ratios.append(measured / predicted)
        before = self.factor
        needed = max(1.0, *self._ratios)
        self.factor = needed if len(self._ratios) >= ENOUGH else max(before, needed)
        return self.factor != before
