"""What training knows when the next global batch size is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CandidateLoss:
    """What online selection is told of one candidate size; all candidates are scored on the same examples.

    `average`: the mean of the losses of the pool's batches of `size` examples each, in training mode, before any
    update. `lookahead`: the loss on the *next* pool after training on this one in batches of `size` from a snapshot
    that is restored afterwards, and the seconds that this training took.
    """

    size: int
    loss: float
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """The statistics after a step, or after an epoch for schedules with `unit = "epoch"`. None: not measured.

    `S` and `g2` come from `batchd.gradient_noise`, smoothed. `S` without `g2` says that the gradient is lost in noise.
    """

    step: int
    """Optimizer steps done."""
    examples: int
    """Examples seen, repetitions included."""
    epoch: float
    """`examples / train_size`; whole at the end of an epoch."""
    train_size: int
    batch_size: int
    """The global batch size in force."""
    learning_rate: float = math.nan
    """As set by the user's own scheduler, without the factor of an LR rule."""
    loss: float = math.nan
    """Mean over the examples of the unit that ended."""
    entropy: float | None = None
    """Mean entropy of the predictions in nats; see `batchd.torch_gradients.prediction_entropy`."""
    S: float | None = None
    """Trace of the covariance of per-example gradients."""
    g2: float | None = None
    """Squared norm of the true gradient; None where it cannot be told from 0."""
    seed_noise: float | None = None
    """The classic ratio of one step: variance of microbatch gradients over the squared norm of their mean."""
    num_microbatches: int = 1
    """How many gradients `seed_noise` was computed from."""
    alpha: float | None = None
    """Seconds of a step that do not depend on its size."""
    beta: float | None = None
    """Seconds of a step per example."""
    candidates: tuple[CandidateLoss, ...] = ()
    memory_used: float | None = None
    """Device memory in use at the peak of the step, as a share of what may be used."""

    @property
    def noise_scale(self) -> float | None:
        """`S / g2` in examples, or None where either is unknown.

        Source: S. McCandlish et al., An Empirical Model of Large-Batch Training, arXiv 1812.06162, section 2.2.
        """
        if self.S is None or self.g2 is None or self.g2 <= 0:
            return None
        return max(self.S, 0.0) / self.g2

    def has(self, need: str) -> bool:
        """Whether the statistic is there and finite."""
        match need:
            case "loss":
                return math.isfinite(self.loss)
            case "entropy":
                return _finite(self.entropy)
            case "gradient":
                return _finite(self.S) and (self.g2 is None or math.isfinite(self.g2))
            case "time":
                return _finite(self.alpha) and _finite(self.beta) and (self.alpha or 0) >= 0 and (self.beta or 0) > 0
            case "candidates":
                return any(math.isfinite(candidate.loss) for candidate in self.candidates)
            case "memory":
                return _finite(self.memory_used)
            case _:
                raise ValueError(f"no statistic is called {need!r}")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
