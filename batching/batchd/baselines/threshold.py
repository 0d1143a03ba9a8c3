"""A batch size that follows the device's memory between two marks.

The textbook's dynamic batch size: fewer items above the high mark, more below the low one, the same in between, so
that it does not swing (hysteresis). It knows memory only after the fact, and nothing of how long a batch runs.
"""

from __future__ import annotations

from batchd.baselines.queue_and_device import IDLE, QueueAndDevice, first
from batchd.budget import MemoryReading
from batchd.decision import Admission, Decision, ReleaseReason
from batchd.item import Item, ItemId
from batchd.outcome import Completed, Outcome, OutOfMemory, Settled

SHRINK = 0.75
STEP = 2.0


class MemoryThreshold:
    """A quarter fewer items where memory use passes `high`, two more where it is under `low`, half after an OOM.

    Marks are shares of the device's memory, 0 < low < high <= 1. First come, no window; begins with `size`.
    """

    def __init__(self, low: float, high: float, size: int, max_batch_size: int) -> None:
        self._device = QueueAndDevice()
        self._low = low
        self._high = high
        self._max_batch_size = max_batch_size
        self._size = float(min(size, max_batch_size))
        self._reading = MemoryReading()

    def offer(self, item: Item, now: float) -> Admission:
        """Queue the item."""
        return self._device.offer(item)

    def cancel(self, item_id: ItemId) -> bool:
        """Forget an item that waits."""
        return self._device.cancel(item_id)

    def observe(self, reading: MemoryReading) -> None:
        """Take over what the memory probes saw."""
        self._reading = reading

    def next(self, now: float) -> Decision:
        """Run the first items, as many as the size allows now."""
        if self._device.busy or not self._device.queue:
            return IDLE
        return self._device.launch(first(self._device.queue, int(self._size)), ReleaseReason.IDLE)

    def report(self, outcome: Outcome) -> Settled:
        """Free the device and adapt the size."""
        members, settled = self._device.settle(outcome)
        if isinstance(outcome, OutOfMemory):
            self._size = max(1.0, len(members) / 2)
        elif isinstance(outcome, Completed):
            used = memory_use(self._reading, outcome.peak_bytes)
            if used is not None and used > self._high:
                self._size = max(1.0, SHRINK * self._size)
            elif used is not None and used < self._low and len(members) >= int(self._size):
                # a batch that was not full says nothing about larger ones
                self._size = min(float(self._max_batch_size), self._size + STEP)
        return settled


def memory_use(reading: MemoryReading, peak_bytes: int | None) -> float | None:
    """Return the share of the device's memory in use while a batch ran; None where the total is unknown.

    Others' memory, what is resident here, and the batch's peak over it; what the allocator only caches is not in use.
    """
    if not reading.total:
        return None
    resident = reading.allocated or 0
    others = 0
    if reading.device_free is not None:
        others = max(0, reading.total - reading.device_free - max(reading.reserved or 0, resident))
    return (others + resident + (peak_bytes or 0)) / reading.total
