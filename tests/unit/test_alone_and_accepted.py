"""Items that must run alone, and items that were let in before: what the controller and the rules make of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from controller_rig import controller, item, launched, taught

from batchd import Admitted, Completed, Controller, Expire, ItemId, ModelPolicy, Refused, ReleaseReason, Wait, Window
from batchd.admission import AMPLE, Forecast, admit
from batchd.baselines import Fleet, parse_rule
from batchd.decision import RefusalReason, RunMicrobatch
from batchd.item import Item
from batchd.leasing.demand import Demand
from batchd.policy import Layout


def alone(one: Item) -> Item:
    return replace(one, alone=True)


def accepted(one: Item) -> Item:
    return replace(one, accepted=True)


def run_all(made: Controller | Fleet, now: float = 0.0) -> list[tuple[int, ...]]:
    """The batches that everything waiting runs in."""
    batches = []
    while made.num_waiting():
        batch = made.next(now)
        assert not isinstance(batch, (Wait, Expire, RunMicrobatch))
        batches.append(tuple(batch.items))
        made.report(Completed(batch_id=batch.batch_id, seconds=0.001, peak_bytes=None))
    return batches


@pytest.mark.parametrize("layout", [Layout.PADDED, Layout.RAGGED])
def test_an_item_that_must_run_alone_has_no_company_wherever_it_stands(layout: Layout) -> None:
    for suspect in range(6):
        made = controller(layout=layout) if layout is Layout.RAGGED else taught()
        for number in range(6):
            one = item(number, deadline=10.0 + number)
            made.offer(alone(one) if number == suspect else one, 0.0)
        batches = run_all(made)
        assert (suspect,) in batches
        assert sorted(number for batch in batches for number in batch) == list(range(6))
        assert layout is Layout.RAGGED or len(batches) <= 3, "the others share theirs as ever"


def test_it_says_so_and_waits_for_no_window() -> None:
    made = taught(window=Window.FIXED, max_wait_s=0.5)
    made.offer(item(1, deadline=9.0), 0.0)
    assert isinstance(made.next(0.0), Wait)
    made.offer(alone(item(2, deadline=1.0)), 0.0)
    batch = launched(made, 0.0)
    assert (batch.items, batch.reason) == ((2,), ReleaseReason.ALONE)
    assert batch.padding_ratio == 0.0
    made.report(Completed(batch_id=batch.batch_id, seconds=0.01, peak_bytes=None))
    assert isinstance(made.next(0.01), Wait), "the window of the other one goes on"


def test_it_can_be_cancelled_expires_and_is_dropped_with_its_model_like_any_other() -> None:
    made = taught()
    for number, deadline in ((1, 9.0), (2, 0.5), (3, 9.0)):
        made.offer(alone(item(number, deadline=deadline)), 0.0)
    made.offer(item(4, deadline=9.0), 0.0)
    assert made.cancel(ItemId(1))
    assert made.next(1.0) == Expire((ItemId(2),))
    assert sorted(made.remove_model("m")) == [3, 4]


def test_training_sees_it_wait() -> None:
    made = taught(slo_s=0.2)
    made.leases.add("job")
    made.leases.demand("job", Demand(items=8))
    made.offer(alone(item(1, at=0.0, deadline=0.2)), 0.0)
    now, served = 0.0, False
    while not served:
        decision = made.next(now)
        if isinstance(decision, RunMicrobatch):
            now += 0.01
            made.report(Completed(batch_id=decision.batch_id, seconds=0.01, peak_bytes=None))
        else:
            assert not isinstance(decision, (Wait, Expire))
            served = decision.items == (1,)
    assert now < 0.2, "its promise binds as anybody's"


def test_the_classic_rules_cut_it_out_of_their_batches() -> None:
    rule = parse_rule("window:0:8", slo_s=1.0, max_batch_size=8)
    made = Fleet(lambda _: rule())
    made.add_model("m", ModelPolicy(slo_s=1.0, max_batch_size=8))
    for number in range(6):
        made.offer(alone(item(number)) if number in {0, 3} else item(number), 0.0)
    assert run_all(made, 1.0) == [(0,), (1, 2), (3,), (4, 5)]


# ---- accepted before -------------------------------------------------------------------------------------------------


def test_neither_a_full_queue_nor_a_long_one_refuses_what_was_let_in_before() -> None:
    made = taught(max_queue_size=4, slo_s=0.01)
    for number in range(4):
        made.offer(accepted(item(number, length=256, deadline=100.0)), 0.0)
    full = made.offer(item(10, length=8, deadline=100.0), 0.0)
    assert isinstance(full, Refused)
    assert full.reason is RefusalReason.QUEUE_FULL
    late = accepted(item(11, length=8, deadline=0.001))
    assert isinstance(made.offer(late, 0.0), Admitted), "that it is too late it hears when its deadline has passed"
    assert made.next(0.001) == Expire((ItemId(11),))
    rule = parse_rule("window:0:8", slo_s=1.0, max_batch_size=8)
    fleet = Fleet(lambda _: rule())
    fleet.add_model("m", ModelPolicy(max_queue_size=1))
    assert isinstance(fleet.offer(item(1), 0.0), Admitted)
    assert isinstance(fleet.offer(item(2), 0.0), Refused)
    assert isinstance(fleet.offer(accepted(item(3)), 0.0), Admitted)


def test_what_can_never_be_served_is_refused_all_the_same() -> None:
    made = taught(max_item_elements=100)
    refused = made.offer(accepted(item(1, length=101)), 0.0)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.TOO_LARGE
    made.drain()
    assert isinstance(made.offer(accepted(item(2)), 0.0), Refused)


def test_the_forecast_is_told_but_not_heeded() -> None:
    crowded = Forecast(now=0.0, starts=5.0, own_upper_s=1.0, lent_s=0.0, fixed_s=0.1, demand=2 * AMPLE, idle=False)
    assert isinstance(admit(crowded, 1.0), Refused)
    admitted = admit(crowded, 1.0, accepted=True)
    assert isinstance(admitted, Admitted)
    assert admitted.predicted_finish > 5.0
