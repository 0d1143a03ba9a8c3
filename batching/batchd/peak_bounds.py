"""Upper bounds on peak memory between and beyond the batch sizes and padded sizes for which peaks are known."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field


@dataclass(slots=True)
class Peaks:
    """Known peaks of one padded size, by batch size. Convex in the batch size: see `memory_model`."""

    sizes: list[int] = field(default_factory=list)  # sorted
    peaks: dict[int, int] = field(default_factory=dict)

    def add(self, batch_size: int, peak_bytes: int) -> bool:
        """Keep the largest peak of every batch size; return whether this is it."""
        known = self.peaks.get(batch_size)
        if known is None:
            insort(self.sizes, batch_size)
        elif known >= peak_bytes:
            return False
        self.peaks[batch_size] = peak_bytes
        return True

    def upper(self, batch_size: int) -> float:
        """Return an upper bound at `batch_size`; at least one peak must be known."""
        right = bisect_left(self.sizes, batch_size)
        if right == len(self.sizes):
            largest = self.sizes[-1]
            return self.peaks[largest] * batch_size / largest
        above = self.sizes[right]
        if above == batch_size or right == 0:
            return float(self.peaks[above])
        below = self.sizes[right - 1]
        share = (batch_size - below) / (above - below)
        return self.peaks[below] + share * (self.peaks[above] - self.peaks[below])

    def lower(self, batch_size: int) -> int:
        """Return the largest peak of a batch no larger than `batch_size`, 0 where none is known."""
        return max((self.peaks[size] for size in self.sizes[: bisect_right(self.sizes, batch_size)]), default=0)


def carried_over(elements: int, other: int) -> float:
    """Return what an upper bound for items of `other` elements is multiplied by to hold for `elements`."""
    return max(1.0, elements / other) ** 2
