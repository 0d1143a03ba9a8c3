"""What batches are thought to take before any has run, and what measured peaks have to say about that.

The predictions are upper bounds at their own cells, and are carried over to others by the laws of `memory_model`.
They are multiplied by a guess, until enough measured peaks show the factor that they need.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from batchd.memory_correction import ENOUGH, RECENT
from batchd.peak_bounds import Peaks, carried_over

TELLING = 0.25
"""A measured peak is held against the prior only if its prediction is this share of the largest one so held.

What libraries take for themselves can be many times a small batch, and next to nothing beside a large one.
"""


@dataclass(slots=True)
class MemoryPrior:
    """Predicted peaks of one model. Empty, it says nothing, and is false."""

    guess: float = 1.15
    """Predictions are multiplied by at least this until there are enough measured peaks."""
    _foreseen: dict[int, Peaks] = field(default_factory=dict)  # by padded elements of one item
    _held: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Predictions, and the ratios of what was measured to them."""
    _factor: float = field(init=False)

    def __post_init__(self) -> None:
        self._factor = self.guess

    def __bool__(self) -> bool:
        return bool(self._foreseen)

    @property
    def factor(self) -> float:
        """What predictions are multiplied by: the largest recent ratio of measured to predicted peak, at least 1."""
        return self._factor

    def foresee(self, batch_size: int, elements: int, peak_bytes: int) -> None:
        """Take a prediction."""
        self._foreseen.setdefault(elements, Peaks()).add(batch_size, max(1, peak_bytes))

    def predicted(self, batch_size: int, elements: int) -> float | None:
        """Return the uncorrected upper bound; None where nothing was foreseen."""
        return min(
            (peaks.upper(batch_size) * carried_over(elements, other) for other, peaks in self._foreseen.items()),
            default=None,
        )

    def upper_bytes(self, batch_size: int, elements: int) -> float | None:
        """Return the corrected upper bound; None where nothing was foreseen."""
        predicted = self.predicted(batch_size, elements)
        return None if predicted is None else predicted * self._factor

    def judge(self, batch_size: int, elements: int, peak_bytes: int) -> bool:
        """Hold a measured peak against the prior; return whether the factor has changed."""
        predicted = self.predicted(batch_size, elements)
        if predicted is None:
            return False
        self._held.append((predicted, peak_bytes / predicted))
        telling = TELLING * max(predicted for predicted, _ in self._held)
        ratios = [ratio for predicted, ratio in self._held if predicted >= telling]
        before = self._factor
        self._factor = max(1.0 if len(ratios) >= ENOUGH else self.guess, *ratios)
        return self._factor != before

    def unjudged(self) -> MemoryPrior:
        """Return the same predictions, held against nothing yet."""
        return MemoryPrior(self.guess, dict(self._foreseen))
