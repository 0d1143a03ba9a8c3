"""When to start a process again after it has died. Pure: times come in, delays come out."""

from __future__ import annotations

from enum import Enum, auto

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
CRASH_LOOP = 6
"""Deaths in a row, without having worked in between, that make a crash loop."""
CRASH_LOOP_DELAY_S = 30.0
WORKED_S = 2.0
"""A process that has stayed alive for this long once it was ready has worked."""


class Death(Enum):
    """How a process ended, as far as it tells whether it ever worked."""

    OWN = auto()
    """By its own doing: a fault, an exit. Answers do not excuse it: one that dies a second after each start answers."""
    AT_WORK = auto()
    """By its own doing, while it ran a batch. What was aboard is tried alone and not run for ever, so that answers to
    others show that it works; one that dies of its first batch every time does not."""
    KILLED = auto()
    """By a signal that others send too. It need not be at fault, so one answer shows that it worked."""
    HUNG = auto()
    """It did nothing any more. That it was there for long shows nothing; only an answer does."""


class Restarts:
    """Exponential back-off over the deaths since the process last worked; the first one costs no delay."""

    def __init__(self) -> None:
        self._deaths = 0
        self._ready_at: float | None = None
        self._answered = False

    @property
    def deaths_in_a_row(self) -> int:
        """How often it has died since it last worked, as far as its deaths have shown."""
        return self._deaths

    @property
    def is_crash_loop(self) -> bool:
        """Whether the process keeps dying before it works."""
        return self._deaths >= CRASH_LOOP

    def ready(self, now: float) -> None:
        """The process is up. Only the first time counts."""
        if self._ready_at is None:
            self._ready_at = now

    def answered(self) -> None:
        """The process has done what it is for at least once."""
        self._answered = True

    def lasts(self, now: float) -> bool:
        """Return whether the process has been ready for long enough to have worked."""
        return self._ready_at is not None and now - self._ready_at >= WORKED_S

    def died(self, death: Death, now: float) -> float:
        """Count one death and return how long to wait before the next start."""
        if self._worked(death, now):
            self._deaths = 0
        self._deaths += 1
        self._ready_at = None
        self._answered = False
        if self.is_crash_loop:
            return CRASH_LOOP_DELAY_S
        if self._deaths == 1:
            return 0.0
        return min(FIRST_DELAY_S * 2.0 ** (self._deaths - 2), LONGEST_DELAY_S)

    def _worked(self, death: Death, now: float) -> bool:
        match death:
            case Death.OWN:
                return self.lasts(now)
            case Death.KILLED | Death.AT_WORK:
                return self._answered or self.lasts(now)
            case Death.HUNG:
                return self._answered
