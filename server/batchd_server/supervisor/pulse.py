"""The device process's sign of life: single bytes through a pipe whose other end the supervisor has.

The sender never waits: where the pipe is full, the supervisor does not read, and one byte more would tell it nothing.
"""

from __future__ import annotations

import os
from enum import IntFlag

INTERVAL_S = 0.5


class Beat(IntFlag):
    """What one byte tells."""

    ALIVE = 1
    READY = 2
    """Every model that is wanted serves."""
    ANSWERED = 4
    """Some item has been answered by the model."""


class Pulse:
    """The sending end; without a descriptor it sends nothing, for processes that nobody supervises."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._last = Beat(0)
        self._next = 0.0
        if descriptor is not None:
            os.set_blocking(descriptor, False)
            os.set_inheritable(descriptor, False)

    @property
    def next_at(self) -> float:
        """When the next one is due, in the caller's seconds."""
        return self._next

    def beat(self, beat: Beat, now: float) -> None:
        """Send a byte if one is due, or if there is something new to tell."""
        if now < self._next and beat == self._last:
            return
        self._last = beat
        self._next = now + INTERVAL_S
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, bytes([beat | Beat.ALIVE]))
        except BlockingIOError:
            return
        except BrokenPipeError:  # the supervisor is gone, and the kernel is about to end this process too
            self._descriptor = None


NO_PULSE = Pulse(None)
"""Of a process that nobody supervises."""


class Silence:
    """How long nothing was heard, counted only over time in which the listener itself ran. Pure.

    A machine that was frozen wakes up to a long silence, and nobody is to blame for it.
    """

    LONGEST_STEP_S = 1.0
    """Between two looks; what goes beyond is the listener's own absence."""

    def __init__(self, now: float) -> None:
        self._looked = now
        self._silent_s = 0.0

    def heard(self, now: float) -> None:
        """Something was heard."""
        self._looked = now
        self._silent_s = 0.0

    def look(self, now: float) -> float:
        """Return the seconds of silence so far. To be called several times a second."""
        self._silent_s += min(max(0.0, now - self._looked), self.LONGEST_STEP_S)
        self._looked = now
        return self._silent_s
