"""First come, first served, in batches of a fixed size or after a fixed time: what most servers do."""

from __future__ import annotations

from batchd.baselines.queue_and_device import IDLE, QueueAndDevice, first, release_first_come
from batchd.decision import Admission, Decision, Wait
from batchd.item import Item, ItemId
from batchd.outcome import Outcome, Settled


class FixedWindow:
    """Batches of `max_batch_size`, or of what is there `window_s` after the oldest arrived."""

    def __init__(self, window_s: float, max_batch_size: int) -> None:
        self._device = QueueAndDevice()
        self._window_s = window_s
        self._max_batch_size = max_batch_size

    def offer(self, item: Item, now: float) -> Admission:
        """Queue the item."""
        return self._device.offer(item)

    def cancel(self, item_id: ItemId) -> bool:
        """Forget an item that waits."""
        return self._device.cancel(item_id)

    def next(self, now: float) -> Decision:
        """Release the window's batch."""
        if self._device.busy or not self._device.queue:
            return IDLE
        waiting = first(self._device.queue, self._max_batch_size)
        released = release_first_come(waiting, self._max_batch_size, self._window_s, now)
        return released if isinstance(released, Wait) else self._device.launch(*released)

    def report(self, outcome: Outcome) -> Settled:
        """Free the device."""
        return self._device.settle(outcome)[1]
