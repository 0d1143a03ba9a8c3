"""When to start a process again after it has died. Pure: times come in, delays come out."""

from __future__ import annotations

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
CRASH_LOOP = 6
"""Deaths in a row, without having worked in between, that make a crash loop."""
CRASH_LOOP_DELAY_S = 30.0


class Restarts:
    """Exponential back-off over the deaths since the process last worked."""

    def __init__(self) -> None:
        self._deaths = 0

    @property
    def is_crash_loop(self) -> bool:
        """Whether the process keeps dying before it works."""
        return self._deaths >= CRASH_LOOP

    def worked(self) -> None:
        """The process has done what it is for: the next death begins a new count."""
        self._deaths = 0

    def delay_s(self) -> float:
        """Count one death and return how long to wait before the next start."""
        self._deaths += 1
        if self.is_crash_loop:
            return CRASH_LOOP_DELAY_S
        return min(FIRST_DELAY_S * 2.0 ** (self._deaths - 1), LONGEST_DELAY_S)
