"""The device's leases: grants them within the slack, follows the one that runs, and learns from what came of it."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batchd.decision import RunMicrobatch
from batchd.formation import Formed
from batchd.item import BatchId
from batchd.leasing.broker import Denied, Granted, LeaseBroker
from batchd.leasing.demand import Demand, TrainingPolicy
from batchd.leasing.feedback import LeaseFeedback
from batchd.leasing.slack import empty_slack, lease_slack
from batchd.outcome import Completed, Outcome, OutOfMemory
from batchd.served_model import ServedModel
from batchd.waiting_room import Waiting

UNTRIED_SHARE = 0.5
"""Share of an empty device's slack that must be there for work of unknown cost to be tried."""
REMEMBERED = 4096
"""Leases that are remembered, to tell whose fault a late answer is."""


@dataclass(frozen=True, slots=True)
class RunningLease:
    """The quantum that holds the device."""

    batch_id: BatchId
    granted: Granted
    started: float

    @property
    def expected_end(self) -> float:
        """When the device is expected back."""
        return self.started + (self.granted.plan.expected_s or 0.0)


class Leases:
    """One device's. Drivers register tenants and their demands here; the controller asks for grants."""

    def __init__(self, policy: TrainingPolicy | None = None) -> None:
        self.broker = LeaseBroker(policy or TrainingPolicy())
        self.feedback = LeaseFeedback()
        self.running: RunningLease | None = None
        self.seconds = 0.0
        """Device time that tenants have had in all."""
        self._ends: deque[float] = deque(maxlen=REMEMBERED)
        self._totals: deque[float] = deque(maxlen=REMEMBERED)  # seconds lent until each of the ends

    # ---- tenants -----------------------------------------------------------------------------------------------------

    def add(self, name: str, weight: float = 1.0) -> None:
        """Let a tenant in; it competes for the device by `weight`.

        Raises:
            ValueError: it is known already, or the weight is not positive.
        """
        self.broker.add(name, weight)

    def remove(self, name: str) -> None:
        """Forget a tenant. A lease that runs is not recalled.

        Raises:
            KeyError: there is no such tenant.
        """
        del self.broker.tenants[name]

    def demand(self, name: str, demand: Demand | None) -> None:
        """Say what a tenant would run next; None = nothing for now.

        Raises:
            KeyError: there is no such tenant.
        """
        self.broker.demand(name, demand)

    @property
    def wanted(self) -> bool:
        """Whether any tenant would run something now."""
        return self.broker.wanted

    # ---- for the controller ------------------------------------------------------------------------------------------

    def grant(
        self,
        models: Sequence[ServedModel],
        form: Callable[[ServedModel, Waiting], Formed],
        headroom: int | None,
        batch_id: BatchId,
        now: float,
        *,
        draining: bool,
    ) -> RunMicrobatch | Denied:
        """Lend the device to whoever is next, for as much work as it can be spared for. Somebody must want it."""
        policy = self.broker.policy
        slack = lease_slack(models, form, policy, self.feedback.scale, now)
        untried = slack >= UNTRIED_SHARE * empty_slack(models, policy)
        chosen = self.broker.choose(slack, headroom, now, untried=untried, draining=draining)
        if isinstance(chosen, Denied):
            return chosen
        self.running = RunningLease(batch_id, chosen, now)
        return RunMicrobatch(
            batch_id=batch_id,
            tenant=chosen.tenant,
            quantum=chosen.demand.quantum,
            items=chosen.plan.items,
            elements=chosen.demand.elements,
            predicted_s=chosen.plan.expected_s,
            predicted_upper_s=chosen.plan.upper_s,
            predicted_bytes=chosen.plan.peak_bytes,
            slack_s=slack,
            queued_after=sum(len(model.room) for model in models),
        )

    def report(self, outcome: Outcome, headroom: int | None) -> None:
        """The running lease is over."""
        lease = self.running
        assert lease is not None, "no lease runs"
        self.running = None
        granted = lease.granted
        tenant = self.broker.tenants.get(granted.tenant)
        seconds = outcome.seconds if isinstance(outcome, Completed) else granted.plan.expected_s or 0.0
        end = lease.started + seconds
        self.seconds += seconds
        self._ends.append(end)
        self._totals.append(self.seconds)
        self.broker.returned(granted.tenant, seconds, end)
        if tenant is None:
            return
        match outcome:
            case Completed() if not outcome.first_of_shape:
                tenant.observe(granted.demand, granted.plan.items, outcome.seconds, outcome.peak_bytes)
            case Completed():
                tenant.memory.observe(granted.plan.items, granted.demand.elements, outcome.peak_bytes)
            case OutOfMemory():
                tenant.memory.observe_out_of_memory(granted.plan.items, granted.demand.elements, headroom)
            case _:
                pass  # what failed says nothing about its cost

    def settled(self, arrivals_and_deadlines: Sequence[tuple[float, float]], finished: float) -> None:
        """Items were answered or expired at `finished`: were leases the reason that any of them was late?"""
        if not self._ends:
            return
        misses = sum(
            deadline < finished <= deadline + self._lent_between(arrived, finished)
            for arrived, deadline in arrivals_and_deadlines
        )
        self.feedback.answered(len(arrivals_and_deadlines), misses, finished)

    def _lent_between(self, begin: float, end: float) -> float:
        """Seconds that were lent in leases that ended after `begin`, up to `end`."""
        ends = list(self._ends)
        first, last = bisect_right(ends, begin), bisect_right(ends, end)
        if first >= last:
            return 0.0
        before = self._totals[first - 1] if first else self._totals[first] - (self._ends[first] - begin)
        return min(end - begin, self._totals[last - 1] - before)
