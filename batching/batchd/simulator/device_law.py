"""What a batch costs on the simulated device, in seconds and bytes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise

from batchd.latency_model import Weights
from batchd.load import Load
from batchd.simulator.device_memory import DeviceMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdown:
    """From `begins` on everything takes `factor` times as long, until the next one begins."""

    begins: float
    factor: float

    def __post_init__(self) -> None:
        if self.begins < 0 or not 0 < self.factor < math.inf:
            raise ValueError("a slowdown begins at 0 or later, and its factor is positive")


@dataclass(frozen=True, slots=True)
class DeviceRun:
    """How a batch goes."""

    seconds: float
    peak_bytes: int | None  # None where the device's memory is unlimited
    fits: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLaw:
    """Seconds of a batch of B items, each padded to E elements, as the sum of two laws.

    The analytic one, `fixed + per_element * max(B * E, charged_at_least) * (1 + E / square_length)`, and the terms that
    only the latency model has, `per_item * B + per_square * B * E^2 + per_volume_square * (B * E)^2`. `noise` is the
    sigma of a log-normal factor with median 1.
    """

    fixed: float
    per_element: float
    square_length: float = math.inf
    charged_at_least: int = 0
    noise: float = 0.0
    per_item: float = 0.0
    per_square: float = 0.0
    per_volume_square: float = 0.0
    slowdowns: tuple[Slowdown, ...] = ()
    memory: DeviceMemory | None = None
    """None: there is always enough."""

    def __post_init__(self) -> None:
        seconds = (self.fixed, self.per_element, self.per_item, self.per_square, self.per_volume_square)
        if min(seconds) < 0 or sum(seconds) == 0:
            raise ValueError("the cost's seconds must not be negative, and not all 0")
        if self.square_length <= 0 or self.charged_at_least < 0 or self.noise < 0:
            raise ValueError("square length must be positive, tokens charged and noise not negative")
        if any(later.begins <= earlier.begins for earlier, later in pairwise(self.slowdowns)):
            raise ValueError("slowdowns must be in order of time")

    @classmethod
    def learned(cls, weights: Weights, noise: float = 0.0) -> DeviceLaw:
        """Return the law that a latency model's `weights` stand for."""
        fixed, per_item, per_element, per_square, per_volume_square = weights
        return cls(
            fixed=fixed,
            per_item=per_item,
            per_element=per_element,
            per_square=per_square,
            per_volume_square=per_volume_square,
            noise=noise,
        )

    def exact_seconds(self, batch_size: int, elements: int) -> float:
        """Return how long a batch takes without noise, before any slowdown."""
        return self.exact_seconds_of(Load.padded(batch_size, elements))

    def exact_seconds_of(self, load: Load) -> float:
        """Return the same for any load; where items lie end to end, E is their mean weighted by their elements."""
        charged = max(load.elements, self.charged_at_least)
        length = load.squares / load.elements if load.elements else 0.0
        analytic = self.fixed + self.per_element * charged * (1 + length / self.square_length)
        bend = self.per_square * load.squares + self.per_volume_square * load.elements * load.elements
        return analytic + self.per_item * load.batch_size + bend

    def seconds(self, batch_size: int, elements: int, rng: random.Random) -> float:
        """Return how long one batch takes, before any slowdown."""
        return self.seconds_of(Load.padded(batch_size, elements), rng)

    def seconds_of(self, load: Load, rng: random.Random) -> float:
        """Return how long one batch of any load takes, before any slowdown."""
        time = self.exact_seconds_of(load)
        return time * rng.lognormvariate(0.0, self.noise) if self.noise else time

    def run(self, load: Load, now: float, rng: random.Random) -> DeviceRun:
        """Return how a batch goes that is launched at `now`.

        One that does not fit runs for the share of its time after which memory is used up, growing evenly.
        """
        seconds = self.seconds_of(load, rng) * self.factor(now)
        if self.memory is None:
            return DeviceRun(seconds, None)
        peak, free = self.memory.peak_bytes_of(load), self.memory.free(now)
        return DeviceRun(seconds, peak) if peak <= free else DeviceRun(seconds * free / peak, free, fits=False)

    def factor(self, now: float) -> float:
        """Return how many times as long everything takes at `now`."""
        begun = [slowdown.factor for slowdown in self.slowdowns if slowdown.begins <= now]
        return begun[-1] if begun else 1.0
