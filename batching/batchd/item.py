"""What waits to be served: one item, and the sizes that batching cares about.

This module must not know how an item travels or what its tensors hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NewType, TypeAlias

ItemId = NewType("ItemId", int)
BatchId = NewType("BatchId", int)

Shape: TypeAlias = tuple[int, ...]
"""An item's variable dimensions: `(L,)` for text, `(H, W)` for images, `()` when nothing varies."""

DEFAULT_PRIORITY = 0
"""Stands for a model's default level (Open Inference Protocol: 0 = default, 1 = highest, larger = lower)."""


def num_elements(shape: Shape) -> int:
    """Return the elements of one item of `shape`; 1 for the empty shape."""
    return math.prod(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One example that waits for a place in a batch. Times are monotonic seconds."""

    id: ItemId
    model: str
    shape: Shape
    arrived: float
    deadline: float
    priority: int = DEFAULT_PRIORITY
    alone: bool = False
    """Shares its batch with nobody: it may be what ends whatever runs it."""
    accepted: bool = False
    """Was let in before, by a device process that is gone: neither a full queue nor a long one refuses it any more."""
