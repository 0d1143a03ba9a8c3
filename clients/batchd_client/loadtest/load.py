"""The load to put on a server, checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchd_client.loadtest.arrivals import POISSON, Arrivals, FloatArray, arrival_times


def _check(load: OpenLoad | ClosedLoad) -> None:
    if load.duration_s is None and load.count is None:
        raise ValueError("give duration_s or count")
    for name in ("duration_s", "count", "deadline_s"):
        value = getattr(load, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if not load.warmup_s >= 0:
        raise ValueError(f"warmup_s must not be negative, got {load.warmup_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    """Arrivals at `rate` per second that do not wait for answers: `warmup_s` unmeasured, then `duration_s` or `count`.

    Raises:
        ValueError: where a figure is out of range, or both limits are missing.
    """

    rate: float
    duration_s: float | None = None
    count: int | None = None
    arrivals: Arrivals = POISSON
    warmup_s: float = 0.0
    deadline_s: float | None = None
    """What counts as goodput, where it is not the run's SLO; the payloads tell the server."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        _check(self)

    def schedule(self, rng: np.random.Generator) -> tuple[FloatArray, float]:
        """Return the arrival times from the start of the warm-up, and the seconds that the measured ones span."""
        measured = arrival_times(self.arrivals, self.rate, rng, duration_s=self.duration_s, count=self.count)
        span_s = self.duration_s if self.duration_s is not None and self.count is None else len(measured) / self.rate
        if self.warmup_s == 0:
            return measured, span_s
        warmup = arrival_times(self.arrivals, self.rate, rng, duration_s=self.warmup_s)
        return np.concatenate([warmup, self.warmup_s + measured]), span_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoad:
    """`concurrency` users who each wait for an answer before they send again.

    Raises:
        ValueError: where a figure is out of range, or both limits are missing.
    """

    concurrency: int
    duration_s: float | None = None
    count: int | None = None
    warmup_s: float = 0.0
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")
        _check(self)
