"""Seeded synthetic traffic."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from batchd.item import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One item that will be offered at `time` (seconds from the start) and must be answered `slo_s` later."""

    time: float
    shape: Shape
    slo_s: float
    priority: int = 0


def lognormal_lengths(rng: random.Random, median: float, sigma: float, low: int, high: int) -> Iterator[int]:
    """Yield lengths without end: log-normal, rounded, clipped to [low, high]."""
    location = math.log(median)
    while True:
        yield min(high, max(low, round(rng.lognormvariate(location, sigma))))


def poisson_arrivals(
    rng: random.Random, rate: float, seconds: float, lengths: Iterator[int], slo_s: float
) -> list[Arrival]:
    """Return arrivals at `rate` per second over `seconds`, one length each."""
    arrivals: list[Arrival] = []
    time = rng.expovariate(rate)
    while time < seconds:
        arrivals.append(Arrival(time=time, shape=(next(lengths),), slo_s=slo_s))
        time += rng.expovariate(rate)
    return arrivals
