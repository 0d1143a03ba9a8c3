"""What rungs cost a model that is padded to them: learned edges against as many fixed ones, in the simulator.

python benchmarks/learned_ladder.py
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from batchd import Ladder, Learned, ModelPolicy, Multiples, PadTo, Proportional
from batchd.simulator import SimulationResult, lognormal_lengths, parse_cost, poisson_arrivals, simulate

LADDERS: dict[str, Ladder] = {
    "multiples of 32": Multiples(32),
    "powers of two": Proportional(1),
    "learned, 8": Learned(8),
    "learned, auto": Learned(),
    "8 parts": Proportional(8),
}
RATES = (50.0, 100.0)
SECONDS = 120.0
SLO_S = 0.25


@dataclass(frozen=True, slots=True)
class Row:
    """One ladder under one load."""

    ladder: str
    rate: float
    result: SimulationResult


def measure(name: str, rate: float, seconds: float = SECONDS, seed: int = 7) -> Row:
    """Simulate one ladder with batches padded to its rungs."""
    rng = random.Random(seed)  # noqa: S311 - traffic, not secrets
    arrivals = poisson_arrivals(rng, rate, seconds, lognormal_lengths(rng, 24.0, 1.0, 2, 256), SLO_S)
    policy = ModelPolicy(slo_s=SLO_S, ladder=LADDERS[name], pad_to=PadTo.RUNG)
    result = simulate(arrivals, policy, parse_cost("0.002:0.00024"), seconds=seconds, seed=seed)
    return Row(name, rate, result)


def main() -> None:
    """Print the table."""
    print("| ladder | offered/s | padding | answered in time/s | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    for rate in RATES:
        for name in LADDERS:
            result = measure(name, rate).result
            p50, p99 = (1e3 * result.latency_quantile(q) for q in (0.5, 0.99))
            print(
                f"| {name} | {result.offered / result.seconds:.1f} | {result.padding_ratio:.1%} "
                f"| {result.goodput_per_s:.1f} | {p50:.0f} | {p99:.0f} |"
            )


if __name__ == "__main__":
    main()
