"""Histogram edges. Batching needs resolution below 5 ms; steps of about 1.5 keep quantile errors within 25 %."""

from __future__ import annotations

from collections.abc import Iterable

LATENCY_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0),
)
BATCH_ITEMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
RATIO = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SLACK_S = (-10.0, -1.0, -0.3, -0.1, -0.03, -0.01, 0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
ERROR_S = (-1.0, -0.3, -0.1, -0.03, -0.01, -0.003, -0.001, 0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ERROR_BYTES = (
    *(-float(2**exponent) for exponent in range(34, 19, -2)),
    0.0,
    *(float(2**exponent) for exponent in range(20, 36, 2)),
)


def latency_edges(slos_s: Iterable[float]) -> tuple[float, ...]:
    """Return the latency edges with every SLO among them, so that the share within an SLO is exact."""
    return tuple(sorted({*LATENCY_S, *slos_s}))
