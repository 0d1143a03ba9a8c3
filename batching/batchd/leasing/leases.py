"""The device's leases: grants them within the slack, follows the one that runs, and learns from what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batchd.decision import RunMicrobatch
from batchd.formation import Formed
from batchd.item import BatchId
from batchd.leasing.broker import Chance, Denial, Denied, Granted, LeaseBroker
from batchd.leasing.demand import Demand, Quantum, TrainingPolicy
from batchd.leasing.feedback import LeaseFeedback
from batchd.leasing.lease_history import LeaseHistory
from batchd.leasing.lease_snapshot import LeaseSnapshot, TenantSnapshot
from batchd.leasing.slack import Slack, empty_slack, lease_slack
from batchd.outcome import Completed, Failed, Outcome, OutOfMemory
from batchd.served_model import ServedModel
from batchd.waiting_room import Waiting


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
        self._history = LeaseHistory()
        self._slack = Slack()
        self._denied: Denial | None = None
        self._granted: Counter[Quantum] = Counter()
        self._seconds: dict[Quantum, float] = dict.fromkeys(Quantum, 0.0)

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
        self._slack = slack = lease_slack(models, form, policy, self.feedback.scale, now, draining=draining)
        chance = Chance(
            slack_s=slack.seconds,
            empty_s=empty_slack(models, policy),
            headroom=headroom,
            anyone_waits=any(len(model.room) > 0 for model in models),
            draining=draining,
        )
        chosen = self.broker.choose(chance, now)
        if isinstance(chosen, Denied):
            self._denied = chosen.reason
            return chosen
        self._denied = None
        self._granted[chosen.demand.quantum] += 1
        self.running = RunningLease(batch_id, chosen, now)
        return RunMicrobatch(
            batch_id=batch_id,
            tenant=chosen.tenant.name,
            quantum=chosen.demand.quantum,
            items=chosen.plan.items,
            elements=chosen.demand.elements,
            predicted_s=chosen.plan.expected_s,
            predicted_upper_s=chosen.plan.upper_s,
            predicted_bytes=chosen.plan.peak_bytes,
            slack_s=slack.seconds,
            queued_after=sum(len(model.room) for model in models),
        )

    def report(self, outcome: Outcome, headroom: int | None) -> None:
        """The running lease is over. What a tenant taught that was removed meanwhile is forgotten with it."""
        lease = self.running
        assert lease is not None, "no lease runs"
        self.running = None
        tenant, demand, plan = lease.granted.tenant, lease.granted.demand, lease.granted.plan
        seconds = (plan.expected_s or 0.0) if outcome.seconds is None else outcome.seconds
        end = lease.started + seconds
        self._seconds[demand.quantum] += seconds
        self._history.add(lease.started, seconds)
        self.broker.returned(tenant, seconds, end)
        match outcome:
            case Completed():
                one_off = outcome.first_of_shape
                tenant.completed(demand, plan.items, outcome.seconds, outcome.peak_bytes, one_off=one_off)
            case OutOfMemory():
                tenant.ran_out_of_memory(demand, plan.items, headroom, end)
            case Failed():
                tenant.failed(end)

    def settled(self, arrivals_and_deadlines: Sequence[tuple[float, float]], finished: float) -> None:
        """Items were answered or expired at `finished`: were leases the reason that any of them was late?"""
        if not self._history:
            return
        misses = sum(
            deadline < finished <= deadline + self._history.between(arrived, finished)
            for arrived, deadline in arrivals_and_deadlines
        )
        self.feedback.answered(len(arrivals_and_deadlines), misses, finished)

    # ---- views -------------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Device time that tenants have had in all."""
        return sum(self._seconds.values())

    def snapshot(self, now: float) -> LeaseSnapshot:
        """Return how lending stands."""
        return LeaseSnapshot(
            tenants=tuple(
                TenantSnapshot(
                    name=tenant.name,
                    weight=tenant.weight,
                    wants=None if tenant.demand is None else tenant.demand.quantum,
                    seconds=tenant.seconds,
                    rests_until=tenant.rests_until if now < tenant.rests_until else None,
                )
                for tenant in self.broker.tenants.values()
            ),
            running=None if self.running is None else self.running.granted.tenant.name,
            granted=dict(self._granted),
            seconds=dict(self._seconds),
            denials=dict(self.broker.denials),
            denied=self._denied if self.wanted else None,
            slack_s=self._slack.seconds,
            bound_by=self._slack.bound_by,
            scale=self.feedback.scale,
            share=self.broker.share(now),
        )
