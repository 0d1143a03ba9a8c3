"""Whatever the interleaving of offers, cancels, outcomes and readings: nothing is lost, doubled or over a bound."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchd import (
    Admitted,
    BudgetPolicy,
    Completed,
    Controller,
    Expire,
    Failed,
    Item,
    ItemId,
    MemoryReading,
    ModelPolicy,
    Multiples,
    OutOfMemory,
    RunBatch,
    Wait,
    num_elements,
)

MAX_BATCH = 6
MAX_BATCH_ELEMENTS = 400
MODELS = ("a", "b")


class ControllerLaws(RuleBasedStateMachine):
    """Drives a controller as a device process would, and keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = Controller(BudgetPolicy(limit_fraction=1.0, safety_bytes=0))
        for name in MODELS:
            self.controller.add_model(name, self.policy())
        self.now = 0.0
        self.items: dict[ItemId, Item] = {}
        self.waiting: set[ItemId] = set()
        self.cancelled: set[ItemId] = set()
        self.done: set[ItemId] = set()
        self.running: RunBatch | None = None

    def policy(self) -> ModelPolicy:
        return ModelPolicy(
            slo_s=1.0,
            max_batch_size=MAX_BATCH,
            max_batch_elements=MAX_BATCH_ELEMENTS,
            max_queue_size=30,
            ladder=Multiples(4),
        )

    def finish(self, item_id: ItemId) -> None:
        assert item_id not in self.done, "answered twice"
        self.done.add(item_id)
        self.waiting.discard(item_id)

    @rule(
        model=st.sampled_from(MODELS),
        shape=st.tuples(st.integers(1, 40), st.integers(1, 12)),
        slack=st.floats(0.001, 5.0),
        priority=st.integers(0, 3),
    )
    def offer(self, model: str, shape: tuple[int, int], slack: float, priority: int) -> None:
        item_id = ItemId(len(self.items))
        item = Item(
            id=item_id, model=model, shape=shape, arrived=self.now, deadline=self.now + slack, priority=priority
        )
        self.items[item_id] = item
        if isinstance(self.controller.offer(item, self.now), Admitted):
            self.waiting.add(item_id)

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item_id = data.draw(st.sampled_from(sorted(self.items)))
        was_waiting = item_id in self.waiting and (self.running is None or item_id not in self.running.items)
        assert self.controller.cancel(item_id) == was_waiting
        self.cancelled.add(item_id)
        if was_waiting:
            self.finish(item_id)

    @rule(seconds=st.floats(0.0, 2.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(free=st.one_of(st.none(), st.integers(0, 10**6)))
    def read_memory(self, free: int | None) -> None:
        self.controller.observe(MemoryReading(device_free=free))

    @precondition(lambda self: self.running is None)
    @rule()
    def decide(self) -> None:
        decision = self.controller.next(self.now)
        match decision:
            case Wait(until):
                assert until == math.inf
                assert not self.waiting, "a free device left items waiting"
            case Expire(expired):
                for item_id in expired:
                    assert item_id in self.waiting
                    self.finish(item_id)
            case RunBatch():
                self.check(decision)
                self.running = decision

    def check(self, batch: RunBatch) -> None:
        assert len(set(batch.items)) == len(batch.items)
        assert 1 <= len(batch.items) <= MAX_BATCH
        elements = num_elements(batch.padded_shape)
        assert len(batch.items) == 1 or len(batch.items) * elements <= MAX_BATCH_ELEMENTS
        headroom = self.controller.headroom()
        if len(batch.items) > 1 and headroom is not None and batch.predicted_bytes is not None:
            assert batch.predicted_bytes <= headroom
        for item_id in batch.items:
            item = self.items[item_id]
            assert item_id in self.waiting
            assert item_id not in self.cancelled
            assert item.model == batch.model
            assert all(size <= limit for size, limit in zip(item.shape, batch.padded_shape, strict=True))
        assert 0.0 <= batch.padding_ratio < 1.0

    @precondition(lambda self: self.running is not None)
    @rule(seconds=st.floats(1e-4, 0.5), peak=st.one_of(st.none(), st.integers(1, 10**6)), first=st.booleans())
    def complete(self, seconds: float, peak: int | None, first: bool) -> None:
        assert self.running is not None
        self.now += seconds
        outcome = Completed(batch_id=self.running.batch_id, seconds=seconds, peak_bytes=peak, first_of_shape=first)
        settled = self.controller.report(outcome)
        assert settled.finished == self.running.items
        for item_id in settled.finished:
            self.finish(item_id)
        self.running = None

    @precondition(lambda self: self.running is not None)
    @rule()
    def fail(self) -> None:
        assert self.running is not None
        for item_id in self.controller.report(Failed(batch_id=self.running.batch_id)).finished:
            self.finish(item_id)
        self.running = None

    @precondition(lambda self: self.running is not None)
    @rule()
    def run_out_of_memory(self) -> None:
        assert self.running is not None
        batch, self.running = self.running, None
        settled = self.controller.report(OutOfMemory(batch_id=batch.batch_id, peak_bytes=None))
        assert not settled.finished
        if len(batch.items) == 1:
            assert settled.impossible == batch.items
            self.finish(batch.items[0])
            return
        assert set(settled.requeued) == set(batch.items) - self.cancelled
        for item_id in set(batch.items) & self.cancelled:
            self.finish(item_id)

    @rule(model=st.sampled_from(MODELS))
    def reload(self, model: str) -> None:
        dropped = self.controller.remove_model(model)
        aboard = set(self.running.items) if self.running is not None else set()
        mine = {item_id for item_id in self.waiting if self.items[item_id].model == model} - aboard
        assert set(dropped) == mine
        for item_id in dropped:
            self.finish(item_id)
        if self.running is not None and self.running.model == model:
            self.fail()
        self.controller.add_model(model, self.policy())

    @invariant()
    def the_books_agree(self) -> None:
        aboard = set(self.running.items) if self.running is not None else set()
        assert self.controller.num_waiting() == len(self.waiting - aboard)


TestControllerLaws = ControllerLaws.TestCase
TestControllerLaws.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
