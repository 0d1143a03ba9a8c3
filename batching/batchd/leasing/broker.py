"""Who is lent the device next, and for how much work, given how long it can be spared."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from batchd.leasing.demand import Demand, Quantum, TrainingPolicy
from batchd.leasing.tenant import Plan, Tenant

SHARE_WINDOW_S = 10.0
SMALLEST_ITEM_RETRY_S = 0.05
"""When to look again at a quantum that does not fit into an empty device's slack: costs may have been relearned."""


class Denial(StrEnum):
    """Why nobody was lent the device although somebody wanted it."""

    SLACK = "slack"  # a deadline would be missed
    SHARE = "share"  # training has had its largest share
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Granted:
    """A quantum of a tenant's work, to be run now."""

    tenant: str
    demand: Demand
    plan: Plan


@dataclass(frozen=True, slots=True)
class Denied:
    """Nobody is lent the device before `until` (monotonic seconds), unless something changes."""

    reason: Denial
    until: float


class LeaseBroker:
    """The tenants, weighed against one another: whoever has had least of the device for its weight goes first."""

    def __init__(self, policy: TrainingPolicy) -> None:
        self.policy = policy
        self.tenants: dict[str, Tenant] = {}
        self.denials: Counter[Denial] = Counter()
        self.granted = 0
        self._lent_s = 0.0  # decayed
        self._lent_at = 0.0

    @property
    def wanted(self) -> bool:
        """Whether anybody would train now."""
        return any(tenant.demand is not None for tenant in self.tenants.values())

    def add(self, name: str, weight: float) -> None:
        """Let a tenant in.

        Raises:
            ValueError: it is known already, or the weight is not positive.
        """
        if name in self.tenants:
            raise ValueError(f"training tenant {name!r} is known already")
        self.tenants[name] = Tenant(name, weight)

    def demand(self, name: str, demand: Demand | None) -> None:
        """Replace what a tenant wants.

        One that comes back after a pause competes as if it had had as much as those that never paused.

        Raises:
            KeyError: there is no such tenant.
        """
        tenant = self.tenants[name]
        if tenant.demand is None and demand is not None:
            others = [other.used for other in self.tenants.values() if other.demand is not None]
            tenant.used = max(tenant.used, min(others, default=tenant.used))
        tenant.demand = demand

    def choose(
        self, slack_s: float, headroom: int | None, now: float, *, untried: bool, draining: bool
    ) -> Granted | Denied:
        """Return the quantum to run now, or why there is none. Somebody must want to train.

        `slack_s` is how long the device can be spared, `untried` whether that is enough for work of unknown cost.
        """
        share_until = self._share_until(now)
        if share_until > now:
            return self._deny(Denial.SHARE, share_until)
        reason = Denial.DRAINING
        for tenant in sorted(self.tenants.values(), key=lambda tenant: tenant.used):
            demand = tenant.demand
            if demand is None or (draining and demand.quantum in {Quantum.MICROBATCH, Quantum.EXTERNAL}):
                continue
            plan = tenant.plan(demand, slack_s, headroom)
            if plan is not None and slack_s > 0 and (untried or plan.upper_s is not None):
                self.granted += 1
                return Granted(tenant.name, demand, plan)
            reason = Denial.SLACK
        return self._deny(reason, math.inf if draining else now + SMALLEST_ITEM_RETRY_S)

    def returned(self, name: str, seconds: float, now: float) -> None:
        """A lease is over: charge its time."""
        self._lent_s = self._lent(now) + seconds
        self._lent_at = now
        tenant = self.tenants.get(name)
        if tenant is not None:
            tenant.charge(seconds)

    def _deny(self, reason: Denial, until: float) -> Denied:
        self.denials[reason] += 1
        return Denied(reason, until)

    def _lent(self, now: float) -> float:
        return self._lent_s * math.exp(-max(0.0, now - self._lent_at) / SHARE_WINDOW_S)

    def _share_until(self, now: float) -> float:
        """When training's share of the recent time is down to the largest allowed; not after `now` where it is."""
        allowed = self.policy.share_max * SHARE_WINDOW_S
        lent = self._lent(now)
        return now if self.policy.share_max >= 1 or lent <= allowed else now + SHARE_WINDOW_S * math.log(lent / allowed)
