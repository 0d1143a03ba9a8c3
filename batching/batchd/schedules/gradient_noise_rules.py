"""Schedules that read the gradient's noise. One estimator, `batchd.gradient_noise`, feeds them all.

N = S / g2 is the noise scale in examples. While g2 cannot be told from 0, noise dominates by an unknown amount: the
size then grows by `growth` per proposal, never straight to the largest.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from batchd.parameters import Growth, NotNegative, Positive, Range, Share
from batchd.schedules.schedule import BoundedSchedule, Need, Proposal
from batchd.schedules.step_stats import StepStats


@dataclass(kw_only=True)
class NoiseRule(BoundedSchedule):
    """A size computed from N."""

    needs: ClassVar[frozenset[Need]] = frozenset({"gradient"})

    growth: Growth = 1.5
    """Per proposal, while N is unresolved."""

    def _next(self, stats: StepStats) -> Proposal:
        noise_scale = stats.noise_scale
        if noise_scale is None:
            return Proposal(self.bounds.clamp(stats.batch_size) * self.growth, "up: gradient lost in noise")
        return Proposal(self._size(noise_scale, stats), f"noise scale {noise_scale:.4g}")

    @abstractmethod
    def _size(self, noise_scale: float, stats: StepStats) -> float: ...


@dataclass(kw_only=True)
class NoiseScale(NoiseRule):
    """`scale * N`: with 1, twice the fewest steps and twice the fewest examples; smaller is cheaper in examples.

    `statistic = "classic"` is the textbook's rule instead: with s the variance of k microbatch gradients over the
    squared norm of their mean, s / (k - 1) above `high` is up by `growth`, below `low` down. That share depends on the
    size itself, N / (N + B), and saturates at 1 however noisy the gradient.
    Source: S. McCandlish et al., arXiv 1812.06162, section 2.2 and appendix A.
    """

    name: ClassVar = "noise_scale"

    scale: Positive = 1.0
    statistic: Literal["unbiased", "classic"] = "unbiased"
    low: NotNegative = 0.3
    high: NotNegative = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ValueError(f"low must be below high = {self.high}, got {self.low}")

    def _next(self, stats: StepStats) -> Proposal:
        if self.statistic == "unbiased":
            return super()._next(stats)
        if stats.seed_noise is None or not math.isfinite(stats.seed_noise) or stats.num_microbatches < 2:
            return self._hold(stats, "the classic ratio is missing or not finite")
        size, share = self.bounds.clamp(stats.batch_size), stats.seed_noise / (stats.num_microbatches - 1)
        why = f"classic ratio {stats.seed_noise:.4g} of {stats.num_microbatches - 1}"
        if share > self.high:
            return Proposal(size * self.growth, f"up: {why}")
        if share < self.low:
            return Proposal(size / self.growth, f"down: {why}")
        return Proposal(size, f"hold: {why}")

    def _size(self, noise_scale: float, stats: StepStats) -> float:
        return self.scale * noise_scale


@dataclass(kw_only=True)
class Goodput(NoiseRule):
    """`sqrt(N * alpha / beta)`: the most progress per second, when a step takes alpha + beta * B.

    It maximises B / (alpha + beta * B) * (N + B0) / (N + B), whatever the base size B0.
    Source: A. Qiao et al., Pollux, OSDI 2021, section 3; the closed form for one device is ours.
    """

    name: ClassVar = "goodput"
    portable: ClassVar = False  # alpha and beta are the device's
    needs: ClassVar[frozenset[Need]] = frozenset({"gradient", "time"})

    def _size(self, noise_scale: float, stats: StepStats) -> float:
        alpha, beta = stats.alpha or 0.0, stats.beta or math.inf
        return math.sqrt(noise_scale) * math.sqrt(alpha) / math.sqrt(beta)  # roots first: the product may overflow


@dataclass(kw_only=True)
class NormTest(NoiseRule):
    """`N / theta**2`: the sampling error of the gradient is at most `theta` of its norm. Never down.

    The published test divides by the norm of the mean gradient, which is too large by S / B; this one by g2.
    Source: R. Byrd et al., Sample size selection in optimization methods for machine learning, 2012; T. Lau et al.,
    AdAdaGrad, arXiv 2402.11215.
    """

    name: ClassVar = "norm_test"

    theta: Annotated[float, Range(above=0, below=1)] = 0.5

    def _size(self, noise_scale: float, stats: StepStats) -> float:
        return max(noise_scale / self.theta / self.theta, self.bounds.clamp(stats.batch_size))


@dataclass(kw_only=True)
class GradientDiversity(NoiseRule):
    """`delta * (1 + N)`: 1 + N is n times the diversity of n per-example gradients at the same weights.

    Source: D. Yin et al., Gradient Diversity, AISTATS 2018.
    """

    name: ClassVar = "gradient_diversity"

    delta: Positive = 1.0

    def _size(self, noise_scale: float, stats: StepStats) -> float:
        return self.delta * (1 + noise_scale)


@dataclass(kw_only=True)
class Cabs(BoundedSchedule):
    """`learning rate * S / (loss - best_loss)`, the loss averaged. For plain SGD; g2 is not needed.

    Source: L. Balles et al., Coupling Adaptive Batch Sizes with Learning Rates, UAI 2017.
    """

    name: ClassVar = "cabs"
    needs: ClassVar[frozenset[Need]] = frozenset({"gradient", "loss"})

    best_loss: float = 0.0
    """The loss that could be reached; the rule takes it for 0."""
    alpha: Share = 0.05

    average: float | None = field(init=False, default=None)

    def _next(self, stats: StepStats) -> Proposal:
        if not math.isfinite(stats.learning_rate) or stats.learning_rate <= 0:
            return self._hold(stats, "learning rate is missing or not finite")
        # The difference of two moderate numbers: of two huge ones it could be infinite.
        loss = min(max(stats.loss, -1e150), 1e150)
        self.average = loss if self.average is None else self.average + self.alpha * (loss - self.average)
        if self.average <= self.best_loss:
            return self._hold(stats, f"average loss {self.average:.4g} is not above best_loss")
        why = f"average loss {self.average:.4g}"
        return Proposal(stats.learning_rate * max(stats.S or 0.0, 0.0) / (self.average - self.best_loss), why)
