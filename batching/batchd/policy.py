"""What an operator may set about the batching of one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from batchd.item import Shape
from batchd.ladder import Ladder, Proportional

FIXED_WINDOW_S = 0.005
"""A fixed window's length where the policy does not say."""


class Window(StrEnum):
    """How long an idle device waits for more items."""

    ADAPTIVE = "adaptive"
    FIXED = "fixed"


class PadTo(StrEnum):
    """What the items of a batch are padded to."""

    LONGEST = "longest"  # the largest of them: least padding
    RUNG = "rung"  # the ladder's next rung: shapes recur, for compiled models


class Layout(StrEnum):
    """How the items of a batch lie in memory."""

    PADDED = "padded"  # side by side, every one as long as the longest
    RAGGED = "ragged"  # end to end, with offsets: no padding, only the sum of the elements counts


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
    """Cap on a batch's elements, padding included; None = bounded by memory alone."""
    max_item_elements: int | None = None
    """Largest item that is admitted; None = bounded by memory alone."""
    max_queue_size: int = 2048
    """Items that may wait; more are refused."""
    window: Window = Window.ADAPTIVE
    max_wait_s: float | None = None
    """Fixed window: hold the first item this long (None = 5 ms). Adaptive window: no item waits longer than this for
    training's sake (None = as long as its deadline allows)."""
    priority_levels: int = 3
    default_priority: int = 2
    ladder: Ladder = field(default_factory=Proportional)
    """Items are grouped by the rung that holds them."""
    pad_to: PadTo = PadTo.LONGEST
    layout: Layout = Layout.PADDED
    """Ragged: ladder and `pad_to` do not matter."""

    @property
    def fixed_window_s(self) -> float:
        """How long a fixed window holds its first item."""
        return FIXED_WINDOW_S if self.max_wait_s is None else self.max_wait_s

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
        if self.max_wait_s is not None and self.max_wait_s < 0:
            raise ValueError(f"max_wait_s must not be negative, got {self.max_wait_s}")
        if not 1 <= self.default_priority <= self.priority_levels:
            raise ValueError(f"default_priority must be in 1..{self.priority_levels}, got {self.default_priority}")
