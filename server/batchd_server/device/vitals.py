"""What the engine does about its own health in every turn: tell the supervisor that it lives, and notice what hangs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchd_server.device.hang_watch import HangWatch, Running
from batchd_server.supervisor.pulse import Beat, Pulse


class HungError(Exception):
    """What runs on the device does not end: only a new process helps."""


class Vitals:
    """Belongs to the engine's thread. `running` are the threads' own accounts of what they run."""

    def __init__(self, pulse: Pulse, hang_timeout_s: float, running: Sequence[Callable[[], Running | None]]) -> None:
        self._pulse = pulse
        self._watches = [(look, HangWatch(hang_timeout_s)) for look in running]

    @property
    def next_at(self) -> float:
        """When the next turn is due, in monotonic seconds."""
        return self._pulse.next_at

    def turn(self, now: float, *, ready: bool, answered: bool) -> None:
        """Beat, and look at what runs.

        Raises:
            HungError: something has run for far too long.
        """
        self._pulse.beat(
            Beat.ALIVE | (Beat.READY if ready else Beat(0)) | (Beat.ANSWERED if answered else Beat(0)), now
        )
        for look, watch in self._watches:
            hung = watch.look(look(), now)
            if hung is not None:
                raise HungError(hung)
