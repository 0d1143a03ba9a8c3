"""How lending stands, for status pages and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchd.leasing.broker import Denial
from batchd.leasing.demand import Quantum


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSnapshot:
    """How one tenant stands."""

    name: str
    weight: float
    wants: Quantum | None
    """What it would run next; None where it wants nothing now."""
    seconds: float
    """Device time that it has had."""
    rests_until: float | None
    """Monotonic time until which it is lent nothing, because its last leases came to nothing; None: it may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSnapshot:
    """How lending stands. Times in seconds."""

    tenants: tuple[TenantSnapshot, ...]
    running: str | None
    """The tenant that has the device."""
    granted: Mapping[Quantum, int]
    seconds: Mapping[Quantum, float]
    """Device time that was lent, in all."""
    denials: Mapping[Denial, int]
    """How often it was asked for in vain."""
    denied: Denial | None
    """Why nobody was lent the device when it was last asked for; None where somebody was."""
    slack_s: float
    """For how long the device could be spared then; infinite where nothing was promised to anybody."""
    bound_by: str | None
    """The model whose promise left no more than that."""
    scale: float
    """Share of the slack that is lent: answers that leases made late halve it."""
    share: float
    """Training's share of the device's time, over about `SHARE_WINDOW_S`."""
