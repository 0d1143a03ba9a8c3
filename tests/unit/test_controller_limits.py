import math

import pytest
from controller_rig import controller, item, launched, taught

from batchd import (
    Admitted,
    BudgetPolicy,
    Completed,
    Controller,
    Expire,
    Item,
    ItemId,
    MemoryReading,
    ModelPolicy,
    Multiples,
    OutOfMemory,
    RefusalReason,
    Refused,
    ReleaseReason,
    RunBatch,
    Wait,
    Window,
)


def test_out_of_memory_splits_the_batch_and_loses_nobody() -> None:
    made = taught()
    for number in range(8):
        made.offer(item(number, 64), 0.0)
    batch = launched(made, 0.0)
    assert len(batch.items) == 8
    settled = made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None))
    assert sorted(settled.requeued) == list(range(8))
    seen: list[int] = []
    while isinstance(decision := made.next(0.0), RunBatch):
        assert len(decision.items) < 8
        seen += decision.items
        made.report(Completed(batch_id=decision.batch_id, seconds=0.1, peak_bytes=None))
    assert sorted(seen) == list(range(8))


def test_out_of_memory_forgets_what_was_cancelled_meanwhile() -> None:
    made = taught()
    for number in range(4):
        made.offer(item(number, 64), 0.0)
    batch = launched(made, 0.0)
    made.cancel(ItemId(2))
    settled = made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None))
    assert sorted(settled.requeued) == [0, 1, 3]


def test_one_item_that_does_not_fit_alone_is_impossible_and_larger_ones_are_refused() -> None:
    made = taught()
    made.observe(MemoryReading(total=10**9, device_free=10**9))
    made.offer(item(0, 300), 0.0)
    batch = launched(made, 0.0)
    assert made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None)).impossible == (0,)
    refused = made.offer(item(1, 400), 0.0)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.MEMORY
    assert isinstance(made.offer(item(2, 200), 0.0), Admitted)


def test_memory_bounds_the_batch_and_follows_the_reading() -> None:
    made = Controller(BudgetPolicy(limit_fraction=1.0, safety_bytes=0))
    made.add_model("m", ModelPolicy(ladder=Multiples(1)))
    number = 0
    for _ in range(6):  # grow to 64 while measuring 1 MB an item
        for _ in range(64):
            made.offer(item(number), 0.0)
            number += 1
        while isinstance(batch := made.next(0.0), RunBatch):
            size = len(batch.items)
            made.report(Completed(batch_id=batch.batch_id, seconds=1e-3 * size, peak_bytes=size * 10**6))
    sizes = {}
    for free in (100_000_000, 20_000_000, 100_000_000):
        made.observe(MemoryReading(total=10**9, device_free=free))
        for _ in range(64):
            made.offer(item(number), 0.0)
            number += 1
        batch = launched(made, 0.0)
        sizes.setdefault(free, []).append(len(batch.items))
        made.report(Completed(batch_id=batch.batch_id, seconds=1e-3, peak_bytes=None))
        while isinstance(rest := made.next(0.0), RunBatch):
            made.report(Completed(batch_id=rest.batch_id, seconds=1e-3, peak_bytes=None))
    assert sizes == {100_000_000: [64, 64], 20_000_000: [20]}  # peaks were as predicted: nothing is added to them


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    made = taught(max_queue_size=5)
    for number in range(5):
        assert isinstance(made.offer(item(number, 100), 0.0), Admitted)
    refused = made.offer(item(5), 0.0)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.QUEUE_FULL
    assert refused.retry_after_s is not None
    assert refused.retry_after_s == pytest.approx(0.5, rel=0.1)


def test_an_infeasible_deadline_is_refused_at_once_behind_a_backlog_but_not_on_an_idle_device() -> None:
    made = taught()
    assert isinstance(made.offer(item(0, 100, deadline=0.01), 0.0), Admitted)
    for number in range(1, 11):
        made.offer(item(number, 100, deadline=0.0), 0.0)
    for number in range(11, 31):
        made.offer(item(number, 100, deadline=100.0), 0.0)
    refused = made.offer(item(99, 100, deadline=0.1), 0.0)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.DEADLINE_INFEASIBLE
    assert refused.retry_after_s is not None
    assert refused.retry_after_s > 0


def test_an_urgent_item_is_not_charged_for_a_backlog_that_can_wait() -> None:
    made = taught()
    for number in range(50):
        made.offer(item(number, 100, deadline=1000.0), 0.0)
    assert isinstance(made.offer(item(99, 8, deadline=0.5), 0.0), Admitted)


def test_under_a_backlog_the_long_items_are_refused_first() -> None:
    made = taught()
    number = 0
    while isinstance(made.offer(item(number, 50, deadline=1.0), 0.0), Admitted):
        number += 1
    assert number >= 5
    assert isinstance(made.offer(item(900, 256, deadline=1.0), 0.0), Refused)
    assert isinstance(made.offer(item(901, 8, deadline=1.0), 0.0), Admitted)


def test_an_item_over_the_models_limit_is_refused() -> None:
    made = controller(max_item_elements=100)
    refused = made.offer(item(0, 101), 0.0)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.TOO_LARGE
    assert "101" in refused.detail
    assert "100" in refused.detail


def test_removing_a_model_does_not_recall_its_batch() -> None:
    made = taught()
    made.offer(item(0), 0.0)
    made.offer(item(1), 0.0)
    batch = launched(made, 0.0)
    assert made.remove_model("m") == ()
    settled = made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None))
    assert sorted(settled.finished) == [0, 1]
    assert made.next(0.0) == Wait(math.inf)


def test_a_request_of_two_rides_in_one_batch_and_is_not_counted_as_two() -> None:
    made = taught(fixed=0.3, seconds_per_element=1e-5)
    assert isinstance(made.offer(item(0, deadline=0.5), 0.0), Admitted)
    assert isinstance(made.offer(item(1, deadline=0.5), 0.0), Admitted)
    assert len(launched(made, 0.0).items) == 2


def test_a_device_that_has_become_fast_again_is_found_out_by_requests_of_several_items() -> None:
    made = taught(fixed=2.0)  # ten times the deadline
    number, rounds = 0, 0
    while True:
        rounds += 1
        assert rounds < 30, "the same request is refused for ever"
        pair = [item(number, deadline=0.2), item(number + 1, deadline=0.2)]
        number += 2
        if all(isinstance(made.offer(one, 0.0), Admitted) for one in pair):
            break
        for one in pair:
            made.cancel(one.id)
    while isinstance(made.next(0.0), Expire):
        pass
    assert made.num_waiting() < 2


def test_the_window_of_an_urgent_item_holds_back_neither_older_items_nor_pressing_ones() -> None:
    made = taught(window=Window.FIXED, max_wait_s=1.0, slo_s=10.0, max_queue_size=9)
    made.offer(item(0, 8, at=0.0, deadline=20.0, priority=1), 0.0)
    made.offer(item(1, 256, at=0.0, deadline=0.7, priority=3), 0.0)
    decision = made.next(0.0)
    assert isinstance(decision, Wait)
    assert decision.until < 0.7
    assert launched(made, decision.until).items == (1,)


def test_a_fixed_window_closes_for_the_oldest_item_whatever_keeps_coming() -> None:
    made = taught(window=Window.FIXED, max_wait_s=0.05, slo_s=10.0)
    made.offer(item(0, 256, at=0.0, deadline=10.0), 0.0)
    made.offer(item(1, 8, at=0.04, deadline=1.0), 0.04)
    decision = made.next(0.04)
    assert isinstance(decision, Wait)
    assert decision.until == pytest.approx(0.05)
    assert 0 in launched(made, 0.05).items


def test_a_batch_that_memory_keeps_small_says_so() -> None:
    made = controller(max_batch_size=64)
    for number in range(5):
        made.offer(item(number), 0.0)
    assert launched(made, 0.0).reason is ReleaseReason.MEMORY


def test_items_of_different_dimensions_never_share_a_batch() -> None:
    made = taught()
    shapes: list[tuple[int, ...]] = [(8,), (8, 8), (), (8,)]
    for number, shape in enumerate(shapes):
        made.offer(Item(id=ItemId(number), model="m", shape=shape, arrived=0.0, deadline=9.0), 0.0)
    batches = []
    while isinstance(batch := made.next(0.0), RunBatch):
        batches.append(batch.items)
        made.report(Completed(batch_id=batch.batch_id, seconds=0.01, peak_bytes=None))
    assert sorted(batches) == [(0, 3), (1,), (2,)]


def test_an_item_of_a_size_never_run_does_not_turn_away_everybody_else() -> None:
    made = controller(slo_s=1.0)
    now = 0.0
    for number in range(40):
        length = 8 + number % 3 * 28
        made.offer(item(number, length, deadline=now + 1.0), now)
        batch = launched(made, now)
        made.report(Completed(batch_id=batch.batch_id, seconds=0.002 + 1e-6 * length**2, peak_bytes=None))
        now += 0.01
    assert isinstance(made.offer(item(100, 3_000_000, deadline=now + 1.0), now), Admitted)
    launched(made, now)
    assert isinstance(made.offer(item(101, 8, deadline=now + 1.0), now), Admitted)
