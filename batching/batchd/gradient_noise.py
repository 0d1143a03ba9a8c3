"""How noisy is the gradient? Estimated from squared norms alone, which gradient accumulation gives for nothing.

A step averages k microbatch gradients g_i of b_i examples each into g = sum(b_i * g_i) / B. Let S be the trace of the
covariance of per-example gradients and g2 the squared norm of the true gradient; then |g_i|^2 is g2 + S / b_i and
|g|^2 is g2 + S / B on average, two equations for two unknowns. S and g2 are averaged separately, because the ratio of
noisy numbers is biased, and N = S / g2 is the noise scale in examples.

What it cannot see: batch normalisation (g_i is no mean of per-example gradients then), and the variance between buckets
when a step takes all its examples from one bucket. Norms must be taken before clipping and weight decay.

Source: S. McCandlish et al., An Empirical Model of Large-Batch Training, arXiv 1812.06162, appendix A, for unequal b_i;
A. Qiao et al., Pollux, OSDI 2021 (consecutive gradients, decay by scale).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True)
class GradientSample:
    """One step's estimates: unbiased, and noisy."""

    S: float
    g2: float
    """May be negative: then this step cannot tell the gradient from noise."""
    seed_noise: float | None
    """The classic ratio s = (variance of the g_i, divided by k) / |g|^2; N = B * s / (k - 1 - s) for this step."""
    batch_size: float
    num_microbatches: int
    biased: bool = False
    """From consecutive steps: the weights have moved between the two gradients."""

    @property
    def finite(self) -> bool:
        """Whether it can be averaged; overflow under automatic mixed precision cannot."""
        return math.isfinite(self.S) and math.isfinite(self.g2)


def from_microbatches(
    norms2: Sequence[float], weights: Sequence[float], mean_norm2: float, *, population: int | None = None
) -> GradientSample:
    """Estimate S and g2 from the microbatches of one step.

    Args:
        norms2: |g_i|^2 of each microbatch's *mean* gradient.
        weights: b_i, examples (or tokens, where the loss is averaged over tokens).
        mean_norm2: |g|^2 of the gradient that the optimizer sees.
        population: n, where the B examples were drawn from n without replacement: the mean of a larger part of the
            data scatters less, and without the correction g2 comes out too small by S / (n - 1).

    Raises:
        ValueError: fewer than two microbatches, other than one weight for each, or a weight that is not positive.
    """
    if len(norms2) < 2 or len(norms2) != len(weights):
        raise ValueError(f"two or more norms with a weight each are needed, got {len(norms2)} and {len(weights)}")
    if min(weights) <= 0:
        raise ValueError(f"weights must be positive, got {min(weights)}")
    total, others = math.fsum(weights), len(norms2) - 1
    spread = math.fsum(weight * norm2 for weight, norm2 in zip(weights, norms2, strict=True)) - total * mean_norm2
    trace = spread / others
    return GradientSample(
        S=trace,
        g2=mean_norm2 - trace / total + (trace / population if population else 0.0),
        seed_noise=others * trace / total / mean_norm2 if mean_norm2 > 0 else None,
        batch_size=total,
        num_microbatches=len(norms2),
    )


def from_consecutive(
    norms2: tuple[float, float], sizes: tuple[float, float], difference_norm2: float, *, population: int | None = None
) -> GradientSample:
    """Estimate S and g2 from the gradients of two steps that had one microbatch each, and |g_2 - g_1|^2.

    The same equations, with the mean's norm from b_1 * b_2 * |g_2 - g_1|^2 / B = sum(b_i * |g_i|^2) - B * |g|^2.

    Raises:
        ValueError: a size is not positive.
    """
    if min(sizes) <= 0:
        raise ValueError(f"sizes must be positive, got {min(sizes)}")
    (norm_1, norm_2), (size_1, size_2) = norms2, sizes
    total = size_1 + size_2
    spread = size_1 * size_2 / total * difference_norm2
    mean_norm2 = (size_1 * norm_1 + size_2 * norm_2 - spread) / total
    sample = from_microbatches(norms2, sizes, mean_norm2, population=population)
    # A step's own size is the size of one of its gradients, not of the two together.
    return GradientSample(sample.S, sample.g2, sample.seed_noise, size_2, 2, biased=True)


@dataclass(frozen=True, slots=True)
class GradientReading:
    """The averages so far, in the form that `StepStats` takes."""

    S: float | None
    g2: float | None
    """None while unresolved."""
    t: float | None
    """Mean of g2 over its standard error."""
    seed_noise: float | None
    """The classic ratio of the latest step, for comparison."""
    num_microbatches: int
    """Of the latest step."""
    biased: bool
    samples: int

    @property
    def resolved(self) -> bool:
        """Whether the gradient can be told from noise."""
        return self.g2 is not None

    @property
    def noise_scale(self) -> float | None:
        """N in examples; None while unresolved."""
        return max(self.S, 0.0) / self.g2 if self.S is not None and self.g2 else None


@dataclass(slots=True)
class _Sums:
    """Exponentially weighted sums: dividing by `weight` corrects the bias of a young average."""

    weight: float = 0.0
    weight2: float = 0.0
    S: float = 0.0
    g2: float = 0.0
    g4: float = 0.0
    samples: int = 0
    seed_noise: float | None = None
    num_microbatches: int = 0
    biased: bool = False


class GradientNoise:
    """Averages samples; one of B examples counts for as much as B / `base_size` samples of the base size."""

    def __init__(self, *, base_size: int = 32, decay: float = 0.95, min_t: float = 1.0) -> None:
        """Make an empty one; `decay` is per sample of `base_size` examples.

        Raises:
            ValueError: base_size is below 1, decay outside (0, 1), or min_t negative.
        """
        if base_size < 1:
            raise ValueError(f"base_size must be at least 1, got {base_size}")
        if not 0 < decay < 1:
            raise ValueError(f"decay must be in (0, 1), got {decay}")
        if not min_t >= 0:
            raise ValueError(f"min_t must not be negative, got {min_t}")
        self._base_size = base_size
        self._decay = decay
        self._min_t = min_t
        self._sums = _Sums()

    def observe(self, sample: GradientSample) -> bool:
        """Take a sample in; return whether it could be used.

        A sample from microbatches replaces all that came from consecutive steps, which are biased, and none of those is
        taken in after it: a job that mostly runs one microbatch should take every tenth step or so in two.
        """
        if not sample.finite or not 0 < sample.batch_size < math.inf:
            return False
        if sample.biased != self._sums.biased:
            if sample.biased and self._sums.samples:
                return False
            self._sums = _Sums(biased=sample.biased)
        keep = self._decay ** (sample.batch_size / self._base_size)
        new, sums = 1.0 - keep, self._sums
        sums.weight = keep * sums.weight + new
        sums.weight2 = keep**2 * sums.weight2 + new**2
        sums.S = keep * sums.S + new * sample.S
        sums.g2 = keep * sums.g2 + new * sample.g2
        sums.g4 = keep * sums.g4 + new * sample.g2 * sample.g2
        sums.samples += 1
        sums.seed_noise, sums.num_microbatches = sample.seed_noise, sample.num_microbatches
        return True

    def read(self) -> GradientReading:
        """Return the averages; g2 is unresolved where it is not positive, or under `min_t` standard errors above 0."""
        sums = self._sums
        if sums.weight <= 0:
            return GradientReading(None, None, None, None, num_microbatches=0, biased=sums.biased, samples=0)
        g2, t = sums.g2 / sums.weight, self._t()
        resolved = g2 > 0 and t is not None and t >= self._min_t
        return GradientReading(
            S=sums.S / sums.weight,
            g2=g2 if resolved else None,
            t=t,
            seed_noise=sums.seed_noise,
            num_microbatches=sums.num_microbatches,
            biased=sums.biased,
            samples=sums.samples,
        )

    def _t(self) -> float | None:
        """Mean over standard error, for as many equal samples as the weights are worth; None of fewer than two."""
        sums = self._sums
        worth = sums.weight**2 / sums.weight2
        if sums.samples < 2 or worth <= 1:
            return None
        mean = sums.g2 / sums.weight
        variance = max(0.0, sums.g4 / sums.weight - mean**2) * worth / (worth - 1)
        return mean / math.sqrt(variance / worth) if variance > 0 else math.copysign(math.inf, mean)

    def state_dict(self) -> dict[str, float | int | bool | None]:
        """Return the averages as JSON."""
        return asdict(self._sums)

    def load_state_dict(self, state: Mapping[str, float | int | bool | None]) -> None:
        """Go on from another one's averages.

        Raises:
            ValueError: the state is something else's.
        """
        names = {entry.name for entry in fields(_Sums)}
        if set(state) != names:
            raise ValueError(f"the state of a gradient noise has {sorted(names)}, got {sorted(state)}")
        self._sums = _Sums(**state)  # type: ignore[arg-type]
