"""What must hold of whatever decides in the device process, whatever comes in whatever order: a state machine.

It plays the device process and the device, with a memory law of its own, and keeps its own books.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchd import (
    Admitted,
    BudgetPolicy,
    Completed,
    Expire,
    Failed,
    Item,
    ItemId,
    Learned,
    MemoryReading,
    ModelPolicy,
    Multiples,
    OutOfMemory,
    PadTo,
    Proportional,
    RefusalReason,
    Refused,
    RunBatch,
    Shape,
    Wait,
    Window,
    num_elements,
)
from batchd.decision import Decision, RunMicrobatch
from batchd.device_scheduler import DeviceScheduler

BUDGET = BudgetPolicy(limit_fraction=1.0, safety_bytes=0)
POLICIES = {
    "free": ModelPolicy(
        slo_s=1.0, max_batch_size=6, max_batch_elements=400, max_queue_size=20, ladder=Multiples(4), priority_levels=5
    ),
    "windowed": ModelPolicy(
        slo_s=0.5, max_batch_size=4, max_queue_size=12, window=Window.FIXED, max_wait_s=0.2, max_item_elements=300
    ),
    "compiled": ModelPolicy(
        slo_s=2.0,
        max_batch_size=8,
        max_queue_size=16,
        ladder=Proportional(2),
        pad_to=PadTo.RUNG,
        max_batch_elements=900,
    ),
    "learning": ModelPolicy(slo_s=1.0, max_batch_size=5, max_queue_size=16, ladder=Learned(3), pad_to=PadTo.RUNG),
}
LOADED = st.sampled_from(sorted(POLICIES))
USUAL = st.integers(1, 40)
LINES = st.lists(st.tuples(USUAL), min_size=1, max_size=8)
PLANES = st.lists(st.tuples(USUAL, st.integers(1, 12)), min_size=1, max_size=8)
ODD = st.lists(
    st.one_of(st.just(()), st.tuples(st.sampled_from((0, 10**6, 10**9))), st.tuples(USUAL, USUAL)), max_size=3
)
SLACKS = st.one_of(st.floats(0.3, 5.0), st.floats(0.001, 5.0), st.floats(-1.0, 0.0), st.just(1e6))
AGAIN = st.sampled_from(((False, False),) * 4 + ((True, False), (False, True), (True, True)))  # alone, accepted before
BYTES = st.one_of(st.none(), st.integers(0, 10**5))


def true_peak(batch_size: int, elements: int) -> int:
    """What a batch takes on this device: something fixed, linear and square, as memory models may assume."""
    return 500 + batch_size * (4 * elements + elements * elements // 4)


class SchedulerLaws(RuleBasedStateMachine):
    """Drives a scheduler as a device process would."""

    sizes_by_memory = False
    """Whether the scheduler promises that a batch which it has measured the like of fits into the memory."""
    steps_to_the_end = 20
    """How often it may be asked at the end, over a dozen times for each item that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = self.make()
        for name, policy in POLICIES.items():
            self.scheduler.add_model(name, policy)
        self.now = 0.0
        self.items: dict[ItemId, Item] = {}
        self.waiting: set[ItemId] = set()
        self.settled: set[ItemId] = set()
        self.cancelled: set[ItemId] = set()
        self.running: RunBatch | None = None
        self.orphaned = False  # the model of the batch that runs has been removed since
        self.measured: set[str] = set()
        self.draining = False

    def make(self) -> DeviceScheduler:
        raise NotImplementedError

    def check_wait(self, until: float) -> None:
        """The device is free and these items wait: may they?"""
        raise NotImplementedError

    # ---- the outside world -------------------------------------------------------------------------------------------

    @rule(
        model=LOADED,
        shapes=st.one_of(LINES, LINES, PLANES, ODD),
        age=st.floats(0.0, 0.3),
        slack=SLACKS,
        priority=st.integers(0, 6),
        again=AGAIN,
    )
    def offer(
        self, model: str, shapes: list[Shape], age: float, slack: float, priority: int, again: tuple[bool, bool]
    ) -> None:
        for shape in shapes:
            self.offer_one(model, shape, self.now - age, self.now + slack, priority, *again)

    def offer_one(
        self,
        model: str,
        shape: Shape,
        arrived: float,
        deadline: float,
        priority: int,
        alone: bool = False,
        accepted: bool = False,
    ) -> None:
        item = Item(
            id=ItemId(len(self.items)),
            model=model,
            shape=shape,
            arrived=arrived,
            deadline=deadline,
            priority=priority,
            alone=alone,
            accepted=accepted,
        )
        self.items[item.id] = item
        policy = POLICIES[model]
        num_waiting = len([other for other in self.waiting if self.items[other].model == model])
        too_large = num_elements(shape) > (policy.max_item_elements or math.inf)
        match self.scheduler.offer(item, self.now):
            case Admitted():
                assert not too_large
                assert not self.draining
                assert num_waiting < policy.max_queue_size or item.accepted
                self.waiting.add(item.id)
                with pytest.raises(ValueError, match="offered before"):
                    self.scheduler.offer(item, self.now)
            case Refused(reason, detail, retry_after_s):
                assert detail
                assert retry_after_s is None or 0 <= retry_after_s < math.inf
                assert reason is not RefusalReason.UNKNOWN_MODEL
                assert reason is not RefusalReason.TOO_LARGE or too_large
                assert reason is not RefusalReason.QUEUE_FULL or num_waiting >= policy.max_queue_size
                assert (reason is RefusalReason.DRAINING) == self.draining
                assert not item.accepted or reason not in {RefusalReason.QUEUE_FULL, RefusalReason.DEADLINE_INFEASIBLE}

    @rule()
    def offer_to_an_unknown_model(self) -> None:
        item = Item(id=ItemId(-1), model="unheard-of", shape=(3,), arrived=self.now, deadline=self.now + 1.0)
        refused = self.scheduler.offer(item, self.now)
        assert isinstance(refused, Refused)
        assert refused.reason is RefusalReason.UNKNOWN_MODEL
        assert self.scheduler.cancel(item.id) is False

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        live = sorted(self.waiting | set(self.running.items if self.running else ()))
        item_id = data.draw(st.sampled_from(live if live and data.draw(st.booleans()) else sorted(self.items)))
        waited = item_id in self.waiting
        assert self.scheduler.cancel(item_id) == waited
        self.cancelled.add(item_id)
        if waited:
            self.settle(item_id)

    @rule(seconds=st.one_of(st.just(0.0), st.floats(0.0, 2.0), st.just(100.0)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(total=BYTES, free=BYTES, reserved=BYTES, allocated=st.one_of(st.none(), st.integers(0, 2000)))
    def read_memory(self, total: int | None, free: int | None, reserved: int | None, allocated: int | None) -> None:
        self.scheduler.observe(MemoryReading(total=total, device_free=free, reserved=reserved, allocated=allocated))

    @precondition(lambda self: self.running is not None)
    @rule()
    def reload_what_runs(self) -> None:
        assert self.running is not None
        self.reload(self.running.model)

    @precondition(lambda self: len(self.items) > 10)
    @rule(model=LOADED)
    def reload(self, model: str) -> None:
        dropped = self.scheduler.remove_model(model)
        assert len(set(dropped)) == len(dropped)
        assert set(dropped) == {item_id for item_id in self.waiting if self.items[item_id].model == model}
        for item_id in dropped:
            self.settle(item_id)
        assert self.scheduler.max_queue_size(model) is None
        self.scheduler.add_model(model, POLICIES[model])
        self.orphaned |= self.running is not None and self.running.model == model
        self.measured.discard(model)

    @precondition(lambda self: len(self.items) > 40)
    @rule()
    def drain(self) -> None:
        self.scheduler.drain()
        self.draining = True

    # ---- the device --------------------------------------------------------------------------------------------------

    @rule()
    def decide(self) -> None:
        self.take(self.scheduler.next(self.now))

    def take(self, decision: Decision) -> None:
        if self.running is not None:
            assert decision == Wait(math.inf), "the device is not free"
            return
        match decision:
            case Wait(until):
                assert until > self.now, "a device that is asked again at once never sleeps"
                self.nothing_is_overdue()
                if self.waiting:
                    assert not self.draining, "while draining nothing is waited for"
                    assert until < math.inf, "a free device left items waiting for ever"
                    self.check_wait(until)
            case Expire(expired):
                assert expired
                assert set(expired) <= self.waiting
                for item_id in expired:
                    self.settle(item_id)
            case RunBatch():
                self.nothing_is_overdue()
                self.check_batch(decision)
                self.waiting -= set(decision.items)
                self.running, self.orphaned = decision, False
            case RunMicrobatch():
                self.take_lease(decision)

    def take_lease(self, decision: RunMicrobatch) -> None:
        """The device is lent to training."""
        raise AssertionError(f"nobody asked for {decision}")

    def finish_lease(self) -> None:
        """The lease comes to an end, as all does."""
        raise NotImplementedError

    def nothing_is_overdue(self) -> None:
        assert all(self.items[item_id].deadline > self.now for item_id in self.waiting), "it can only be late"

    def check_batch(self, batch: RunBatch) -> None:
        padded = batch.padded_shape
        assert padded is not None, "no model here is ragged"
        assert batch.elements == len(batch.items) * num_elements(padded)
        policy, size, elements = POLICIES[batch.model], len(batch.items), batch.elements // len(batch.items)
        members = [self.items[item_id] for item_id in batch.items]
        assert size == len(set(batch.items)) >= 1
        assert size == 1 or not any(item.alone for item in members), "suspects have no company"
        assert set(batch.items) <= self.waiting, "launched what does not wait"
        assert not set(batch.items) & self.cancelled, "launched what was cancelled"
        assert {item.model for item in members} == {batch.model}
        assert {len(item.shape) for item in members} == {len(padded)}, "shapes that do not go together"
        for item in members:
            assert all(own <= padded for own, padded in zip(item.shape, padded, strict=True))
        if policy.pad_to is PadTo.RUNG and not isinstance(policy.ladder, Learned):
            assert policy.ladder.padded(padded) == padded
        carried = sum(num_elements(item.shape) for item in members)
        assert batch.padding_ratio == pytest.approx(1 - carried / (size * elements), abs=1e-12)
        assert batch.queued_after == len(self.waiting) - size
        assert size <= policy.max_batch_size
        assert size == 1 or size * elements <= (policy.max_batch_elements or math.inf)
        if self.sizes_by_memory and batch.model in self.measured:
            assert batch.predicted_bytes is not None
            assert true_peak(size, elements) <= batch.predicted_bytes, "an upper bound was none"
            headroom = self.scheduler.snapshot(self.now).headroom_bytes
            assert size == 1 or headroom is None or batch.predicted_bytes <= headroom, "over the memory"

    @precondition(lambda self: self.running is not None)
    @rule(seconds=st.floats(1e-4, 0.5), measured=st.booleans(), first=st.booleans())
    def complete(self, seconds: float, measured: bool, first: bool) -> None:
        batch = self.take_off()
        self.now += seconds
        peak = true_peak(len(batch.items), batch.elements // len(batch.items)) if measured else None
        outcome = Completed(batch_id=batch.batch_id, seconds=seconds, peak_bytes=peak, first_of_shape=first)
        settled = self.scheduler.report(outcome)
        assert (settled.finished, settled.requeued, settled.impossible) == (batch.items, (), ())
        for item_id in batch.items:
            self.settle(item_id)
        if measured and not self.orphaned:
            self.measured.add(batch.model)
        with pytest.raises(ValueError, match="is not running"):
            self.scheduler.report(outcome)

    @rule(batches=st.integers(1, 6), seconds=st.floats(1e-3, 0.05))
    def serve(self, batches: int, seconds: float) -> None:
        """Go on for a while as any device does."""
        for _ in range(batches):
            if self.running is not None:
                self.complete(seconds, measured=True, first=False)
            self.decide()

    @precondition(lambda self: self.running is not None)
    @rule()
    def fail(self) -> None:
        batch = self.take_off()
        settled = self.scheduler.report(Failed(batch_id=batch.batch_id))
        assert (settled.finished, settled.requeued, settled.impossible) == (batch.items, (), ())
        for item_id in batch.items:
            self.settle(item_id)

    @precondition(lambda self: self.running is not None)
    @rule()
    def run_out_of_memory(self) -> None:
        batch = self.take_off()
        settled = self.scheduler.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None))
        unwanted = set(batch.items) & self.cancelled
        if len(batch.items) == 1:
            assert (settled.finished, settled.requeued, settled.impossible) == ((), (), batch.items)
            self.settle(batch.items[0])
        elif self.orphaned:
            assert (settled.finished, settled.requeued, settled.impossible) == (batch.items, (), ())
            for item_id in batch.items:
                self.settle(item_id)
        else:
            assert not settled.finished
            assert not settled.impossible
            assert len(set(settled.requeued)) == len(settled.requeued)
            assert set(settled.requeued) == set(batch.items) - unwanted
            self.waiting |= set(settled.requeued)
            for item_id in unwanted:
                self.settle(item_id)

    def take_off(self) -> RunBatch:
        assert self.running is not None
        batch, self.running = self.running, None
        return batch

    # ---- the books ---------------------------------------------------------------------------------------------------

    def settle(self, item_id: ItemId) -> None:
        assert item_id not in self.settled, "answered twice"
        self.settled.add(item_id)
        self.waiting.discard(item_id)

    @invariant()
    def the_books_agree(self) -> None:
        snapshot = self.scheduler.snapshot(self.now)
        queued = dict.fromkeys(POLICIES, 0)
        for item_id in self.waiting:
            queued[self.items[item_id].model] += 1
        assert {model.name: model.queued for model in snapshot.models} == queued
        assert snapshot.running == (None if self.running is None else self.running.batch_id)
        assert snapshot.draining == self.draining

    def teardown(self) -> None:
        """Whatever has happened: while the device goes on finishing batches that fit, everything comes to its end."""
        if self.running is not None:
            self.complete(0.01, measured=False, first=False)
        if len(self.items) % 2 and not self.draining:
            self.drain()
        fits = 3_000  # bytes, whatever the readings say
        left = len(self.waiting)
        for _ in range(self.steps_to_the_end + 12 * left):
            if not self.waiting:
                break
            decision = self.scheduler.next(self.now)
            self.take(decision)
            if isinstance(decision, Wait):
                self.now = decision.until
            elif isinstance(decision, RunBatch):
                if true_peak(len(decision.items), decision.elements // len(decision.items)) > fits:
                    self.run_out_of_memory()
                else:
                    self.complete(0.01, measured=False, first=False)
            elif isinstance(decision, RunMicrobatch):
                self.finish_lease()
        assert not self.waiting, "admitted, and never settled"
        for item_id in self.settled:  # what is settled is forgotten: its id may come again
            self.scheduler.offer(self.items[item_id], self.now)
