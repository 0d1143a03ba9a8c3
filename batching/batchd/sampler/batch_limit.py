"""How many examples a batch may hold: a number, or as many as an element budget covers, padding included."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np

from batchd.sampler.example_sizes import IntArray, elements_of


class Oversize(StrEnum):
    """What becomes of an example that exceeds the element budget by itself."""

    ALONE = "alone"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementBudget:
    """At most `elements` padded elements per batch: the padded shape times the examples, not the sum of their sizes.

    `max_items` bounds the examples as well: hundreds of tiny ones run out of memory on what each costs whatever its
    size. An example beyond the budget gets a batch of its own, or is refused, as `oversize` says.
    """

    elements: int
    max_items: int | None = None
    oversize: Oversize = Oversize.ALONE

    def __post_init__(self) -> None:
        if self.elements < 1 or (self.max_items is not None and self.max_items < 1):
            raise ValueError(f"elements and max_items must be at least 1, got {self.elements} and {self.max_items}")


BatchLimit: TypeAlias = int | ElementBudget


def check_limit(limit: BatchLimit) -> None:
    """Make sure that a batch may hold something.

    Raises:
        ValueError: a batch size below 1.
    """
    if isinstance(limit, int) and limit < 1:
        raise ValueError(f"the batch size must be at least 1, got {limit}")


def capacities(limit: BatchLimit, bucket_shapes: IntArray) -> IntArray:
    """Return the most examples that a batch of each bucket may hold; 1 where not even one is within the budget."""
    if isinstance(limit, int):
        return np.full(len(bucket_shapes), limit, dtype=np.int64)
    # Without max_items, no bucket holds more examples than the budget has elements.
    most: IntArray = np.clip(limit.elements // elements_of(bucket_shapes), 1, limit.max_items or limit.elements)
    return most
