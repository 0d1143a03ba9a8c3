"""How long answers take from the device to the client's door: it is kept free at the end of every deadline.

Under load the device finishes what it admits just in time. An answer that is then read, encoded and written is late.
"""

from __future__ import annotations

SMOOTHING = 0.1
DEVIATIONS = 3.0
LARGEST_SHARE = 0.2
"""Of a deadline. A front that needs more is not saved by a device that hurries."""


class WayBack:
    """Mean and mean deviation of late.

    Source: V. Jacobson, Congestion avoidance and control, 1988, appendix A.
    """

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._deviation_s = 0.0

    def observe(self, seconds: float) -> None:
        """Learn from one answer."""
        error = max(0.0, seconds) - self._mean_s
        self._mean_s += SMOOTHING * error
        self._deviation_s += SMOOTHING * (abs(error) - self._deviation_s)

    def reserve_s(self, limit_s: float) -> float:
        """Return what to keep free of a deadline that is `limit_s` away."""
        return min(self._mean_s + DEVIATIONS * self._deviation_s, LARGEST_SHARE * max(0.0, limit_s))
