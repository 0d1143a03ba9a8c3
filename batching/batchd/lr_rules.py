"""How the learning rate goes with the global batch size: a factor beside the user's own scheduler.

The factor is applied at the step and taken back after it, so that schedulers compose; schedulers should count examples,
not steps. With kappa = B / B0, B0 the size that the learning rate was tuned for, and N the noise scale in examples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from batchd.parameters import Count, NotNegative, Positive, Range, build, check, json_schema
from batchd.schedules import StepStats

Beta = Annotated[float, Range(at_least=0, below=1)]


@dataclass(frozen=True, slots=True)
class LRChange:
    """What the optimizer uses for one step."""

    lr: float
    """Factor on the learning rate."""
    betas: tuple[float, float] | None = None
    """Adam's coefficients in place of the configured ones."""
    eps: float | None = None
    """Adam's epsilon in place of the configured one."""


class LRRule(Protocol):
    """From sizes and statistics to a change; without memory."""

    name: ClassVar[str]
    """The name in settings and in the journal."""
    needs: ClassVar[frozenset[str]]
    """Which statistics it reads, as for schedules."""

    def factor(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        """Return the change for a step of `batch_size` when the learning rate was tuned for `base_size`."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScalingRule(ABC):
    """A factor that depends on kappa, reached over the first epochs.

    During the first `warmup_epochs` the factor grows linearly from 1 (or from 0, `warmup_from`).
    Source of the warm-up: P. Goyal et al., Accurate, Large Minibatch SGD, arXiv 1706.02677, section 2.2.

    Raises:
        ValueError: a parameter is out of its range.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    warmup_epochs: NotNegative = 0.0
    warmup_from: Literal["one", "zero"] = "one"

    def __post_init__(self) -> None:
        check(self)

    def factor(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        """Return the change for a step.

        Raises:
            ValueError: a size is below 1.
        """
        if batch_size < 1 or base_size < 1:
            raise ValueError(f"batch_size and base_size must be at least 1, got {batch_size} and {base_size}")
        change = self._scaled(batch_size, base_size, stats)
        duration = self._warmup(batch_size / base_size)
        progress = min(1.0, max(0.0, stats.epoch) / duration) if duration > 0 and math.isfinite(stats.epoch) else 1.0
        start = min(1.0, change.lr) if self.warmup_from == "one" else 0.0
        return LRChange(start + (change.lr - start) * progress, change.betas, change.eps)

    def _warmup(self, kappa: float) -> float:
        return self.warmup_epochs

    @abstractmethod
    def _scaled(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        """The change once warm."""


@dataclass(frozen=True, kw_only=True)
class Unchanged(ScalingRule):
    """1, whatever the size."""

    name: ClassVar = "none"

    def _scaled(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        return LRChange(1.0)


@dataclass(frozen=True, kw_only=True)
class Proportional(ScalingRule):
    """kappa, for SGD while B is well below N. Source: P. Goyal et al., arXiv 1706.02677, section 2.1."""

    name: ClassVar = "linear"

    warmup_epochs: NotNegative = 5.0

    def _scaled(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        return LRChange(batch_size / base_size)


@dataclass(frozen=True, kw_only=True)
class SquareRoot(ScalingRule):
    """sqrt(kappa): the variance of an update stays.

    Source: E. Hoffer et al., Train longer, generalize better, NeurIPS 2017.
    """

    name: ClassVar = "sqrt"

    def _scaled(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        return LRChange(math.sqrt(batch_size / base_size))


@dataclass(frozen=True, kw_only=True)
class AdaScale(ScalingRule):
    """kappa * (N + B0) / (N + B): kappa where noise dominates, 1 where it does not.

    While N is unknown, the smaller end of that range. Training progresses by as many base steps as the factor says.
    Source: T. Johnson et al., AdaScale SGD, ICML 2020; `exponent` 0.5 for Adam as in Pollux.
    """

    name: ClassVar = "adascale"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    exponent: Annotated[float, Range(above=0, at_most=1)] = 1.0

    def _scaled(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        kappa, noise_scale = batch_size / base_size, _noise_scale(stats)
        if noise_scale is None:
            return LRChange(min(1.0, kappa) ** self.exponent)
        gain = kappa * ((noise_scale + base_size) / (noise_scale + batch_size))
        return LRChange(gain**self.exponent)


@dataclass(frozen=True, kw_only=True)
class AdamSDE(ScalingRule):
    """sqrt(kappa), with 1 - beta_i times kappa and epsilon over sqrt(kappa), for Adam and AdamW.

    1 - beta_i stays below 1, at `kappa * (1 - beta_i) = 1` the momentum is gone.
    Source: S. Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, NeurIPS 2022.
    """

    name: ClassVar = "adam_sde"

    beta1: Beta = 0.9
    beta2: Beta = 0.999
    eps: Positive = 1e-8

    def _scaled(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        kappa = batch_size / base_size
        betas = (max(0.0, 1 - kappa * (1 - self.beta1)), max(0.0, 1 - kappa * (1 - self.beta2)))
        return LRChange(math.sqrt(kappa), betas, self.eps / math.sqrt(kappa))


@dataclass(frozen=True, kw_only=True)
class McCandlish(ScalingRule):
    """1 / (1 + N / B): the configured rate is the best one at an infinite size, not at B0.

    While N is unknown it is taken to be B. Relative to B0 this is AdaScale's factor.
    Source: S. McCandlish et al., arXiv 1812.06162, section 2.2.
    """

    name: ClassVar = "mccandlish"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def _scaled(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        noise_scale = _noise_scale(stats)
        return LRChange(0.5 if noise_scale is None else batch_size / (batch_size + noise_scale))


@dataclass(frozen=True, kw_only=True)
class LEGW(ScalingRule):
    """sqrt(kappa), after a warm-up from 0 that lasts kappa times as many epochs.

    Source: Y. You et al., Large-Batch Training for LSTM and Beyond, SC 2019 (linear-epoch gradual warm-up).
    """

    name: ClassVar = "legw"

    warmup_epochs: NotNegative = 0.5
    warmup_from: Literal["one", "zero"] = "zero"

    def _scaled(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        return LRChange(math.sqrt(batch_size / base_size))

    def _warmup(self, kappa: float) -> float:
        return self.warmup_epochs * kappa


@dataclass(frozen=True, kw_only=True)
class PoolShare(ScalingRule):
    """B / pool: 1, 1/2, 1/4 for a pool in one, two, four batches, so that all candidates move equally far.

    The rule of the schedule `online_selection`; `pool` defaults to the base size.
    """

    name: ClassVar = "online_selection"

    pool: Count | None = None

    def _scaled(self, batch_size: int, base_size: int, stats: StepStats) -> LRChange:
        return LRChange(batch_size / (self.pool or base_size))


_ALL: tuple[type[ScalingRule], ...] = (
    Unchanged,
    Proportional,
    SquareRoot,
    AdaScale,
    AdamSDE,
    McCandlish,
    LEGW,
    PoolShare,
)
LR_RULES: Mapping[str, type[ScalingRule]] = {rule.name: rule for rule in _ALL}


def make_lr_rule(name: str, parameters: Mapping[str, Any]) -> ScalingRule:
    """Make the rule `name`.

    Raises:
        ValueError: no such rule (lists all), no such parameter (lists the rule's), or a value out of its range.
    """
    return build(_known(name), name, parameters)


def lr_rule_schema(name: str) -> dict[str, Any]:
    """Describe the parameters of the rule `name` as a JSON schema.

    Raises:
        ValueError: no such rule.
    """
    return json_schema(_known(name))


def _known(name: str) -> type[ScalingRule]:
    if name not in LR_RULES:
        raise ValueError(f"no learning-rate rule is called {name!r}; there are {', '.join(LR_RULES)}")
    return LR_RULES[name]


def _noise_scale(stats: StepStats) -> float | None:
    noise_scale = stats.noise_scale
    return noise_scale if noise_scale is not None and math.isfinite(noise_scale) else None
