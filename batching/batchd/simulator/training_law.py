"""A training job on the simulated device: it never ends, and its quanta follow a law of time of their own."""

from __future__ import annotations

import random
from dataclasses import dataclass

from batchd.leasing.demand import Demand

TENANT = "simulated training"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLaw:
    """Seconds of a microbatch: `fixed + per_item * items`, times a log-normal factor of sigma `noise`.

    `items` is the global batch: no microbatch has more. Without leases a microbatch has `idle_items` of them.
    """

    fixed: float = 0.0002
    per_item: float = 0.0002
    items: int = 256
    idle_items: int = 16
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.fixed < 0 or self.per_item < 0 or self.fixed + self.per_item == 0:
            raise ValueError("the seconds of training must not be negative, and not both 0")
        if self.items < 1 or self.idle_items < 1:
            raise ValueError("a microbatch has at least one item")

    def seconds(self, items: int, rng: random.Random) -> float:
        """Return how long one microbatch takes."""
        time = self.fixed + self.per_item * items
        return time * rng.lognormvariate(0.0, self.noise) if self.noise else time

    @property
    def demand(self) -> Demand:
        """What the job wants, always."""
        return Demand(items=self.items)
