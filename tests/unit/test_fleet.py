"""The fleet of classic rules: who goes first, how batches are cut and halved, and what the rules are told."""

from __future__ import annotations

import math

import pytest

from batchd import (
    Completed,
    Expire,
    Failed,
    Item,
    ItemId,
    MemoryReading,
    ModelPolicy,
    Outcome,
    OutOfMemory,
    RefusalReason,
    Refused,
    ReleaseReason,
    RunBatch,
    Settled,
    Wait,
)
from batchd.baselines import POLICIES, FixedWindow, Fleet, parse_rule


class Rule(FixedWindow):
    """A window that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(0.01, 8)
        self.told: list[Outcome] = []
        self.readings: list[MemoryReading] = []

    def report(self, outcome: Outcome) -> Settled:
        self.told.append(outcome)
        return super().report(outcome)

    def observe(self, reading: MemoryReading) -> None:
        self.readings.append(reading)


def fleet(*names: str, **policy: int) -> tuple[Fleet, Rule]:
    rule = Rule()
    made = Fleet(lambda _: rule if len(names) == 1 else Rule())
    for name in names:
        made.add_model(name, ModelPolicy(**policy))  # type: ignore[arg-type]
    return made, rule


def offer(made: Fleet, number: int, model: str = "a", length: int = 4, at: float = 0.0, deadline: float = 9.0) -> None:
    item = Item(id=ItemId(number), model=model, shape=(length,), arrived=at, deadline=deadline)
    assert not isinstance(made.offer(item, at), Refused)


def launch(made: Fleet, now: float) -> RunBatch:
    decision = made.next(now)
    assert isinstance(decision, RunBatch)
    return decision


def done(batch: RunBatch, seconds: float = 0.5, peak: int | None = 7) -> Completed:
    return Completed(batch_id=batch.batch_id, seconds=seconds, peak_bytes=peak)


def test_the_model_whose_oldest_item_is_oldest_goes_first() -> None:
    made, _ = fleet("a", "b")
    offer(made, 1, "b", at=1.0)
    offer(made, 2, "a", at=1.001)
    held = made.next(1.002)
    assert isinstance(held, Wait)
    assert held.until == pytest.approx(1.01)
    first = launch(made, 1.02)
    assert (first.model, first.reason, first.queued_after) == ("b", ReleaseReason.WINDOW, 1)
    assert made.next(1.02) == Wait(math.inf)
    made.report(done(first))
    assert launch(made, 1.03).model == "a"


def test_a_batch_over_the_limits_runs_in_parts_and_the_rule_hears_of_the_whole() -> None:
    made, rule = fleet("a", max_batch_size=3, max_batch_elements=20)
    for number, length in enumerate((4, 4, 4, 4, 20, 4, 4, 4)):
        offer(made, number, length=length)
    parts: list[tuple[ItemId, ...]] = []
    for _ in range(4):
        batch = launch(made, 0.0)
        parts.append(batch.items)
        assert rule.told == []
        made.report(done(batch))
    assert parts == [(0, 1, 2), (3,), (4,), (5, 6, 7)]
    assert rule.told == [Completed(batch_id=rule.told[0].batch_id, seconds=2.0, peak_bytes=7)]


def test_what_does_not_fit_is_halved_before_anything_else_runs() -> None:
    made, rule = fleet("a")
    for number in range(8):
        offer(made, number)
    batch = launch(made, 0.0)
    offer(made, 8, at=0.0)
    assert not made.cancel(ItemId(5))
    reading = MemoryReading(total=10)
    settled = made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None, reading=reading))
    assert settled == Settled(requeued=tuple(ItemId(number) for number in (0, 1, 2, 3, 4, 6, 7)))
    assert rule.readings[-1] == reading
    assert made.num_waiting() == 8
    half = launch(made, 0.02)
    assert half.items == (0, 1, 2, 3)
    made.report(Failed(batch_id=half.batch_id))
    assert made.cancel(ItemId(4))
    other = launch(made, 0.02)
    assert other.items == (6, 7)
    assert rule.told == []
    made.report(done(other))
    assert isinstance(rule.told[0], OutOfMemory)
    alone = launch(made, 0.02)
    assert made.report(OutOfMemory(batch_id=alone.batch_id, peak_bytes=None)) == Settled(impossible=(ItemId(8),))


def test_a_half_whose_items_have_all_gone_ends_the_job() -> None:
    made, rule = fleet("a")
    offer(made, 1, deadline=1.0)
    offer(made, 2, deadline=1.0)
    batch = launch(made, 0.5)
    made.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None))
    assert made.next(2.0) == Expire((ItemId(1), ItemId(2)))
    assert len(rule.told) == 1
    assert made.next(2.0) == Wait(math.inf)


def test_limits_refuse_and_deadlines_wake() -> None:
    made, _ = fleet("a", max_queue_size=1, max_item_elements=10)
    offer(made, 1, deadline=0.005)
    for number, length, reason in ((2, 4, RefusalReason.QUEUE_FULL), (3, 11, RefusalReason.TOO_LARGE)):
        item = Item(id=ItemId(number), model="a", shape=(length,), arrived=0.0, deadline=1.0)
        refused = made.offer(item, 0.0)
        assert isinstance(refused, Refused)
        assert refused.reason is reason
    assert made.next(0.0) == Wait(0.005)
    assert made.next(0.005) == Expire((ItemId(1),))


def test_the_same_model_cannot_be_added_twice() -> None:
    made, _ = fleet("a")
    with pytest.raises(ValueError, match="served already"):
        made.add_model("a", ModelPolicy())


@pytest.mark.parametrize(
    "spec",
    [
        *("window:-1:3", "window:5:0", "window:nan:3", "window:inf:3", "buckets:8,8:5:3", "buckets:0,8:5:3"),
        *("threshold:0.8:0.6", "threshold:0:0.5", "threshold:0.5:1.1", "threshold:0.5:0.8:0", "adaptive"),
    ],
)
def test_figures_that_no_rule_can_work_with_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=POLICIES[-1][:9]):
        parse_rule(spec, slo_s=1.0, max_batch_size=8)
