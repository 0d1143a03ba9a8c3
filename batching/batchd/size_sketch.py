"""What sizes have come lately: counts on a logarithmic grid, forgotten exponentially.

Padding is area, and area lies in the tail, so the counts are exact and only the sizes are rounded, up to the next grid
point: a quantile sketch or a small sample would lose the few long items that matter most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class SizeSketch:
    """Counts by size in O(log(largest size) / log(growth)) cells."""

    def __init__(self, *, growth: float = 1.02, half_life: int = 4096) -> None:
        """Make an empty one: cells are `growth` apart, and after `half_life` items an item counts half.

        Raises:
            ValueError: growth is not above 1, or the half-life not positive.
        """
        if growth <= 1 or half_life < 1:
            raise ValueError(f"growth must be above 1 and half_life positive, got {growth} and {half_life}")
        self._log_growth = math.log(growth)
        self._decay = 0.5 ** (1.0 / half_life)
        self._cells: dict[int, float] = {}
        self._weight = 1.0  # of the next item; grows instead of all others shrinking

    def observe(self, size: int) -> None:
        """Count one item.

        Raises:
            ValueError: the size is below 1.
        """
        if size < 1:
            raise ValueError(f"a size must be at least 1, got {size}")
        cell = self._rounded(size)
        self._cells[cell] = self._cells.get(cell, 0.0) + self._weight
        self._weight /= self._decay
        if self._weight > 1e12:
            self._rescale()

    def counts(self) -> dict[int, float]:
        """Return the counts by size; the latest item counts 1."""
        latest = self._weight * self._decay
        return {size: weight / latest for size, weight in sorted(self._cells.items())}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-able values."""
        return {"counts": [[size, count] for size, count in self.counts().items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, of a sketch of any growth or half-life.

        Raises:
            ValueError: where the state is not of that form.
        """
        try:
            counts = [(int(size), float(count)) for size, count in state["counts"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a size sketch's state: {error}") from None
        if any(size < 1 or not 0 <= count < math.inf for size, count in counts):
            raise ValueError("not a size sketch's state: sizes must be at least 1 and counts not negative")
        self._weight = 1.0 / self._decay
        self._cells = {}
        for size, count in counts:
            cell = self._rounded(size)
            self._cells[cell] = self._cells.get(cell, 0.0) + count

    def _rounded(self, size: int) -> int:
        """The largest size that shares the cell; sizes that the grid tells apart anyway stay as they are."""
        step = math.ceil(math.log(size) / self._log_growth - 1e-9)
        return max(size, math.floor(math.exp(step * self._log_growth)))

    def _rescale(self) -> None:
        self._cells = {
            size: weight / self._weight for size, weight in self._cells.items() if weight > 1e-12 * self._weight
        }
        self._weight = 1.0
