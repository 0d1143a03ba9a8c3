"""The partition of the queue that minimises the total time, by dynamic programming over sizes.

Source: J. Fang et al., TurboTransformers: an efficient GPU serving system for transformer models, PPoPP 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from batchd.baselines.queue_and_device import IDLE, QueueAndDevice, first
from batchd.decision import Admission, Decision, ReleaseReason
from batchd.item import Item, ItemId, num_elements
from batchd.latency_model import LatencyModel
from batchd.load import Load
from batchd.outcome import Completed, Outcome, Settled

PLANNED = 256
"""Items per plan, the oldest first: the plan's cost grows with the items times the batch size."""


class TotalTime:
    """Plans the whole queue, runs the plan batch by batch, and plans again when it is through."""

    def __init__(self, max_batch_size: int) -> None:
        self._device = QueueAndDevice()
        self._max_batch_size = max_batch_size
        self._latency = LatencyModel()
        self._plan: list[list[Item]] = []

    def offer(self, item: Item, now: float) -> Admission:
        """Queue the item."""
        return self._device.offer(item)

    def cancel(self, item_id: ItemId) -> bool:
        """Forget an item that waits."""
        return self._device.cancel(item_id)

    def next(self, now: float) -> Decision:
        """Run the next batch of the plan."""
        if self._device.busy or not self._device.queue:
            return IDLE
        while True:
            if not self._plan:
                oldest = first(self._device.queue, PLANNED)
                self._plan = partition(oldest, self._max_batch_size, self._predict)
            batch = [item for item in self._plan.pop(0) if item.id in self._device.queue]
            if batch:
                return self._device.launch(batch, ReleaseReason.IDLE)

    def report(self, outcome: Outcome) -> Settled:
        """Free the device and learn the batch's time."""
        members, settled = self._device.settle(outcome)
        if isinstance(outcome, Completed):
            largest = max(num_elements(item.shape) for item in members)
            self._latency.observe(Load.padded(len(members), largest), outcome.seconds)
        return settled

    def _predict(self, batch_size: int, elements: int) -> float:
        predicted = self._latency.predict(Load.padded(batch_size, elements))
        return float(elements * batch_size) if predicted is None else predicted


def partition(items: list[Item], max_batch_size: int, cost: Callable[[int, int], float]) -> list[list[Item]]:
    """Return batches of `items` with the least total cost, each contiguous in order of size, the earliest item first.

    `cost(batch_size, elements)` must not fall as either grows. O(n * max_batch_size).
    """
    ordered = sorted(items, key=lambda item: num_elements(item.shape))
    best = [0.0] + [math.inf] * len(ordered)
    cut = [0] * (len(ordered) + 1)
    for end in range(1, len(ordered) + 1):
        elements = num_elements(ordered[end - 1].shape)
        for begin in range(max(0, end - max_batch_size), end):
            total = best[begin] + cost(end - begin, elements)
            if total < best[end]:
                best[end], cut[end] = total, begin
    batches: list[list[Item]] = []
    end = len(ordered)
    while end > 0:
        batches.append(ordered[cut[end] : end])
        end = cut[end]
    return sorted(batches, key=lambda batch: min(item.arrived for item in batch))
