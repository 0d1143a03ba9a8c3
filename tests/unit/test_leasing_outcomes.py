"""What comes of leases: what is learned, who rests, and whose fault a late answer is."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from controller_rig import NEVER, item, launched
from lease_rig import alone, give_back, lease, refusal, served, standing, trained, works

from batchd import (
    Admitted,
    BudgetPolicy,
    Completed,
    Controller,
    Failed,
    Item,
    ItemId,
    MemoryReading,
    OutOfMemory,
    RunBatch,
    Wait,
)
from batchd.decision import RunMicrobatch
from batchd.leasing import Demand, Quantum
from batchd.leasing.arrival_rate import ArrivalRate
from batchd.leasing.broker import Denial
from batchd.leasing.feedback import LOWEST, LeaseFeedback
from batchd.leasing.lease_history import LeaseHistory
from batchd.leasing.tenant import LONGEST_REST_S

# ---- what comes of a lease ---------------------------------------------------------------------------------------


def test_a_microbatch_that_runs_out_of_memory_comes_again_smaller_until_it_fits() -> None:
    made = alone()
    made.leases.add("job")
    made.leases.broker.tenants["job"] = trained("job")
    made.leases.demand("job", Demand(items=128))
    now, sizes = 0.0, []
    for _ in range(20):
        decision = lease(made, now)
        sizes.append(decision.items)
        now += 0.01
        if decision.items <= 5:
            give_back(made, decision, 0.01)
            break
        made.report(OutOfMemory(batch_id=decision.batch_id, peak_bytes=None, seconds=0.005))
    assert sizes[-1] <= 5
    assert all(later < earlier for earlier, later in pairwise(sizes))


@pytest.mark.parametrize("outcome", [OutOfMemory, Failed])
def test_who_never_gets_anything_done_is_asked_less_and_less_and_holds_nobody_up(outcome: type) -> None:
    made = alone()
    for name in ("hopeless", "sound"):
        made.leases.add(name)
        made.leases.demand(name, Demand(quantum=Quantum.MICROBATCH))
    now, tries, done = 0.0, [], 0
    while now < 600.0:
        match made.next(now):
            case RunMicrobatch(tenant="hopeless") as decision:
                tries.append(now)
                now += 0.5
                extra = {"peak_bytes": None} if outcome is OutOfMemory else {}
                made.report(outcome(batch_id=decision.batch_id, **extra))
            case RunMicrobatch() as decision:
                done += 1
                now += 0.5
                give_back(made, decision, 0.5)
            case other:
                raise AssertionError(other)
    assert len(tries) < 30
    assert done > 1100
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[-1] <= LONGEST_REST_S + 1.5
    leases = standing(made, now)
    assert [tenant.rests_until is not None for tenant in leases.tenants] == [True, False]


def test_a_tenant_that_rests_alone_is_asked_again_when_it_has_rested() -> None:
    made = alone()
    works(made, 0.01)
    made.report(Failed(batch_id=lease(made, 0.0).batch_id, seconds=0.02))
    waits = made.next(0.02)
    assert isinstance(waits, Wait)
    assert refusal(made) is Denial.RESTING
    assert 0.5 < waits.until < 2.0
    give_back(made, lease(made, waits.until))
    assert isinstance(made.next(waits.until + 0.01), RunMicrobatch)


def test_memory_that_becomes_free_ends_a_rest_for_want_of_it() -> None:
    made = Controller(BudgetPolicy(limit_fraction=1.0, safety_bytes=0))
    made.observe(MemoryReading(total=10**6, device_free=1000, reserved=0, allocated=0))
    works(made, 0.01, quantum=Quantum.MICROBATCH)
    made.report(OutOfMemory(batch_id=lease(made, 0.0).batch_id, peak_bytes=None))
    assert isinstance(made.next(0.1), Wait)
    made.observe(MemoryReading(total=10**6, device_free=500_000, reserved=0, allocated=0))
    assert isinstance(made.next(0.2), RunMicrobatch)


def test_the_reading_that_comes_with_a_leases_out_of_memory_is_believed() -> None:
    made = Controller(BudgetPolicy(limit_fraction=1.0, safety_bytes=0))
    made.observe(MemoryReading(total=1000, device_free=900, reserved=0, allocated=0))
    works(made, 0.01, quantum=Quantum.MICROBATCH)
    reading = MemoryReading(total=1000, device_free=100, reserved=0, allocated=0)
    made.report(OutOfMemory(batch_id=lease(made, 0.0).batch_id, peak_bytes=None, reading=reading))
    assert made.headroom() == 100


def test_a_tenant_that_leaves_during_its_lease_is_charged_for_nothing_afterwards() -> None:
    made = alone()
    works(made, 0.01)
    decision = lease(made, 0.0)
    made.leases.remove("job")
    works(made, 0.01)  # another of the same name
    give_back(made, decision, 7.0)
    leases = standing(made, 7.0)
    assert [tenant.seconds for tenant in leases.tenants] == [0.0]
    assert leases.seconds[Quantum.STEP] == made.leases.seconds == 7.0
    assert leases.running is None


def test_a_lease_whose_length_nobody_knows_is_charged_as_expected() -> None:
    made = alone()
    works(made, 0.25)
    made.report(Failed(batch_id=lease(made, 0.0).batch_id))
    assert made.leases.seconds == 0.25


def test_a_clock_that_stands_still_does_no_harm() -> None:
    made = served()
    made.leases.add("job")
    made.leases.demand("job", Demand(items=32))
    for number in range(50):
        assert isinstance(made.offer(item(number, deadline=NEVER), 5.0), Admitted)
        match made.next(5.0):
            case RunMicrobatch() as decision:
                give_back(made, decision, 0.0)
            case RunBatch() as batch:
                made.report(Completed(batch_id=batch.batch_id, seconds=0.0, peak_bytes=None))
            case Wait(until):
                assert until > 5.0


def test_the_snapshot_tells_how_lending_stands() -> None:
    made = served()
    made.leases.add("job", weight=2.0)
    made.leases.demand("job", Demand(quantum=Quantum.STEP, expected_s=0.01))
    decision = lease(made, 0.0)
    leases = standing(made, 0.0)
    assert (leases.running, leases.denied, leases.bound_by, leases.scale) == ("job", None, "m", 1.0)
    assert leases.granted == {Quantum.STEP: 1}
    give_back(made, decision, 0.5)
    leases = standing(made, 0.5)
    assert leases.seconds == dict.fromkeys(Quantum, 0.0) | {Quantum.STEP: 0.5}
    (job,) = leases.tenants
    assert (job.name, job.weight, job.wants, job.seconds) == ("job", 2.0, Quantum.STEP, 0.5)
    assert leases.share == pytest.approx(0.05)


# ---- whose fault a late answer is --------------------------------------------------------------------------------


def test_a_history_adds_up_what_was_lent_in_any_interval() -> None:
    history = LeaseHistory()
    assert history.between(0.0, 10.0) == 0.0
    assert not history
    spans = [(1.0, 2.0), (4.0, 0.5), (5.0, 3.0)]
    for begin, seconds in spans:
        history.add(begin, seconds)
    edges = [step / 4 for step in range(41)]
    for begin in edges:
        for end in edges:
            truth = sum(max(0.0, min(end, start + length) - max(begin, start)) for start, length in spans)
            assert history.between(begin, end) == pytest.approx(truth)


def test_a_history_forgets_the_oldest_and_stays_right_about_the_rest() -> None:
    history = LeaseHistory()
    for number in range(10_000):
        history.add(float(number), 0.25)
    assert history.between(9_000.0, 9_100.0) == pytest.approx(25.0)
    assert history.between(-math.inf, 0.0) == 0.0


def test_a_measured_time_longer_than_the_clocks_is_not_counted_twice() -> None:
    history = LeaseHistory()
    history.add(0.0, 3.0)
    history.add(1.0, 3.0)
    history.add(1.5, 1.0)
    assert history.between(0.0, 10.0) == pytest.approx(4.0)


def _answer_late(made: Controller, *, arrived: float, deadline: float, now: float, seconds: float) -> None:
    late = Item(id=ItemId(0), model="m", shape=(1,), arrived=arrived, deadline=deadline)
    assert isinstance(made.offer(late, now), Admitted)
    batch = launched(made, now)
    made.report(Completed(batch_id=batch.batch_id, seconds=seconds, peak_bytes=None))


@pytest.mark.parametrize(("late_s", "blamed"), [(0.03, True), (0.5, False)])
def test_leases_are_blamed_for_an_answer_that_would_have_been_in_time_without_them(late_s: float, blamed: bool) -> None:
    made = served()
    works(made, 0.05)
    give_back(made, lease(made, 10.0), 0.05)
    made.leases.demand("job", None)
    _answer_late(made, arrived=10.0, deadline=10.10, now=10.05, seconds=0.05 + late_s)
    assert (made.leases.feedback.scale < 1.0) == blamed


def test_a_lease_long_before_an_item_came_is_not_to_blame() -> None:
    """Nor is the part before it came of one that ended after."""
    made = served()
    works(made, 0.05)
    give_back(made, lease(made, 0.0), 0.05)
    give_back(made, lease(made, 10.0), 0.05)
    made.leases.demand("job", None)
    _answer_late(made, arrived=10.049, deadline=10.149, now=10.05, seconds=0.12)
    assert made.leases.feedback.scale == 1.0


def test_the_time_before_the_first_lease_is_not_lent_time() -> None:
    made = served(slo_s=30.0)
    works(made, 0.001)
    made.offer(Item(id=ItemId(7), model="m", shape=(1,), arrived=0.0, deadline=30.0), 9.0)
    give_back(made, lease(made, 9.5), 0.001)
    made.leases.demand("job", None)
    batch = launched(made, 29.9)
    made.report(Completed(batch_id=batch.batch_id, seconds=0.2, peak_bytes=None))
    assert made.leases.feedback.scale == 1.0


def test_misses_halve_what_is_lent_and_it_recovers_in_steps() -> None:
    feedback = LeaseFeedback()
    now, seen = 0.0, []
    for _ in range(6):
        now += 1.5
        feedback.answered(100, 1, now)
        seen.append(feedback.scale)
    assert seen == [0.5, 0.25, 0.125, LOWEST, LOWEST, LOWEST]
    for _ in range(30):
        now += 1.5
        feedback.answered(100, 0, now)
        assert 0 <= feedback.scale - seen[-1] <= 0.05 + 1e-9
        seen.append(feedback.scale)
    assert seen[-1] == 1.0


def test_a_window_counts_once_however_many_reports_it_has() -> None:
    feedback = LeaseFeedback()
    feedback.answered(1, 0, 0.0)
    for step in range(99):
        feedback.answered(1, 1, step / 100)
    assert feedback.scale == 1.0
    feedback.answered(1, 0, 1.0)
    assert feedback.scale == 0.5


# ---- how much work comes -----------------------------------------------------------------------------------------


def test_a_steady_rate_is_known_within_a_second_and_a_burst_at_once() -> None:
    rate = ArrivalRate()
    assert rate.per_second(0.0) == 0.0
    now = 0.0
    for _ in range(2000):
        now += 0.01
        rate.add(0.002, now)
        if now > 1.0:
            assert rate.per_second(now) == pytest.approx(0.2, rel=0.1)
    for _ in range(100):
        now += 0.001
        rate.add(0.002, now)
    assert rate.per_second(now) > 0.3
    assert rate.per_second(now + 60.0) < 0.001
