"""What all baselines share: a first-come queue, one device, no refusals, nothing expires."""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchd.decision import Admission, Admitted, Decision, ReleaseReason, RunBatch, Wait
from batchd.item import BatchId, Item, ItemId, Shape, num_elements
from batchd.outcome import Completed, Failed, Outcome, OutOfMemory, Settled


class QueueAndDevice:
    """Items in order of arrival, and the batch that runs. A rule only chooses; this launches and settles."""

    def __init__(self) -> None:
        self.queue: dict[ItemId, Item] = {}  # in order of arrival
        self._running: tuple[BatchId, tuple[Item, ...]] | None = None
        self._next_batch = 0

    @property
    def busy(self) -> bool:
        """Whether a batch is on the device."""
        return self._running is not None

    def offer(self, item: Item) -> Admission:
        """Queue an item, whatever its chances."""
        self.queue[item.id] = item
        return Admitted(math.inf)

    def cancel(self, item_id: ItemId) -> bool:
        """Forget an item that waits."""
        return self.queue.pop(item_id, None) is not None

    def launch(self, members: Sequence[Item], reason: ReleaseReason) -> RunBatch:
        """Take `members` out of the queue and pad them to the largest of them in every dimension."""
        for item in members:
            del self.queue[item.id]
        batch_id = BatchId(self._next_batch)
        self._next_batch += 1
        self._running = (batch_id, tuple(members))
        return plain_batch(batch_id, members, largest_shape(members), reason, queued_after=len(self.queue))

    def settle(self, outcome: Outcome) -> tuple[tuple[Item, ...], Settled]:
        """Free the device; return the batch and what became of its items.

        Raises:
            ValueError: that batch does not run.
        """
        if self._running is None or self._running[0] != outcome.batch_id:
            raise ValueError(f"batch {outcome.batch_id} is not running")
        members = self._running[1]
        self._running = None
        ids = tuple(item.id for item in members)
        match outcome:
            case Completed() | Failed():
                return members, Settled(finished=ids)
            case OutOfMemory():
                return members, Settled(impossible=ids)  # the classic rules fail the whole batch


def largest_shape(members: Sequence[Item]) -> Shape:
    """Return the smallest shape that holds every member; no dimension is 0."""
    return tuple(max(1, *sizes) for sizes in zip(*(item.shape for item in members), strict=True))


def plain_batch(
    batch_id: BatchId, members: Sequence[Item], padded_shape: Shape | None, reason: ReleaseReason, *, queued_after: int
) -> RunBatch:
    """Return a batch that nothing was predicted for; without a padded shape the items lie end to end."""
    carried = sum(num_elements(item.shape) for item in members)
    elements = carried if padded_shape is None else len(members) * num_elements(padded_shape)
    return RunBatch(
        batch_id=batch_id,
        model=members[0].model,
        items=tuple(item.id for item in members),
        padded_shape=padded_shape,
        elements=elements,
        predicted_s=None,
        predicted_upper_s=None,
        predicted_bytes=None,
        padding_ratio=1.0 - carried / elements if elements else 0.0,
        reason=reason,
        queued_after=queued_after,
    )


def release_first_come(
    waiting: Sequence[Item], size: int, window_s: float, now: float
) -> tuple[Sequence[Item], ReleaseReason] | Wait:
    """Take the first `size` once there are so many or the first has waited for the window."""
    if len(waiting) >= size:
        return waiting[:size], ReleaseReason.FULL
    closes = waiting[0].arrived + window_s
    if closes <= now:
        return waiting, ReleaseReason.WINDOW
    return Wait(closes)


def first(queue: dict[ItemId, Item], count: int) -> list[Item]:
    """Return the first `count` items of a queue."""
    return [item for item, _ in zip(queue.values(), range(count), strict=False)]


IDLE: Decision = Wait(math.inf)
