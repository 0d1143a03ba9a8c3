"""One client that trains in a process of its own: what it asks for, and how it has kept to its leases."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from batchd.leasing import Demand, Quantum
from batchd_server.device.repository import Caller

IDLE_S = 60.0
"""A client that has asked for nothing for so long is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A call that waits for the device."""

    caller: Caller
    token: str
    expected_s: float | None
    asked: float
    until: float
    beside: dict[str, Any]
    """What its answer tells besides: of the lease that was returned with it."""


@dataclass(slots=True)
class ExternalTenant:
    """A client by its name. Several processes may share one; they are served in turn. Times are monotonic seconds."""

    client: str
    weight: float
    seen: float
    asks: deque[Ask] = field(default_factory=deque)
    num_leases: int = 0
    num_expired: int = 0
    returned: float = -math.inf
    """When it last gave a lease back in time."""
    overrun_s: float = 0.0
    """How long it needed when it was last late, until it is in time again: so much must be foreseen for it."""

    def demand(self) -> Demand | None:
        """Return what it would run next; None while it asks for nothing."""
        if not self.asks:
            return None
        return Demand(quantum=Quantum.EXTERNAL, expected_s=self.foreseen_s(self.asks[0]) or None)

    def foreseen_s(self, ask: Ask) -> float:
        """Return how long a lease would last by what the client says and has shown; 0 where nothing is known."""
        return max(ask.expected_s or 0.0, self.overrun_s)

    def next_at(self) -> float:
        """Return when something is to be done: an ask has waited long enough, or there was none for long."""
        return min((ask.until for ask in self.asks), default=self.seen + IDLE_S)

    def granted(self) -> Ask:
        """Take the first ask: the device is lent to it."""
        self.num_leases += 1
        return self.asks.popleft()
