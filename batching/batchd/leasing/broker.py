"""Who is lent the device next, and for how much work, given how long it can be spared."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from batchd.leasing.demand import Demand, Quantum, TrainingPolicy
from batchd.leasing.tenant import Plan, Tenant

SHARE_WINDOW_S = 10.0
RETRY_S = 0.05
"""When to look again at what was refused for want of slack: time and relearned costs change it."""
UNTRIED_SHARE = 0.5
"""Share of an empty device's slack that must be there for work of unknown cost to be tried."""
QUIET = 0.95
"""Share of an empty device's slack that is there when next to nothing waits or comes."""
POSTPONABLE = frozenset({Quantum.MICROBATCH, Quantum.EXTERNAL})
"""Not begun while draining. What was begun is brought to its end: steps, and checkpoints."""


class Denial(StrEnum):
    """Why nobody was lent the device although somebody wanted it."""

    SLACK = "slack"  # a deadline would be missed
    TOO_LONG = "too_long"  # an SLO would be missed even if nothing waited: it cannot run beside these models
    UNTRIED = "untried"  # its cost is unknown, and there is too little slack to find out
    RESTING = "resting"  # its last leases came to nothing
    SHARE = "share"  # training has had its largest share
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """What can be spared of the device now."""

    slack_s: float
    """For how long."""
    empty_s: float
    """For how long if nothing waited or came."""
    headroom: int | None
    """Bytes; None where nothing tells."""
    anyone_waits: bool
    draining: bool

    @property
    def quiet(self) -> bool:
        """Whether nobody would be held up by a lease that takes too long, as far as can be told."""
        return not self.anyone_waits and self.slack_s >= QUIET * self.empty_s


@dataclass(frozen=True, slots=True)
class Granted:
    """A quantum of a tenant's work, to be run now."""

    tenant: Tenant
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

    def choose(self, chance: Chance, now: float) -> Granted | Denied:
        """Return the quantum to run now, or why there is none. Somebody must want to train.

        A refusal gives the reason of whoever would be next.
        """
        share_until = self._share_until(now)
        if share_until > now:
            return self._deny(Denial.SHARE, share_until)
        denied: list[Denied] = []
        for tenant in sorted(self.tenants.values(), key=lambda tenant: tenant.used):
            demand = tenant.demand
            if demand is None or (chance.draining and demand.quantum in POSTPONABLE):
                continue
            if tenant.rests(chance.headroom, now):
                denied.append(Denied(Denial.RESTING, tenant.rests_until))
                continue
            plan = self._plan(tenant, demand, chance, now)
            if isinstance(plan, Plan):
                return Granted(tenant, demand, plan)
            tenant.refused(now)
            denied.append(Denied(plan, now + RETRY_S))
        if not denied:
            return self._deny(Denial.DRAINING, math.inf)
        return self._deny(denied[0].reason, min(each.until for each in denied))

    def _plan(self, tenant: Tenant, demand: Demand, chance: Chance, now: float) -> Plan | Denial:
        """What of a tenant's demand to run, or why nothing."""
        slack_s, empty_s, headroom = chance.slack_s, chance.empty_s, chance.headroom
        if empty_s <= 0:
            return Denial.TOO_LONG
        caution = tenant.caution(now)
        plan = None
        if slack_s > 0:
            plan = tenant.plan(demand, slack_s, headroom, empty_s=empty_s, caution=caution)
        if plan is None:
            if tenant.plan(demand, empty_s, headroom, empty_s=empty_s, caution=0.0) is not None:
                return Denial.SLACK
            plan = tenant.plan(demand, math.inf, headroom)
            if plan is None or not chance.quiet or not tenant.may_probe(now):
                return Denial.TOO_LONG
            tenant.granted(probe=True)
        elif plan.upper_s is None and slack_s < UNTRIED_SHARE * caution * empty_s:
            return Denial.UNTRIED
        else:
            tenant.granted()
        return plan

    def returned(self, tenant: Tenant, seconds: float, now: float) -> None:
        """A lease is over: charge its time."""
        self._lent_s = self._lent(now) + seconds
        self._lent_at = now
        tenant.charge(seconds)

    def share(self, now: float) -> float:
        """Return training's share of the device's time, over about `SHARE_WINDOW_S`."""
        return min(1.0, self._lent(now) / SHARE_WINDOW_S)

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
