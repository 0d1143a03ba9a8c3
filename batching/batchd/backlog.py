"""How much work waits, and how much of it is more urgent than a newcomer."""

from __future__ import annotations

import math
from collections.abc import Iterable


class Backlog:
    """Waiting seconds and items in bins of urgency. A query costs the number of bins in use."""

    def __init__(self, resolution_s: float) -> None:
        """Make an empty one; `resolution_s` is the width of a bin of urgency."""
        self._resolution_s = resolution_s
        self._bins: dict[int, tuple[float, int]] = {}

    def add(self, urgency: float, cost: float) -> None:
        """Count one more item."""
        key = self._key(urgency)
        seconds, count = self._bins.get(key, (0.0, 0))
        self._bins[key] = (seconds + cost, count + 1)

    def remove(self, urgency: float, cost: float) -> None:
        """Count one item less; an emptied bin forgets its rounding errors."""
        key = self._key(urgency)
        seconds, count = self._bins[key]
        if count == 1:
            del self._bins[key]
        else:
            self._bins[key] = (seconds - cost, count - 1)

    def ahead_of(self, urgency: float) -> tuple[float, int]:
        """Return (seconds, items) that are at least as urgent; for infinity, all."""
        last = math.inf if urgency == math.inf else self._key(urgency)
        seconds, count = 0.0, 0
        for key, (bin_seconds, bin_count) in self._bins.items():
            if key <= last:
                seconds += bin_seconds
                count += bin_count
        return seconds, count

    def bins_without(self, taken: Iterable[tuple[float, float]]) -> list[tuple[float, float, int]]:
        """Return (lower edge, seconds, items) of every bin in order, less some (urgency, cost) that are in them."""
        bins = dict(self._bins)
        for urgency, cost in taken:
            key = self._key(urgency)
            seconds, count = bins[key]
            bins[key] = (max(0.0, seconds - cost), count - 1)
        return [
            (key * self._resolution_s, seconds, count) for key, (seconds, count) in sorted(bins.items()) if count > 0
        ]

    def _key(self, urgency: float) -> int:
        return math.floor(urgency / self._resolution_s)
