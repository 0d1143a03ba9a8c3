"""What drives a device: the controller, and the classic rules that it is measured against."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from batchd.budget import MemoryReading
from batchd.decision import Admission, Decision
from batchd.item import Item, ItemId
from batchd.outcome import Outcome, Settled


class Scheduler(Protocol):
    """Decides what one device runs next. `batchd.controller.Controller` is one."""

    def offer(self, item: Item, now: float) -> Admission:
        """Admit or refuse an item."""
        ...

    def cancel(self, item_id: ItemId) -> bool:
        """Forget an item; return whether it still waited."""
        ...

    def next(self, now: float) -> Decision:
        """Decide what the free device does now."""
        ...

    def report(self, outcome: Outcome) -> Settled:
        """Learn how the batch went."""
        ...


@runtime_checkable
class MemoryObserver(Protocol):
    """A scheduler that wants to know how much memory is free."""

    def observe(self, reading: MemoryReading) -> None:
        """Hear what the memory probes saw."""
        ...
