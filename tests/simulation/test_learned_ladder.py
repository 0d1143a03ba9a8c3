"""A model that is padded to rungs wastes less on learned ones than on as many fixed ones."""

import random

import pytest

from batchd import Ladder, Learned, ModelPolicy, Multiples, PadTo, Proportional
from batchd.simulator import SimulationResult, lognormal_lengths, parse_cost, poisson_arrivals, simulate

SECONDS = 40.0


def run(ladder: Ladder, seed: int) -> SimulationResult:
    """Log-normal lengths of 2 to 256 at two thirds of the device's capacity."""
    rng = random.Random(seed)
    arrivals = poisson_arrivals(rng, 80.0, SECONDS, lognormal_lengths(rng, 24.0, 1.0, 2, 256), 0.25)
    policy = ModelPolicy(slo_s=0.25, ladder=ladder, pad_to=PadTo.RUNG)
    return simulate(arrivals, policy, parse_cost("0.002:0.00024"), seconds=SECONDS, seed=seed)


@pytest.mark.parametrize("seed", [1, 2])
def test_eight_learned_rungs_pad_less_than_eight_fixed_ones(seed: int) -> None:
    learned = run(Learned(8), seed)
    for fixed in (Multiples(32), Proportional(1)):  # 32, 64, ... 256, and 2, 4, ... 256
        other = run(fixed, seed)
        assert learned.padding_ratio < 0.85 * other.padding_ratio
        assert learned.in_time >= other.in_time
