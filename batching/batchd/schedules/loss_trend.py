"""Schedules that watch the training loss, epoch by epoch.

A loss that falls says that the size may grow; one that rises asks for more noise. All compare relative changes, so that
the scale of the loss does not matter, and all want several signals in a row: early in training the loss always falls,
and without patience that is a ratchet to the largest size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from batchd.parameters import NotNegative, Positive, Range, Share
from batchd.schedules.schedule import Need, Proposal, Unit
from batchd.schedules.step_stats import StepStats
from batchd.schedules.stepwise import Stepwise

LARGEST = 1e150  # a loss beyond this counts as this: squares stay finite


@dataclass(kw_only=True)
class LossTrend(Stepwise):
    """Compares a change of the loss with a threshold."""

    unit: ClassVar[Unit] = "epoch"
    needs: ClassVar[frozenset[Need]] = frozenset({"loss"})

    threshold: NotNegative = 0.01
    """Relative changes up to this are none."""
    falling: Literal["up", "down"] = "up"
    """Where a falling loss moves the size."""
    floor: Positive = 1e-8
    """What a change is relative to at least: losses may be 0 or negative."""

    def _judged(self, stats: StepStats, change: float, reference: float) -> Proposal:
        relative = change / max(abs(reference), self.floor)
        why = f"loss changed by {100 * relative:.3g} %"
        if abs(relative) <= self.threshold:
            return self._moved(stats, 0, 0.0, why)
        direction = 1 if (relative < 0) == (self.falling == "up") else -1
        return self._moved(stats, direction, abs(relative), why)


@dataclass(kw_only=True)
class LossDifference(LossTrend):
    """The change since the previous epoch."""

    name: ClassVar = "loss_difference"

    previous: float | None = field(init=False, default=None)

    def _next(self, stats: StepStats) -> Proposal:
        loss, previous = _bounded(stats.loss), self.previous
        self.previous = loss
        if previous is None:
            return self._moved(stats, 0, 0.0, "first loss")
        return self._judged(stats, loss - previous, previous)


@dataclass(kw_only=True)
class LossMovingAverage(LossTrend):
    """The change of an exponential moving average: `alpha * (loss - average)`."""

    name: ClassVar = "loss_moving_average"

    alpha: Share = 0.3

    average: float | None = field(init=False, default=None)

    def _next(self, stats: StepStats) -> Proposal:
        loss, average = _bounded(stats.loss), self.average
        if average is None:
            self.average = loss
            return self._moved(stats, 0, 0.0, "first loss")
        change = self.alpha * (loss - average)
        self.average = average + change
        return self._judged(stats, change, average)


@dataclass(kw_only=True)
class LossVariance(Stepwise):
    """How much the loss scatters in a window of epochs: calm losses move the size up, scattered ones down.

    Judged is the coefficient of variation, between two thresholds (hysteresis). The trend is taken out first, else
    converging fast looks like scattering. A larger batch averages its own scatter away, which would raise it further:
    so each square is multiplied by its size / the smallest size, unless `size_corrected` is off.
    """

    name: ClassVar = "loss_variance"
    unit: ClassVar[Unit] = "epoch"
    needs: ClassVar[frozenset[Need]] = frozenset({"loss"})

    window: Annotated[int, Range(at_least=3, at_most=1000)] = 5
    low: NotNegative = 0.01
    high: Positive = 0.1
    detrend: bool = True
    size_corrected: bool = True
    floor: Positive = 1e-8

    losses: list[float] = field(init=False, default_factory=list[float])
    sizes: list[int] = field(init=False, default_factory=list[int])

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ValueError(f"low must be below high = {self.high}, got {self.low}")

    def _next(self, stats: StepStats) -> Proposal:
        self.losses = [*self.losses, _bounded(stats.loss)][-self.window :]
        self.sizes = [*self.sizes, int(self.bounds.clamp(stats.batch_size))][-self.window :]
        if len(self.losses) < self.window:
            return self._moved(stats, 0, 0.0, f"{len(self.losses)} of {self.window} losses")
        weights = [size / self.bounds.min_size for size in self.sizes] if self.size_corrected else None
        scatter = math.sqrt(loss_variance(self.losses, detrend=self.detrend, weights=weights))
        variation = scatter / max(abs(float(np.mean(self.losses))), self.floor)
        why = f"coefficient of variation {variation:.3g}"
        if variation < self.low:
            return self._moved(stats, 1, self.low - variation, why)
        if variation > self.high:
            return self._moved(stats, -1, variation - self.high, why)
        return self._moved(stats, 0, 0.0, why)


def loss_variance(losses: list[float], *, detrend: bool, weights: list[float] | None = None) -> float:
    """Return the mean (weighted) square of deviations from the mean, or from the least-squares line.

    A pure line of slope s over K losses has the variance s**2 * (K**2 - 1) / 12, and 0 without its trend.
    """
    values = np.asarray(losses, dtype=np.float64)
    deviations = values - values.mean()
    if detrend:
        places = np.arange(len(values)) - (len(values) - 1) / 2
        deviations = deviations - places * float(places @ deviations) / float(places @ places)
    squares = deviations**2 if weights is None else deviations**2 * np.asarray(weights, dtype=np.float64)
    return float(squares.mean())


def _bounded(loss: float) -> float:
    return min(max(loss, -LARGEST), LARGEST)
