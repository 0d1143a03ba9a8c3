"""What an operator may set about the batching of one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from batchd.item import Shape
from batchd.ladder import Ladder, Proportional


class Window(StrEnum):
    """How long an idle device waits for more items."""

    ADAPTIVE = "adaptive"
    FIXED = "fixed"


class PadTo(StrEnum):
    """What the items of a batch are padded to."""

    LONGEST = "longest"  # the largest of them: least padding
    RUNG = "rung"  # the ladder's next rung: shapes recur, for compiled models


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """Limits and promises of one model. Times in seconds.

    Raises:
        ValueError: where a limit is not positive, or a default lies outside its range.
    """

    slo_s: float = 1.0
    """Deadline of a request that names none, counted from its arrival."""
    max_batch_size: int = 64
    max_batch_elements: int | None = None
    """Cap on batch size x padded elements of one item; None = bounded by memory alone."""
    max_item_elements: int | None = None
    """Largest item that is admitted; None = bounded by memory alone."""
    max_queue_size: int = 2048
    """Items that may wait; more are refused."""
    window: Window = Window.ADAPTIVE
    max_wait_s: float = 0.005
    """Fixed window: hold the first item this long. Adaptive window: never hold one longer."""
    priority_levels: int = 3
    default_priority: int = 2
    ladder: Ladder = field(default_factory=Proportional)
    """Items are grouped by the rung that holds them."""
    pad_to: PadTo = PadTo.LONGEST

    def padded(self, shape: Shape) -> Shape:
        """Return what a batch is padded to whose largest item has `shape`."""
        return self.ladder.padded(shape) if self.pad_to is PadTo.RUNG else tuple(max(1, size) for size in shape)

    def __post_init__(self) -> None:
        positive = {
            "slo_s": self.slo_s,
            "max_batch_size": self.max_batch_size,
            "max_batch_elements": self.max_batch_elements,
            "max_item_elements": self.max_item_elements,
            "max_queue_size": self.max_queue_size,
            "priority_levels": self.priority_levels,
        }
        for name, value in positive.items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.max_wait_s < 0:
            raise ValueError(f"max_wait_s must not be negative, got {self.max_wait_s}")
        if not 1 <= self.default_priority <= self.priority_levels:
            raise ValueError(f"default_priority must be in 1..{self.priority_levels}, got {self.default_priority}")
