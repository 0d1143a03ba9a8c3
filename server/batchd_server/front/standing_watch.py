"""Why there is no device process, from what its supervisor has written down; and what clients are told then."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from batchd_server.errors import Unavailable
from batchd_server.supervisor.standing import DeviceStanding

FRESH_S = 0.2
"""The file is not read more often than that on behalf of requests, however many ask."""
UNKNOWN_RETRY_S = 5.0
"""While a process that has died again and again is being tried once more."""


class StandingWatch:
    """Reads the standing when it is asked for. `wall_clock` counts seconds since the epoch."""

    def __init__(self, directory: Path, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._directory = directory
        self._clock = clock
        self._wall_clock = wall_clock
        self._read_at = -math.inf
        self._standing: DeviceStanding | None = None

    def look(self) -> DeviceStanding | None:
        """Return the standing as it is now; None where nobody supervises.

        A restart takes less than `FRESH_S`: what is older could tell of the process before the last.
        """
        self._read_at = self._clock()
        self._standing = DeviceStanding.read(self._directory)
        return self._standing

    def refusal(self) -> Unavailable | None:
        """Return what requests are told while the device process is in a crash loop; None while it is not."""
        is_fresh = self._clock() - self._read_at < FRESH_S
        standing = self._standing if is_fresh else self.look()
        if standing is None or standing.state != "crash_loop":
            return None
        return not_ready(standing, self._wall_clock())


def not_ready(standing: DeviceStanding, wall_clock: float) -> Unavailable:
    """Say why the device process does not serve, and when to ask again."""
    wait_s = None if standing.next_start_s is None else max(0.0, standing.next_start_s - wall_clock)
    again = "it is being started again" if not wait_s else f"next start in {math.ceil(wait_s)} s"
    match standing.state:
        case "crash_loop":
            message = (
                f"the device process is in a crash loop: it ended {standing.deaths_in_a_row} times in a row, "
                f"the last one {standing.last_death}; {again}"
            )
            return Unavailable(message, code="crash_loop", retry_after_s=wait_s or UNKNOWN_RETRY_S)
        case "restarting":
            return Unavailable(f"the device process {standing.last_death}; {again}", retry_after_s=wait_s or None)
        case _:
            return Unavailable("the device process is starting")
