"""How long may a transfer take? Two pure rules, for bodies that come and for answers that go; times are arguments."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Pace:
    """A deadline that moves with every byte: `grace_s`, and a second more per `rate` bytes.

    A large upload takes the time that it needs, one that trickles does not. Source: Apache's mod_reqtimeout, MinRate.
    """

    started: float
    grace_s: float
    rate: float
    """Bytes per second that are fast enough to go on for ever; infinite where no byte buys time."""
    received: int = 0

    @property
    def deadline(self) -> float:
        """When it has been too slow, unless more comes."""
        return self.started + self.grace_s + self.received / self.rate


@dataclass(slots=True)
class Stall:
    """For how long has nothing of what waits to be sent been taken?"""

    waiting: int = 0
    since: float = 0.0

    def seconds(self, waiting: int, now: float) -> float:
        """Take a look at the `waiting` bytes; any change counts as movement, and with none waiting there is no stall.

        Whoever writes stops at a high-water mark, so that an unread answer cannot look alive by growing for ever.
        """
        if waiting != self.waiting or waiting == 0:
            self.waiting, self.since = waiting, now
        return now - self.since
