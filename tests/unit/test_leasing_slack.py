"""For how long the device is lent, and why it is not."""

from __future__ import annotations

import math

import pytest
from controller_rig import controller, item, launched
from lease_rig import SLO, alone, give_back, lease, refusal, served, standing, works

from batchd import Admitted, Completed, Controller, Expire, Failed, ModelPolicy, RunBatch, Wait
from batchd.decision import Decision, RunMicrobatch
from batchd.leasing import Demand, Quantum, TrainingPolicy
from batchd.leasing.broker import Denial
from batchd.leasing.tenant import PATIENCE_S

FOR_EVER = 1e6

# ---- for how long ------------------------------------------------------------------------------------------------


def test_an_empty_device_is_lent_for_what_a_newcomer_can_wait() -> None:
    made = served()
    works(made, 0.01)
    assert lease(made, 0.0).slack_s == pytest.approx(0.9 * SLO - 0.002, abs=0.004)


def test_without_models_there_is_no_limit() -> None:
    made = alone()
    works(made, 1e5)
    assert lease(made, 0.0).slack_s == math.inf


def test_the_shortest_promise_of_all_models_binds_and_is_named() -> None:
    made = served()
    made.add_model("hasty", ModelPolicy(slo_s=0.02))
    works(made, 0.03)
    assert isinstance(made.next(0.0), Wait)
    leases = standing(made, 0.0)
    assert leases.bound_by == "hasty"
    assert leases.slack_s == pytest.approx(0.9 * 0.02, abs=0.002)
    assert leases.denied is Denial.TOO_LONG


def test_an_item_that_waits_is_done_in_time_after_the_longest_lease() -> None:
    made = served(slo_s=1.0)
    works(made, 0.05)
    assert isinstance(made.offer(item(0, deadline=0.2), 0.0), Admitted)
    now = 0.0
    while isinstance(decision := made.next(now), RunMicrobatch):
        now += 0.05
        give_back(made, decision, 0.05)
    assert isinstance(decision, RunBatch)
    assert now > 0.0, "nothing was lent"
    assert now + 0.010 <= 0.2


def test_at_priority_zero_nothing_is_lent_while_anything_waits_however_patient() -> None:
    made = served(policy=TrainingPolicy(priority=0.0))
    works(made, 0.001)
    made.offer(item(0, deadline=FOR_EVER), 0.0)
    assert isinstance(made.next(0.0), RunBatch)


@pytest.mark.parametrize("patience_s", [1.0, 10.0, 1000.0])
def test_half_a_priority_lends_half_of_the_slo_however_long_a_client_would_wait(patience_s: float) -> None:
    made = served(slo_s=1.0, policy=TrainingPolicy(priority=0.5))
    works(made, 0.001)
    made.offer(item(0, deadline=patience_s), 0.0)
    last = max(now for now in (step / 100 for step in range(100)) if _would_lend(made, now))
    assert 0.25 <= last <= 0.5


def _would_lend(made: Controller, now: float) -> bool:
    """Whether a lease is granted now; it is given back at once."""
    if made.num_waiting() == 0:
        return False
    decision = made.next(now)
    if isinstance(decision, RunMicrobatch):
        give_back(made, decision, 1e-6)
        return True
    return False


def test_a_model_that_was_never_measured_lends_nothing_of_its_items_time() -> None:
    made = controller(slo_s=1.0)
    works(made, 0.001)
    made.offer(item(0, deadline=FOR_EVER), 0.0)
    assert isinstance(made.next(0.0), RunBatch)


def test_no_item_waits_for_training_longer_than_max_wait() -> None:
    made = served(slo_s=10.0, max_wait_s=0.1)
    works(made, 0.01)
    made.offer(item(0, deadline=10.0), 0.0)
    now = 0.0
    while isinstance(decision := made.next(now), RunMicrobatch):
        now += 0.01
        give_back(made, decision, 0.01)
    assert isinstance(decision, RunBatch)
    assert 0.05 <= now <= 0.1


def test_while_a_lease_runs_everything_waits_for_its_report() -> None:
    made = served()
    works(made, 0.05)
    decision = lease(made, 0.0)
    made.offer(item(0, deadline=0.09), 0.01)
    assert made.next(0.02) == Wait(math.inf)
    assert made.next(5.0) == Wait(math.inf)
    with pytest.raises(ValueError, match="not running"):
        made.report(Failed(batch_id=type(decision.batch_id)(999)))
    give_back(made, decision, 0.05)
    assert isinstance(made.next(0.05), RunBatch)


# ---- why not -----------------------------------------------------------------------------------------------------


def test_a_refusal_says_why_and_when_to_ask_again() -> None:
    made = served()
    works(made, 0.09, "long")
    made.offer(item(0, 60, deadline=0.2), 0.0)
    decision = made.next(0.0)
    assert isinstance(decision, RunBatch), "what waits runs at once if nobody is lent the device"
    assert refusal(made) is Denial.TOO_LONG
    made.report(Completed(batch_id=decision.batch_id, seconds=0.06, peak_bytes=None))
    waits = made.next(0.06)
    assert isinstance(waits, Wait)
    assert 0.06 < waits.until < 0.2


def test_what_fits_an_empty_device_is_refused_for_want_of_slack() -> None:
    made = served()
    works(made, 0.02)
    made.offer(item(0, 60, deadline=0.1), 0.0)
    assert isinstance(made.next(0.0), RunBatch)
    assert refusal(made) is Denial.SLACK


def test_a_promise_shorter_than_a_batch_forbids_training_and_says_so() -> None:
    made = served(slo_s=0.001)
    works(made, 1e-5)
    assert isinstance(made.next(0.0), Wait)
    assert refusal(made) is Denial.TOO_LONG


def test_work_of_unknown_cost_is_tried_on_a_quiet_device_at_once() -> None:
    made = served()
    made.leases.add("job")
    made.leases.demand("job", Demand(items=64))
    decision = lease(made, 0.0)
    assert (decision.items, decision.predicted_s, decision.predicted_upper_s) == (1, None, None)


def test_work_of_unknown_cost_is_tried_under_steady_traffic_after_a_while() -> None:
    """The queue always leaves a third of the empty device's slack: known work goes on, unknown work waits its turn."""
    made = served(slo_s=0.3)
    made.leases.add("job")
    made.leases.demand("job", Demand(items=64))
    now, number, tried = 0.0, 0, None
    while tried is None and now < 10 * PATIENCE_S:
        made.offer(item(number, 80, at=now, deadline=now + 0.18), now)
        number += 1
        decision: Decision = made.next(now)
        assert not isinstance(decision, Expire)
        if isinstance(decision, RunMicrobatch):
            tried = now
        elif isinstance(decision, RunBatch):
            assert refusal(made) is Denial.UNTRIED
            made.report(Completed(batch_id=decision.batch_id, seconds=0.082, peak_bytes=None))
            now += 0.2
    assert tried is not None, "starved"
    assert tried > 0.0


def test_denials_are_counted_by_reason() -> None:
    made = served()
    works(made, 0.5)
    for number in range(3):
        made.next(float(number))
    leases = standing(made, 3.0)
    assert leases.denials == {Denial.TOO_LONG: 3}


def test_nobody_wants_anything_nobody_is_denied() -> None:
    made = served()
    works(made, 0.5)
    made.next(0.0)
    made.leases.demand("job", None)
    assert made.next(1.0) == Wait(math.inf)
    assert refusal(made) is None


# ---- draining ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantum", list(Quantum))
def test_draining_finishes_steps_and_checkpoints_and_begins_nothing(quantum: Quantum) -> None:
    made = served()
    works(made, 0.01, quantum=quantum)
    made.drain()
    decision = made.next(0.0)
    if quantum in {Quantum.STEP, Quantum.CHECKPOINT}:
        assert isinstance(decision, RunMicrobatch)
    else:
        assert decision == Wait(math.inf)
        assert refusal(made) is Denial.DRAINING


def test_a_checkpoint_longer_than_any_promise_is_made_once_nobody_comes_any_more() -> None:
    made = served()
    works(made, 60.0, quantum=Quantum.CHECKPOINT)
    assert isinstance(made.next(0.0), Wait)
    made.offer(item(0, deadline=1.0), 0.0)
    made.drain()
    batch = launched(made, 0.0)
    made.report(Completed(batch_id=batch.batch_id, seconds=0.01, peak_bytes=None))
    assert lease(made, 0.01).quantum is Quantum.CHECKPOINT
