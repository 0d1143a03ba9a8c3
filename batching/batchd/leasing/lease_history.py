"""When the device was lent, to tell whose fault a late answer is."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

REMEMBERED = 4096
"""Leases; what is older is late for other reasons."""


class LeaseHistory:
    """The latest leases, which never overlap, and the seconds lent in all until each of them was over."""

    def __init__(self) -> None:
        self._begins: deque[float] = deque(maxlen=REMEMBERED)
        self._ends: deque[float] = deque(maxlen=REMEMBERED)
        self._totals: deque[float] = deque(maxlen=REMEMBERED)

    def __bool__(self) -> bool:
        return bool(self._ends)

    def add(self, begin: float, seconds: float) -> None:
        """Count a lease that is over. What was measured longer than the time since the last one counts from there."""
        end = begin + seconds
        if self._ends:
            begin, end = max(begin, self._ends[-1]), max(end, self._ends[-1])
        self._totals.append((self._totals[-1] if self._totals else 0.0) + end - begin)
        self._begins.append(begin)
        self._ends.append(end)

    def between(self, begin: float, end: float) -> float:
        """Return the seconds that were lent from `begin` to `end`, parts of leases included."""
        return max(0.0, self._until(end) - self._until(begin)) if self._ends else 0.0

    def _until(self, moment: float) -> float:
        over = bisect_right(self._ends, moment)
        if over == len(self._ends):
            return self._totals[-1]
        length = self._ends[over] - self._begins[over]
        return self._totals[over] - length + max(0.0, moment - self._begins[over])
