"""What the device process needs of whatever decides for it, beyond a scheduler's bare decisions."""

from __future__ import annotations

from typing import Any, Protocol

from batchd.budget import MemoryReading
from batchd.item import ItemId, Shape
from batchd.policy import ModelPolicy
from batchd.scheduler import Scheduler
from batchd.snapshot import ControllerSnapshot


class DeviceScheduler(Scheduler, Protocol):
    """Models come and go, memory is read, and an operator looks on.

    `batchd.controller.Controller` is one; `batchd.baselines.Fleet`, which puts the classic rules in its place, another.
    """

    def add_model(self, name: str, policy: ModelPolicy) -> None:
        """Begin to serve a model."""
        ...

    def remove_model(self, name: str) -> tuple[ItemId, ...]:
        """Stop serving a model and return its waiting items, which are dropped."""
        ...

    def calibrate(self, name: str, batch_size: int, shape: Shape, seconds: float) -> None:
        """Hear how long a batch of equal items took that was run for measuring alone."""
        ...

    def foresee(self, name: str, batch_size: int, shape: Shape, peak_bytes: int) -> None:
        """Hear what a batch that was not run is thought to take in memory."""
        ...

    def state_dict(self, name: str) -> dict[str, Any]:
        """Return what has been learned about a model, as JSON-able values."""
        ...

    def load_state_dict(self, name: str, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        ...

    def observe(self, reading: MemoryReading) -> None:
        """Hear what the memory probes saw."""
        ...

    def drain(self) -> None:
        """Refuse what comes from now on, and run what waits without waiting for more."""
        ...

    def headroom(self) -> int | None:
        """Return the bytes that may be taken over what is resident; None where nothing tells."""
        ...

    def max_queue_size(self, name: str) -> int | None:
        """Return how many items of a model may wait; None where it is not served."""
        ...

    def snapshot(self, now: float) -> ControllerSnapshot:
        """Return how everything stands."""
        ...
