"""How long a batch takes: on a real device as long as it does, on the simulated one as long as a law says."""

from __future__ import annotations

import logging
import random
import time
from typing import Protocol

from batchd.load import Load
from batchd.simulator import DeviceLaw

log = logging.getLogger(__name__)

WARN_AT = 10
"""Overruns that are told of. The first runs of a process pay for what torch does once, and say nothing."""


class Pace(Protocol):
    """Called by the executor's thread when a batch is done, before its time is taken."""

    def keep(self, started: float, load: Load) -> None:
        """Wait until a batch that began at `started` may be over."""
        ...


class OwnPace:
    """A device that takes its own time."""

    def keep(self, started: float, load: Load) -> None:
        """Do nothing."""


class LawfulPace:
    """Waits out what is left of the law's seconds; a batch that really took longer took what it took."""

    def __init__(self, law: DeviceLaw, seed: int) -> None:
        self._law = law
        self._rng = random.Random(seed)  # noqa: S311 - noise, not secrets
        self.overruns = 0

    def seconds(self, load: Load) -> float:
        """Draw how long a batch takes."""
        return self._law.seconds_of(load, self._rng)

    def keep(self, started: float, load: Load) -> None:
        """Wait on this thread."""
        seconds = self.seconds(load)
        left = started + seconds - time.monotonic()
        if left > 0:
            time.sleep(left)
            return
        self.overruns += 1
        if self.overruns == WARN_AT:
            log.warning(
                "%d batches took longer than the cost law says, the last one (%d items, %d elements) %.1f ms, not "
                "%.1f: this host is slower than the device that it simulates (said once)",
                self.overruns,
                load.batch_size,
                load.elements,
                (seconds - left) * 1e3,
                seconds * 1e3,
            )
