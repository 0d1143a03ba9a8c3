"""When the device process may end. Pure: times are monotonic seconds and come in as arguments."""

from __future__ import annotations

import math

from batchd_server.supervisor.stopping import SAVE_GRACE_S, save_limit_s


class Ending:
    """The two steps to the end: nothing more is trained, then nothing more is served."""

    def __init__(self, drain_delay_s: float, drain_timeout_s: float) -> None:
        self._drain_timeout_s = drain_timeout_s
        self._save_limit_s = save_limit_s(drain_delay_s, drain_timeout_s)
        self._serve_by = self._save_by = math.inf
        self.parked = False
        """Whether training has been told to be saved."""
        self.stopping = False
        """Whether what was admitted is all that will be served."""

    def park(self, now: float) -> bool:
        """The daemon will stop: return whether that is news."""
        news, self.parked = not self.parked, True
        if news:
            self._save_by = min(self._save_by, now + self._save_limit_s)
        return news

    def stop(self, now: float) -> bool:
        """No more requests will come: return whether that is news."""
        news, self.stopping = not self.stopping, True
        if news:
            self._serve_by = now + self._drain_timeout_s
            self._save_by = min(self._save_by, self._serve_by + SAVE_GRACE_S)
        return news

    def over(self, now: float, *, serving: bool, saving: bool) -> bool:
        """Return whether to end now, given whether somebody still waits for an answer, and training for the disk."""
        if not self.stopping:
            return False
        return not (serving and now < self._serve_by) and not (saving and now < self._save_by)
