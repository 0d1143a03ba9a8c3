"""Has what runs on the device been running for too long to ever end? Pure: times come in, a verdict comes out."""

from __future__ import annotations

from dataclasses import dataclass

FACTOR = 20.0
"""Times the predicted upper time; the larger of that and the floor is what work may take."""
UNKNOWN_FACTOR = 30.0
"""Times the floor, for work that nothing is known about: a first run may compile kernels for minutes."""
LONGEST_STEP_S = 1.0
"""Time between two looks that goes beyond is the looker's own absence, as in a frozen container, and does not count."""


@dataclass(frozen=True, slots=True)
class Running:
    """One run on the device. `number` differs from one to the next."""

    number: int
    what: str
    upper_s: float | None  # predicted; None: unknown


class RunAccount:
    """What a thread says about its own work. Any other thread may read `current`."""

    def __init__(self) -> None:
        self.current: Running | None = None
        self._number = 0

    def begin(self, what: str, upper_s: float | None) -> None:
        """Some work begins."""
        self._number += 1
        self.current = Running(self._number, what, upper_s)

    def again(self) -> None:
        """Another run of the same work begins."""
        if self.current is not None:
            self.begin(self.current.what, self.current.upper_s)

    def end(self) -> None:
        """Nothing runs."""
        self.current = None


class HangWatch:
    """Looks at one thread's work again and again, at least twice a second while anything runs."""

    def __init__(self, floor_s: float) -> None:
        self._floor_s = floor_s
        self._number: int | None = None
        self._ran_s = 0.0
        self._looked = 0.0

    def look(self, running: Running | None, now: float) -> str | None:
        """Return what hangs, in words; None where nothing does."""
        if running is None or running.number != self._number:
            self._number = None if running is None else running.number
            self._ran_s = 0.0
        else:
            self._ran_s += min(max(0.0, now - self._looked), LONGEST_STEP_S)
        self._looked = now
        if running is None or self._ran_s <= self.allowed_s(running.upper_s):
            return None
        predicted = "of unknown cost" if running.upper_s is None else f"predicted to end within {running.upper_s:.3g} s"
        return f"{running.what}, {predicted}, has run for {self._ran_s:.3g} s"

    def allowed_s(self, upper_s: float | None) -> float:
        """Return how long work of that predicted upper time may run."""
        if upper_s is None:
            return UNKNOWN_FACTOR * self._floor_s
        return max(FACTOR * upper_s, self._floor_s)
