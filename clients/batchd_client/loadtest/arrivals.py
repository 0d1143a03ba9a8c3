"""Arrival schedules: when each request of an open-loop test is due, drawn from a seeded generator.

This module must not know what is sent or to whom; it returns offsets in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The law of the gaps between arrivals.

    `constant` sends at equal gaps. `poisson` has exponential gaps: independent users. `gamma` has gaps with coefficient
    of variation `cv`: 1 is Poisson, larger is burstier.

    Raises:
        ValueError: where `cv` is not positive.
    """

    kind: Literal["poisson", "constant", "gamma"] = "poisson"
    cv: float = 1.0

    def __post_init__(self) -> None:
        if not self.cv > 0 or not np.isfinite(self.cv):
            raise ValueError(f"arrivals: the coefficient of variation must be positive, got {self.cv}")

    def gaps(self, rate: float, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw `count` gaps in seconds with mean 1 / `rate`."""
        if self.kind == "constant":
            return np.full(count, 1.0 / rate)
        if self.kind == "poisson":
            return rng.exponential(1.0 / rate, count)
        shape = 1.0 / self.cv**2
        return rng.gamma(shape, 1.0 / (rate * shape), count)


POISSON = Arrivals()


def parse_arrivals(text: str) -> Arrivals:
    """Parse `poisson`, `constant` or `gamma:CV`.

    Raises:
        ValueError: for anything else, in one line that says what is allowed.
    """
    kind, _, rest = text.partition(":")
    if kind == "gamma" and rest:
        try:
            return Arrivals(kind="gamma", cv=float(rest))
        except ValueError as error:
            raise ValueError(f"arrivals {text!r}: gamma:CV takes a positive number, e.g. gamma:2") from error
    if kind == "poisson" and not rest:
        return Arrivals(kind="poisson")
    if kind == "constant" and not rest:
        return Arrivals(kind="constant")
    raise ValueError(f"arrivals {text!r}: allowed are poisson, constant and gamma:CV (e.g. gamma:2)")


def arrival_times(
    arrivals: Arrivals,
    rate: float,
    rng: np.random.Generator,
    *,
    duration_s: float | None = None,
    count: int | None = None,
) -> FloatArray:
    """Return increasing offsets: those within `duration_s`, at most `count`, whichever are given.

    Raises:
        ValueError: where the rate is not positive, or neither limit is given.
    """
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    if duration_s is None and count is None:
        raise ValueError("give a duration or a count of requests")
    if count is not None:
        times = np.cumsum(arrivals.gaps(rate, count, rng))
        return times if duration_s is None else times[times < duration_s]
    assert duration_s is not None
    chunk = max(16, int(rate * duration_s * 1.1))
    parts: list[FloatArray] = []
    reached = 0.0
    while reached < duration_s:
        part = reached + np.cumsum(arrivals.gaps(rate, chunk, rng))
        parts.append(part)
        reached = float(part[-1])
    times = np.concatenate(parts) if parts else np.empty(0)
    return times[times < duration_s]
