"""Additive increase, multiplicative decrease of the batch size on measured latency.

Source: D. Crankshaw et al., Clipper: a low-latency online prediction serving system, NSDI 2017.
"""

from __future__ import annotations

from batchd.baselines.queue_and_device import IDLE, QueueAndDevice, first
from batchd.decision import Admission, Decision, ReleaseReason
from batchd.item import Item, ItemId
from batchd.outcome import Completed, Outcome, Settled


class AdditiveIncrease:
    """One more item while batches run within `slo_s`, a tenth fewer when one does not. First come, no window."""

    def __init__(self, slo_s: float, max_batch_size: int) -> None:
        self._device = QueueAndDevice()
        self._slo_s = slo_s
        self._max_batch_size = max_batch_size
        self._size = 1.0

    def offer(self, item: Item, now: float) -> Admission:
        """Queue the item."""
        return self._device.offer(item)

    def cancel(self, item_id: ItemId) -> bool:
        """Forget an item that waits."""
        return self._device.cancel(item_id)

    def next(self, now: float) -> Decision:
        """Run the first items, as many as the size allows now."""
        if self._device.busy or not self._device.queue:
            return IDLE
        return self._device.launch(first(self._device.queue, int(self._size)), ReleaseReason.IDLE)

    def report(self, outcome: Outcome) -> Settled:
        """Free the device and adapt the size."""
        members, settled = self._device.settle(outcome)
        if isinstance(outcome, Completed):
            if outcome.seconds > self._slo_s:
                self._size = max(1.0, 0.9 * self._size)
            elif len(members) >= int(self._size):  # a batch that was not full says nothing about larger ones
                self._size = min(float(self._max_batch_size), self._size + 1.0)
        return settled
