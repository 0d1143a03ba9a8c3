"""Tenants: how much of their work is run at once, and whose turn it is."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from lease_rig import alone, give_back, law, lease, refusal, served, standing, trained, works

from batchd import Controller, Wait
from batchd.decision import RunMicrobatch
from batchd.leasing import Demand, Quantum, TrainingPolicy
from batchd.leasing.broker import Denial
from batchd.leasing.tenant import GROWTH, Tenant

# ---- how much work -----------------------------------------------------------------------------------------------


def test_the_smallest_efficient_microbatch_is_chosen_and_the_global_batch_is_cut_evenly() -> None:
    plan = trained().plan(Demand(items=100), math.inf, None)
    assert plan is not None
    # 0.05 / 0.95 of fixed cost need 38 items; 100 are three microbatches of 34
    assert plan.items == 34
    assert plan.expected_s == pytest.approx(law(34), rel=0.02)


def test_repeated_demands_for_the_rest_finish_the_global_batch_in_even_parts() -> None:
    tenant, left, parts = trained(), 100, []
    while left:
        plan = tenant.plan(Demand(items=left), math.inf, None)
        assert plan is not None
        parts.append(plan.items)
        left -= plan.items
    assert sum(parts) == 100
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("slack_ms", [1.2, 2, 3, 5, 8, 13, 18])
def test_a_microbatch_is_cut_to_fit_the_slack_unless_that_wastes_it(slack_ms: float) -> None:
    tenant, slack_s = trained(), slack_ms / 1e3
    plan = tenant.plan(Demand(items=100), slack_s, None)
    if law(2) > slack_s:  # up to two items, the fixed cost is half of it and more
        assert plan is None
        return
    assert plan is not None
    assert plan.upper_s is not None
    assert plan.upper_s <= slack_s
    assert plan.items >= min(34, 0.9 * (slack_s - 0.001) / 0.0005 - 1), "more would have fitted"


def test_what_was_never_run_grows_by_doubling() -> None:
    tenant, sizes = Tenant("job"), []
    for _ in range(12):
        plan = tenant.plan(Demand(items=256), math.inf, None)
        assert plan is not None
        sizes.append(plan.items)
        tenant.completed(Demand(items=256), plan.items, law(plan.items, fixed=0.05), None)
    assert sizes[0] == 1
    assert all(later <= GROWTH * earlier for earlier, later in pairwise(sizes))
    assert sizes[-1] > 64


def test_a_quantum_that_cannot_be_divided_fits_or_does_not() -> None:
    tenant, step = Tenant("job"), Demand(quantum=Quantum.STEP)
    for _ in range(5):
        tenant.completed(step, 1, 0.020, None)
    assert tenant.plan(step, 0.019, None) is None
    plan = tenant.plan(step, 0.040, None)
    assert plan is not None
    assert (plan.items, plan.peak_bytes) == (1, None)


def test_memory_bounds_a_microbatch() -> None:
    tenant = trained()
    for size in (1, 2, 4, 8):
        tenant.memory.observe(size, 1, 100 * size)
    plan = tenant.plan(Demand(items=256), math.inf, 1000)
    assert plan is not None
    assert plan.peak_bytes is not None
    assert plan.peak_bytes <= 1000
    assert plan.items >= 7


@pytest.mark.parametrize("quantum", [Quantum.STEP, Quantum.CHECKPOINT, Quantum.EXTERNAL])
def test_what_a_step_takes_in_memory_says_nothing_about_microbatches(quantum: Quantum) -> None:
    tenant = trained()
    before = tenant.plan(Demand(items=100), math.inf, 10**6)
    tenant.completed(Demand(quantum=quantum), 1, 0.01, 10**9)
    tenant.completed(Demand(quantum=quantum), 1, 0.01, 10**9, one_off=True)
    tenant.ran_out_of_memory(Demand(quantum=quantum), 1, 10**6, now=0.0)
    assert tenant.plan(Demand(items=100), math.inf, 10**6) == before


def test_costs_of_one_off_runs_are_kept_out() -> None:
    tenant = trained()
    before = tenant.plan(Demand(items=100), math.inf, None)
    tenant.completed(Demand(items=100), 34, 30.0, None, one_off=True)
    assert tenant.plan(Demand(items=100), math.inf, None) == before


def test_what_a_tenant_learned_is_saved_and_loaded() -> None:
    tenant, heir = trained(), Tenant("heir")
    tenant.completed(Demand(quantum=Quantum.STEP), 1, 0.02, None)
    heir.load_state_dict(tenant.state_dict())
    for demand in (Demand(items=100), Demand(items=7), Demand(quantum=Quantum.STEP)):
        assert heir.plan(demand, 0.03, 10**6) == tenant.plan(demand, 0.03, 10**6)


@pytest.mark.parametrize("broken", [{}, {"latency": {"nap": {}}}, {"latency": {}, "memory": {}, "timed": [[1]]}])
def test_a_state_of_another_form_is_refused_and_changes_nothing(broken: dict[str, object]) -> None:
    tenant = trained()
    before = tenant.state_dict()
    with pytest.raises(ValueError, match=r"state|Quantum|unpack"):
        tenant.load_state_dict(broken)
    assert tenant.state_dict() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"items": 0},
        {"elements": 0},
        {"quantum": Quantum.STEP, "items": 2},
        {"expected_s": 0.0},
    ],
)
def test_demands_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Demand(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"priority": 1.1}, {"share_max": 0.0}, {"safety": 1.0}])
def test_policies_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        TrainingPolicy(**wrong)


# ---- whose turn it is --------------------------------------------------------------------------------------------


def shares(made: Controller, rounds: int, seconds: dict[str, float]) -> Counter[str]:
    had: Counter[str] = Counter()
    now = 0.0
    for _ in range(rounds):
        decision = lease(made, now)
        spent = seconds[decision.tenant]
        had[decision.tenant] += round(spent * 1e6)
        now += spent
        give_back(made, decision, spent)
    return had


def test_tenants_share_the_time_by_weight_however_long_their_leases_are() -> None:
    made = alone()
    for name, weight in (("light", 1.0), ("heavy", 3.0)):
        made.leases.add(name, weight)
        made.leases.demand(name, Demand(quantum=Quantum.STEP, expected_s=0.01))
    had = shares(made, 400, {"light": 0.007, "heavy": 0.002})
    assert had["heavy"] / had["light"] == pytest.approx(3.0, rel=0.05)


def test_who_comes_back_after_a_pause_does_not_take_the_device_for_as_long_as_it_was_away() -> None:
    made = alone()
    works(made, 0.01, "steady")
    works(made, 0.01, "away")
    made.leases.demand("away", None)
    shares(made, 1000, {"steady": 0.01})
    made.leases.demand("away", Demand(quantum=Quantum.STEP, expected_s=0.01))
    had = shares(made, 100, {"steady": 0.01, "away": 0.01})
    assert had["steady"] == pytest.approx(had["away"], rel=0.1)


def test_who_fits_into_the_slack_goes_before_who_does_not() -> None:
    made = served()
    works(made, 0.5, "long")
    works(made, 0.01, "short")
    assert lease(made, 0.0).tenant == "short"


def test_a_share_is_never_exceeded() -> None:
    made = alone(share_max=0.3)
    works(made, 0.05)
    now = lent = 0.0
    while now < 60.0:
        match made.next(now):
            case RunMicrobatch() as decision:
                give_back(made, decision, 0.05)
                now, lent = now + 0.05, lent + 0.05
            case Wait(until):
                assert refusal(made) is Denial.SHARE
                assert now < until < now + 10
                now = until
            case other:
                raise AssertionError(other)
    # before the average has filled, up to a window's worth may be lent at once
    assert 0.25 * 60 <= lent <= 0.3 * (60 + 10) + 0.05
    snapshot = standing(made, now)
    assert snapshot.share <= 0.3 + 0.01


def test_a_name_is_let_in_once_and_weights_are_positive() -> None:
    made = alone()
    made.leases.add("job")
    with pytest.raises(ValueError, match="known already"):
        made.leases.add("job")
    with pytest.raises(ValueError, match="positive"):
        made.leases.add("other", 0.0)
    with pytest.raises(KeyError):
        made.leases.demand("nobody", None)
    with pytest.raises(KeyError):
        made.leases.remove("nobody")


def test_high_fixed_costs_do_not_bar_a_microbatch_that_no_slack_would_ever_better() -> None:
    """At 1 ms per item beside 120 ms, what fits into 200 ms is always mostly fixed cost."""
    tenant = trained(fixed=0.12, each=0.001)
    assert tenant.plan(Demand(items=256), 0.2, None) is None
    plan = tenant.plan(Demand(items=256), 0.2, None, empty_s=0.2)
    assert plan is not None
    assert plan.items > 60
    assert tenant.plan(Demand(items=256), 0.14, None, empty_s=0.2) is None, "waiting would have more than doubled it"


def test_margins_shrink_while_a_tenant_is_refused_for_want_of_slack() -> None:
    tenant, step = Tenant("job"), Demand(quantum=Quantum.STEP)
    tenant.completed(step, 1, 0.1, None)
    tenant.refused(10.0)
    tenant.refused(11.0)
    assert tenant.plan(step, 0.11, None, caution=tenant.caution(10.0)) is None
    assert tenant.plan(step, 0.11, None, caution=tenant.caution(60.0)) is not None
    assert tenant.plan(step, 0.09, None, caution=tenant.caution(1e9)) is None, "no patience makes it fit"
    tenant.granted()
    assert tenant.caution(60.0) == 1.0


def test_a_step_that_was_slow_once_is_put_to_the_test_again_less_and_less_often() -> None:
    made = served()
    works(made, 0.01)
    now, probes = 0.0, []
    give_back(made, lease(made, now), 5.0)  # allocates its states for the first time
    while now < 3600.0:
        now += 1.0
        decision = made.next(now)
        if isinstance(decision, RunMicrobatch):
            probes.append(now)
            give_back(made, decision, 5.0)
    gaps = [later - earlier for earlier, later in pairwise(probes)]
    assert len(probes) >= 4
    assert gaps[0] >= 60
    assert all(later > 1.5 * earlier for earlier, later in pairwise(gaps))


def test_a_step_that_was_slow_once_and_no_more_goes_on() -> None:
    made = served()
    works(made, 0.01)
    now, leases = 0.0, 0
    give_back(made, lease(made, now), 0.5)
    while now < 600.0:
        now += 1.0
        decision = made.next(now)
        if isinstance(decision, RunMicrobatch):
            leases += 1
            give_back(made, decision, 0.01)
    assert leases > 100
