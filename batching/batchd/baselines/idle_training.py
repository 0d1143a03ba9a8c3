"""Training in idle gaps only: what a scheduler that knows nothing of training leaves over."""

from __future__ import annotations

import math

from batchd.decision import Admission, Decision, RunMicrobatch, Wait
from batchd.item import BatchId, Item, ItemId
from batchd.leasing.demand import Demand
from batchd.outcome import Outcome, Settled
from batchd.scheduler import Scheduler


class IdleTraining:
    """Wraps a scheduler, and runs microbatches of a fixed size whenever it would have the device wait."""

    def __init__(self, scheduler: Scheduler, microbatch_size: int) -> None:
        self._scheduler = scheduler
        self._microbatch_size = microbatch_size
        self._demand: Demand | None = None
        self._training: BatchId | None = None
        self._next_id = -1  # negative, so that it is none of the scheduler's

    def demand(self, demand: Demand | None) -> None:
        """Say what to train, or that nothing is to be trained."""
        self._demand = demand

    def offer(self, item: Item, now: float) -> Admission:
        """Offer to the scheduler."""
        return self._scheduler.offer(item, now)

    def cancel(self, item_id: ItemId) -> bool:
        """Cancel with the scheduler."""
        return self._scheduler.cancel(item_id)

    def next(self, now: float) -> Decision:
        """Run what the scheduler wants run, else a microbatch."""
        if self._training is not None:
            return Wait(math.inf)
        decision = self._scheduler.next(now)
        if self._demand is None or not isinstance(decision, Wait):
            return decision
        self._training = BatchId(self._next_id)
        self._next_id -= 1
        return RunMicrobatch(
            batch_id=self._training,
            tenant="idle",
            quantum=self._demand.quantum,
            items=min(self._microbatch_size, self._demand.items),
            elements=self._demand.elements,
            predicted_s=None,
            predicted_upper_s=None,
            predicted_bytes=None,
            slack_s=0.0,
            queued_after=0,
        )

    def report(self, outcome: Outcome) -> Settled:
        """Pass on what is the scheduler's."""
        if outcome.batch_id == self._training:
            self._training = None
            return Settled()
        return self._scheduler.report(outcome)
