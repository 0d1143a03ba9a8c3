"""A fixed window per bucket of sizes: the textbook's bucketed padding, put into a server."""

from __future__ import annotations

from bisect import bisect_left

from batchd.baselines.queue_and_device import IDLE, QueueAndDevice, release_first_come
from batchd.decision import Admission, Decision, Wait
from batchd.item import Item, ItemId, num_elements
from batchd.outcome import Outcome, Settled


class FixedBuckets:
    """Items of up to `edges[i]` elements share bucket i; what is larger has one more bucket."""

    def __init__(self, edges: tuple[int, ...], window_s: float, max_batch_size: int) -> None:
        self._device = QueueAndDevice()
        self._edges = edges
        self._window_s = window_s
        self._max_batch_size = max_batch_size
        self._buckets: list[dict[ItemId, Item]] = [{} for _ in range(len(edges) + 1)]

    def offer(self, item: Item, now: float) -> Admission:
        """Queue the item in its bucket."""
        self._bucket(item)[item.id] = item
        return self._device.offer(item)

    def cancel(self, item_id: ItemId) -> bool:
        """Forget an item that waits."""
        item = self._device.queue.get(item_id)
        if item is not None:
            del self._bucket(item)[item_id]
        return self._device.cancel(item_id)

    def next(self, now: float) -> Decision:
        """Release the bucket whose oldest item has waited longest, if its window is over or it is full."""
        if self._device.busy or not self._device.queue:
            return IDLE
        until = Wait(float("inf"))
        for bucket in sorted(filter(None, self._buckets), key=_oldest):
            released = release_first_come(list(bucket.values()), self._max_batch_size, self._window_s, now)
            if not isinstance(released, Wait):
                for item in released[0]:
                    del bucket[item.id]
                return self._device.launch(*released)
            until = min(until, released, key=lambda wait: wait.until)
        return until

    def report(self, outcome: Outcome) -> Settled:
        """Free the device."""
        return self._device.settle(outcome)[1]

    def _bucket(self, item: Item) -> dict[ItemId, Item]:
        return self._buckets[bisect_left(self._edges, num_elements(item.shape))]


def _oldest(bucket: dict[ItemId, Item]) -> float:
    return next(iter(bucket.values())).arrived
