"""Seeded synthetic traffic: when items come, and how large they are."""

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


def bimodal_lengths(rng: random.Random, share: float, low: tuple[int, int], high: tuple[int, int]) -> Iterator[int]:
    """Yield lengths without end: uniform in `low` with probability `share`, else uniform in `high`."""
    while True:
        yield rng.randint(*(low if rng.random() < share else high))


def poisson_arrivals(
    rng: random.Random, rate: float, seconds: float, lengths: Iterator[int], slo_s: float
) -> list[Arrival]:
    """Return arrivals at `rate` per second over `seconds`, one length each."""
    return [Arrival(time=time, shape=(next(lengths),), slo_s=slo_s) for time in _poisson(rng, rate, 0.0, seconds)]


def bursty_arrivals(
    rng: random.Random, rate: float, seconds: float, lengths: Iterator[int], slo_s: float, *, burst: float = 4.0
) -> list[Arrival]:
    """Return arrivals of a two-state Markov-modulated Poisson process with mean `rate`.

    Bursts at `burst` times the mean rate hold for 0.5 s on average, a fifth of the time that their counterweight holds.
    """
    on_s, off_s = 0.5, 2.5
    calm = max(0.0, rate * (on_s + off_s - burst * on_s) / off_s)
    arrivals: list[Arrival] = []
    begin, bursting = 0.0, False
    while begin < seconds:
        end = min(seconds, begin + rng.expovariate(1.0 / (on_s if bursting else off_s)))
        current = burst * rate if bursting else calm
        arrivals += [
            Arrival(time=time, shape=(next(lengths),), slo_s=slo_s) for time in _poisson(rng, current, begin, end)
        ]
        begin, bursting = end, not bursting
    return arrivals


def diurnal_arrivals(
    rng: random.Random, rate: float, seconds: float, lengths: Iterator[int], slo_s: float, *, swing: float = 0.8
) -> list[Arrival]:
    """Return Poisson arrivals whose rate follows one wave, between 1 - swing and 1 + swing times `rate`."""
    peak = rate * (1 + swing)
    arrivals: list[Arrival] = []
    for time in _poisson(rng, peak, 0.0, seconds):  # thinning: Lewis and Shedler, 1979
        current = rate * (1 - swing * math.cos(2 * math.pi * time / seconds))
        if rng.random() * peak < current:
            arrivals.append(Arrival(time=time, shape=(next(lengths),), slo_s=slo_s))
    return arrivals


def _poisson(rng: random.Random, rate: float, begin: float, end: float) -> Iterator[float]:
    if rate <= 0:
        return
    time = begin + rng.expovariate(rate)
    while time < end:
        yield time
        time += rng.expovariate(rate)
