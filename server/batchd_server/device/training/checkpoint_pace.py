"""When a job is saved because time has passed, beside the steps at which it is saved anyway. Pure: times come in.

Whatever ends the device process, a job loses little by it. One that was interrupted before is saved soon after it goes
on, and then less and less often: it gets ahead however short its lives are.
"""

from __future__ import annotations

import math

LONGEST_S = 60.0
FIRST_S = 1.0
"""After an interruption; doubled with every save."""
COST = 20.0
"""So many times as long as a save keeps a job from running it runs before the next one."""
AT_LAST_S = 600.0


class CheckpointPace:
    """Follows one trainer."""

    def __init__(self) -> None:
        self._interval_s = LONGEST_S
        self._due_at = math.inf
        self._saved_at: float | None = None

    def begin(self, now: float, *, interrupted: bool) -> None:
        """The job begins, or goes on after it was interrupted."""
        self._interval_s = FIRST_S if interrupted else LONGEST_S
        self._due_at = now + self._interval_s

    def due(self, now: float) -> bool:
        """Return whether it is time."""
        return now >= self._due_at

    def saved(self, now: float) -> None:
        """A snapshot was taken; until it is on the disk the job does not run."""
        self._saved_at = now
        self._due_at = math.inf

    def runs(self, now: float) -> None:
        """The job has the device."""
        if self._saved_at is not None:
            self._interval_s = min(LONGEST_S, 2 * self._interval_s)
            self._due_at = now + max(self._interval_s, min(AT_LAST_S, COST * (now - self._saved_at)))
            self._saved_at = None
