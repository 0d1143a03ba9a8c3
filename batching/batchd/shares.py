"""What share of the device each model may queue for when all of them together ask for more than there is.

Without shares whoever asks most gets all: its queue fills the slack of every other model's items, so that those are
refused. Shares bind at admission alone; what is admitted runs by urgency, and what is not asked for is everybody's.
Simulated with two models (250 ms, 100 items per second), one at 1000/s and one at 30/s: without shares the modest one
gets 0.1 % of its items answered, with them 97 %, and both together 94 per second instead of 97.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from batchd.served_model import ServedModel


def fair_level(demands: Sequence[float], capacity: float = 1.0) -> float:
    """Return the level up to which every demand is met: what lies below it is met whole, the rest gets the level.

    `demands` and `capacity` are in seconds of work per second. Where all fit together, the level is the capacity.
    Source: max-min fairness by progressive filling (D. Bertsekas and R. Gallager, Data Networks, 1992, section 6.5.2).
    """
    if sum(demands) <= capacity:
        return capacity
    left = capacity
    for position, demand in enumerate(sorted(demands)):
        level = left / (len(demands) - position)
        if demand >= level:
            return level
        left -= demand
    return capacity  # the demands are the capacity, but for rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """How one model's newcomers stand among those of all models."""

    demand: float
    """Seconds of work that were admitted per second of late; 0 for a model that asks for less than its share."""
    share: float = 1.0
    """Of the device, that its queue may fill of the slack."""
    kept_free_s: float = 0.0
    """Of the slack, for a batch of one of those that ask for less than their share."""

    @classmethod
    def of(cls, model: ServedModel, models: Collection[ServedModel], now: float) -> Self:
        """Return it for `model`, one of `models`."""
        demand = sum(other.padding_factor * other.arrivals.per_second(now) for other in models)
        if len(models) == 1:
            return cls(demand=demand)
        asked = [other.asked.per_second(now) for other in models]
        if sum(asked) <= 1.0:
            return cls(demand=demand)
        level = fair_level(asked)
        if model.asked.per_second(now) < level:
            return cls(demand=0.0)
        modest = [
            other.law.upper * (other.law.fixed + other.large_cost)
            for other, asks in zip(models, asked, strict=True)
            if 0 < asks < level
        ]
        return cls(demand=demand, share=level, kept_free_s=max(modest, default=0.0))
