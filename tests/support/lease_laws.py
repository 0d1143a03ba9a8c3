"""What must hold beside the laws of serving while tenants train on the device: more rules for the same machine."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from scheduler_laws import LINES, LOADED, POLICIES, SchedulerLaws, true_peak

from batchd import Completed, Controller, Failed, OutOfMemory, Shape, Wait
from batchd.decision import Decision, RunMicrobatch
from batchd.leasing import Demand, Quantum
from batchd.leasing.tenant import PROBE_S

TENANTS = st.sampled_from(("first", "second", "third"))
DEMANDS = st.one_of(
    st.builds(
        Demand,
        items=st.integers(1, 300),
        elements=st.integers(1, 40),
        expected_s=st.one_of(st.none(), st.floats(1e-4, 1.0)),
    ),
    st.builds(
        Demand,
        quantum=st.sampled_from((Quantum.STEP, Quantum.CHECKPOINT, Quantum.EXTERNAL)),
        expected_s=st.one_of(st.none(), st.floats(1e-4, 1.0)),
    ),
)


class LeaseLaws(SchedulerLaws):
    """Tenants come, want, and go; their quanta end in every way."""

    scheduler: Controller
    steps_to_the_end = 200

    def __init__(self) -> None:
        super().__init__()
        for name in POLICIES:  # what batches cost is known, or no waiting item's time would be lent
            for size in (1, 2, 4) * 6:
                self.scheduler.calibrate(name, size, (8,), 0.001 + 0.0002 * size)
        self.scheduler.leases.add("first")
        self.demands: dict[str, Demand | None] = {"first": None}
        self.bidding = {"first": 0.0}  # when each tenant had the device last, or came
        self.lent: RunMicrobatch | None = None
        self.lent_s = 0.0
        self.deserted = False  # the tenant that has the device has left since
        self.fitted: set[str] = set()  # tenants of which a microbatch was measured
        self.want("first", Demand(items=64, elements=4, expected_s=0.005))

    # ---- tenants -----------------------------------------------------------------------------------------------------

    @rule(name=TENANTS, weight=st.sampled_from((0.5, 1.0, 4.0)), demand=DEMANDS)
    def train(self, name: str, weight: float, demand: Demand) -> None:
        if name not in self.demands:
            self.scheduler.leases.add(name, weight)
            self.bidding[name] = self.now
        self.want(name, demand)

    @precondition(lambda self: self.demands)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        self.want(data.draw(st.sampled_from(sorted(self.demands))), None)

    @precondition(lambda self: self.demands)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.demands)))
        self.scheduler.leases.remove(name)
        del self.demands[name]
        self.fitted.discard(name)
        self.deserted |= self.lent is not None and self.lent.tenant == name

    def want(self, name: str, demand: Demand | None) -> None:
        self.scheduler.leases.demand(name, demand)
        self.demands[name] = demand

    # ---- leases ------------------------------------------------------------------------------------------------------

    def take(self, decision: Decision) -> None:
        if self.lent is not None:
            assert decision == Wait(math.inf), "the device is lent"
            return
        super().take(decision)

    def take_lease(self, decision: RunMicrobatch) -> None:
        demand = self.demands[decision.tenant]
        assert demand is not None, "lent to whoever wants nothing"
        assert decision.quantum is demand.quantum
        assert decision.elements == demand.elements
        assert 1 <= decision.items <= demand.items
        assert decision.slack_s > 0
        self.check_time(decision)
        assert decision.queued_after == len(self.waiting)
        assert not (self.draining and decision.quantum in {Quantum.MICROBATCH, Quantum.EXTERNAL})
        self.check_memory(decision)
        self.lent, self.deserted = decision, False

    def check_time(self, decision: RunMicrobatch) -> None:
        """What runs is done before anybody must be served, except that what never gets its turn is put to the test."""
        upper, since = decision.predicted_upper_s or 0.0, self.bidding[decision.tenant]
        self.bidding[decision.tenant] = self.now
        if upper > decision.slack_s:
            assert self.now - since >= PROBE_S, "put to the test too soon"
            assert not self.waiting, "put to the test while somebody waits"
        for item_id in self.waiting:
            assert self.items[item_id].deadline > self.now + upper, "lent past a deadline"

    def check_memory(self, decision: RunMicrobatch) -> None:
        """Once its like was measured, a microbatch of several items fits into the memory that is free."""
        if decision.quantum is not Quantum.MICROBATCH or decision.tenant not in self.fitted:
            return
        assert decision.predicted_bytes is not None
        assert decision.predicted_bytes >= true_peak(decision.items, decision.elements), "an upper bound was none"
        headroom = self.scheduler.headroom()
        assert decision.items == 1 or headroom is None or decision.predicted_bytes <= headroom, "over the memory"

    @precondition(lambda self: self.lent is not None)
    @rule(seconds=st.floats(1e-4, 0.5), measured=st.booleans(), first=st.booleans())
    def give_back(self, seconds: float, measured: bool, first: bool) -> None:
        lent = self.take_back(seconds)
        micro = lent.quantum is Quantum.MICROBATCH
        peak = true_peak(lent.items, lent.elements) if measured and micro else None
        settled = self.scheduler.report(
            Completed(batch_id=lent.batch_id, seconds=seconds, peak_bytes=peak, first_of_shape=first)
        )
        assert (settled.finished, settled.requeued, settled.impossible) == ((), (), ())
        if peak is not None and not self.deserted:
            self.fitted.add(lent.tenant)
        with pytest.raises(ValueError, match="is not running"):
            self.scheduler.report(Failed(batch_id=lent.batch_id))

    @precondition(lambda self: self.lent is not None)
    @rule(seconds=st.floats(1e-4, 0.5), out_of_memory=st.booleans())
    def give_back_nothing(self, seconds: float, out_of_memory: bool) -> None:
        lent = self.take_back(seconds)
        if out_of_memory:
            self.scheduler.report(OutOfMemory(batch_id=lent.batch_id, peak_bytes=None, seconds=seconds))
        else:
            self.scheduler.report(Failed(batch_id=lent.batch_id, seconds=seconds))

    def finish_lease(self) -> None:
        """It takes half of the time that the most pressing item has left: what waits may do so until its deadline."""
        spare = min(self.items[item_id].deadline for item_id in self.waiting) - self.now
        self.give_back(max(0.01, spare / 2), measured=False, first=False)

    def take_back(self, seconds: float) -> RunMicrobatch:
        assert self.lent is not None
        lent, self.lent = self.lent, None
        self.now += seconds
        self.lent_s += seconds
        return lent

    @rule(model=LOADED, shapes=LINES, quanta=st.integers(1, 8), seconds=st.floats(1e-3, 0.05))
    def train_while_items_wait(self, model: str, shapes: list[Shape], quanta: int, seconds: float) -> None:
        for shape in shapes:
            self.offer_one(model, shape, self.now, self.now + POLICIES[model].slo_s, 0)
        for _ in range(quanta):
            if self.lent is not None:
                self.give_back(seconds, measured=True, first=False)
            self.decide()

    # ---- the books ---------------------------------------------------------------------------------------------------

    @invariant()
    def the_leases_agree(self) -> None:
        leases = self.scheduler.snapshot(self.now).leases
        assert leases is not None
        wants = {name: None if demand is None else demand.quantum for name, demand in self.demands.items()}
        assert {tenant.name: tenant.wants for tenant in leases.tenants} == wants
        assert leases.running == (None if self.lent is None else self.lent.tenant)
        assert sum(leases.seconds.values()) == pytest.approx(self.lent_s)
        assert sum(tenant.seconds for tenant in leases.tenants) <= self.lent_s + 1e-9
        assert 0.1 <= leases.scale <= 1.0
        assert 0.0 <= leases.share <= 1.0

    def teardown(self) -> None:
        """Whatever has happened, and however much is trained: what waits comes to its end."""
        if self.lent is not None:
            self.give_back(0.01, measured=False, first=False)
        super().teardown()
