import math

import pytest
from controller_rig import controller, item, launched, taught

from batchd import (
    Completed,
    Expire,
    Failed,
    Item,
    ItemId,
    MemoryReading,
    ModelPolicy,
    RefusalReason,
    Refused,
    ReleaseReason,
    Wait,
    Window,
)


def test_nothing_to_do_is_a_wait_without_end() -> None:
    assert controller().next(0.0) == Wait(math.inf)


def test_a_free_device_takes_what_is_there() -> None:
    made = taught()
    for number in range(3):
        made.offer(item(number), 0.0)
    batch = launched(made, 0.0)
    assert sorted(batch.items) == [0, 1, 2]
    assert batch.reason is ReleaseReason.IDLE
    assert batch.padding_ratio == 0.0


def test_one_batch_at_a_time() -> None:
    made = taught()
    made.offer(item(0), 0.0)
    made.offer(item(1, 200), 0.0)
    batch = launched(made, 0.0)
    assert made.next(0.0) == Wait(math.inf)
    settled = made.report(Completed(batch_id=batch.batch_id, seconds=0.01, peak_bytes=None))
    assert settled.finished == batch.items
    assert len(launched(made, 0.0).items) == 1


def test_sizes_that_differ_a_lot_do_not_share_a_batch_and_near_ones_do() -> None:
    made = taught(fixed=20e-3)
    for number, length in enumerate([12, 12, 12, 209, 210, 12, 209]):
        made.offer(item(number, length), 0.0)
    first, second = launched(made, 0.0), None
    made.report(Completed(batch_id=first.batch_id, seconds=0.05, peak_bytes=None))
    second = launched(made, 0.0)
    assert {frozenset(first.items), frozenset(second.items)} == {frozenset({0, 1, 2, 5}), frozenset({3, 4, 6})}


def test_the_most_urgent_item_is_aboard() -> None:
    made = taught()
    made.offer(item(0, 8, deadline=5.0), 0.0)
    made.offer(item(1, 100, deadline=1.0), 0.0)
    assert 1 in launched(made, 0.0).items


def test_priority_1_goes_before_the_default_and_lower_levels_wait_but_not_for_ever() -> None:
    made = taught()
    made.offer(item(0, 8, deadline=10.0, priority=3), 0.0)
    made.offer(item(1, 100, deadline=10.0), 0.0)
    made.offer(item(2, 250, deadline=10.0, priority=1), 0.0)
    order = []
    for _ in range(3):
        batch = launched(made, 0.0)
        order += list(batch.items)
        made.report(Completed(batch_id=batch.batch_id, seconds=0.05, peak_bytes=None))
    assert order == [2, 1, 0]
    made.offer(item(3, 8, at=0.0, deadline=10.0, priority=3), 0.0)
    made.offer(item(4, 100, at=5.0, deadline=15.0), 5.0)
    assert 3 in launched(made, 5.0).items


def test_the_maximum_batch_holds() -> None:
    made = taught(max_batch_size=4)
    for number in range(10):
        made.offer(item(number), 0.0)
    batch = launched(made, 0.0)
    assert len(batch.items) == 4
    assert batch.reason is ReleaseReason.FULL


def test_the_element_budget_holds() -> None:
    made = taught(max_batch_elements=100)
    for number in range(10):
        made.offer(item(number, 30), 0.0)
    assert len(launched(made, 0.0).items) == 3


def test_a_tight_deadline_keeps_the_batch_small() -> None:
    made = taught()
    made.offer(item(0, 8, deadline=0.080), 0.0)
    for number in range(1, 21):
        made.offer(item(number, 8), 0.0)
    batch = launched(made, 0.0)
    assert 0 in batch.items
    assert batch.predicted_upper_s is not None
    assert batch.predicted_upper_s <= 0.080
    assert len(batch.items) < 20


def test_what_is_past_its_deadline_expires_before_anything_runs() -> None:
    made = taught()
    made.offer(item(0, deadline=1.0), 0.0)
    made.offer(item(1), 0.0)
    assert made.next(2.0) == Expire((ItemId(0),))
    assert launched(made, 2.0).items == (1,)


def test_what_cannot_make_it_any_more_gives_way_to_others() -> None:
    made = taught()
    made.offer(item(0, 256, deadline=0.300), 0.0)
    made.offer(item(1, 8), 0.0)
    assert made.next(0.200) == Expire((ItemId(0),))


def test_what_cannot_make_it_runs_where_nobody_else_wants_the_device() -> None:
    made = taught()
    made.offer(item(0, 256, deadline=0.300), 0.0)
    assert launched(made, 0.200).items == (0,)


def test_a_cancelled_item_never_runs() -> None:
    made = taught()
    made.offer(item(0), 0.0)
    made.offer(item(1), 0.0)
    assert made.cancel(ItemId(0))
    assert launched(made, 0.0).items == (1,)
    assert not made.cancel(ItemId(0))


def test_cancelling_aboard_lets_the_batch_finish() -> None:
    made = taught()
    made.offer(item(0), 0.0)
    batch = launched(made, 0.0)
    assert not made.cancel(ItemId(0))
    assert made.report(Failed(batch_id=batch.batch_id)).finished == (0,)
    assert made.next(0.0) == Wait(math.inf)


def test_the_fixed_window_holds_until_it_closes_or_the_batch_is_full() -> None:
    made = taught(window=Window.FIXED, max_wait_s=0.010, max_batch_size=4)
    made.offer(item(0, at=1.0), 1.0)
    assert made.next(1.0) == Wait(pytest.approx(1.010))
    batch = launched(made, 1.010)
    assert batch.reason is ReleaseReason.WINDOW
    made.report(Completed(batch_id=batch.batch_id, seconds=0.01, peak_bytes=None))
    for number in range(1, 5):
        made.offer(item(number, at=2.0), 2.0)
    assert launched(made, 2.0).reason is ReleaseReason.FULL


def test_the_fixed_window_closes_early_for_a_deadline() -> None:
    made = taught(window=Window.FIXED, max_wait_s=10.0)
    made.offer(item(0, at=0.0, deadline=0.5), 0.0)
    decision = made.next(0.0)
    assert isinstance(decision, Wait)
    assert 0.4 < decision.until < 0.5
    assert launched(made, decision.until).reason is ReleaseReason.DEADLINE


def test_draining_refuses_newcomers_and_runs_what_waits() -> None:
    made = taught(window=Window.FIXED, max_wait_s=10.0)
    made.offer(item(0), 0.0)
    made.drain()
    refused = made.offer(item(1), 0.0)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.DRAINING
    assert launched(made, 0.0).reason is ReleaseReason.DRAIN


def test_removing_a_model_returns_what_waited_and_refuses_what_comes() -> None:
    made = taught()
    made.offer(item(0), 0.0)
    assert made.remove_model("m") == (0,)
    refused = made.offer(item(1), 0.0)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.UNKNOWN_MODEL
    with pytest.raises(KeyError):
        made.remove_model("m")


def test_two_models_share_the_device_by_urgency() -> None:
    made = taught()
    made.add_model("n", ModelPolicy())
    made.offer(item(0, deadline=5.0), 0.0)
    made.offer(Item(id=ItemId(1), model="n", shape=(8,), arrived=0.0, deadline=1.0), 0.0)
    assert launched(made, 0.0).model == "n"


def test_a_model_that_waits_in_its_window_does_not_hold_up_another() -> None:
    made = taught(window=Window.FIXED, max_wait_s=1.0)
    made.add_model("n", ModelPolicy())
    made.offer(item(0, deadline=5.0), 0.0)
    made.offer(Item(id=ItemId(1), model="n", shape=(8,), arrived=0.0, deadline=9.0), 0.0)
    assert launched(made, 0.0).model == "n"


def test_mistakes_of_the_driver_are_reported() -> None:
    made = taught()
    made.offer(item(0), 0.0)
    with pytest.raises(ValueError, match="offered before"):
        made.offer(item(0), 0.0)
    with pytest.raises(ValueError, match="not running"):
        made.report(Failed(batch_id=launched(made, 0.0).batch_id + 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="served already"):
        made.add_model("m", ModelPolicy())


def test_the_snapshot_tells_how_things_stand() -> None:
    made = taught()
    made.observe(MemoryReading(total=1000 * 2**20, device_free=900 * 2**20, reserved=0, allocated=100 * 2**20))
    made.offer(item(0, at=1.0), 1.0)
    snapshot = made.snapshot(3.0)
    assert snapshot.models[0].queued == 1
    assert snapshot.models[0].oldest_age_s == 2.0
    assert snapshot.budget_bytes == (850 - 64) * 2**20
    assert snapshot.headroom_bytes == (850 - 64 - 100) * 2**20


def test_calibration_makes_the_first_batch_foreseeable() -> None:
    made = controller()
    for size, length in ((1, 8), (4, 8), (1, 64), (4, 64), (1, 256), (4, 256)):
        made.calibrate("m", size, (length,), 2e-3 + size * length * 1e-3)
    for number in range(8):
        made.offer(item(number, 32), 0.0)
    batch = launched(made, 0.0)
    assert len(batch.items) == 8, "the batch may be as large as what was shown to run, times the growth"
    assert batch.predicted_s == pytest.approx(2e-3 + 8 * 32e-3, rel=0.05)


def test_what_was_learned_survives_a_restart() -> None:
    made, fresh = taught(), controller()
    fresh.load_state_dict("m", made.state_dict("m"))
    for number in range(16):
        fresh.offer(item(number), 0.0)
    batch = launched(fresh, 0.0)
    assert len(batch.items) == 16
    assert batch.predicted_s == pytest.approx(2e-3 + 16 * 8e-3, rel=0.05)
    with pytest.raises(ValueError, match="latency"):
        fresh.load_state_dict("m", {})
