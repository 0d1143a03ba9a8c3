"""Summaries of many durations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

LEVELS = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Percentiles of `count` durations in seconds, interpolated linearly as numpy does."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def in_ms(self) -> dict[str, float]:
        """Return them by name in milliseconds."""
        return {
            f"{name}_ms": round(getattr(self, name) * 1e3, 4) for name in ("mean", "p50", "p90", "p95", "p99", "max")
        }


def quantiles(durations_s: Iterable[float]) -> Quantiles | None:
    """Summarise; None where there is nothing to summarise."""
    values = np.fromiter(durations_s, dtype=np.float64)
    if values.size == 0:
        return None
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, LEVELS))
    return Quantiles(
        count=int(values.size),
        mean=float(values.mean()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(values.max()),
    )
