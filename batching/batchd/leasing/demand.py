"""What a training tenant wants to run next, and what an operator allows to training as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Quantum(StrEnum):
    """A kind of work that holds the device without a break. Costs are learned for each kind of each tenant."""

    MICROBATCH = "microbatch"  # forward and backward of some items: the only one that can be made smaller
    STEP = "step"  # the optimizer's update
    CHECKPOINT = "checkpoint"
    EXTERNAL = "external"  # whatever a process of its own does with the device


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The next work of a tenant. It stands until it is replaced or withdrawn.

    Raises:
        ValueError: sizes are not positive, or something indivisible has more than one item.
    """

    quantum: Quantum = Quantum.MICROBATCH
    items: int = 1
    """Items left of the global batch: the most that may run at once."""
    elements: int = 1
    """Padded elements of each."""
    expected_s: float | None = None
    """Seconds that the tenant itself expects, used until its work has been measured."""

    def __post_init__(self) -> None:
        if self.items < 1 or self.elements < 1:
            raise ValueError(f"items and elements must be at least 1, got {self.items} and {self.elements}")
        if self.quantum is not Quantum.MICROBATCH and self.items != 1:
            raise ValueError(f"a {self.quantum} cannot be divided: items must be 1, got {self.items}")
        if self.expected_s is not None and self.expected_s <= 0:
            raise ValueError(f"expected_s must be positive, got {self.expected_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPolicy:
    """What training may take of the device.

    Raises:
        ValueError: a share is outside its range.
    """

    priority: float = 1.0
    """0: only while nothing waits. 1: all the time that the waiting items' deadlines leave."""
    share_max: float = 1.0
    """Largest share of the device's time, over about `SHARE_WINDOW_S`."""
    safety: float = 0.9
    """Share of an SLO that plans may use up; the rest is for what nobody foresaw."""

    def __post_init__(self) -> None:
        if not 0 <= self.priority <= 1:
            raise ValueError(f"priority must be in [0, 1], got {self.priority}")
        if not 0 < self.share_max <= 1:
            raise ValueError(f"share_max must be in (0, 1], got {self.share_max}")
        if not 0 < self.safety < 1:
            raise ValueError(f"safety must be in (0, 1), got {self.safety}")
