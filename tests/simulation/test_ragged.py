"""The controller for items that lie end to end, beside the one that pads, on a device that charges what is there."""

from __future__ import annotations

import random

import pytest

from batchd.simulator import DeviceLaw, lognormal_lengths, parse_policy, poisson_arrivals, simulate_schedulers


@pytest.mark.parametrize("rate", [60.0, 150.0])
def test_without_padding_at_least_as_much_is_answered_in_time(rate: float) -> None:
    rng = random.Random(7)
    arrivals = poisson_arrivals(rng, rate, 30.0, lognormal_lengths(rng, 24, 1.0, 2, 256), 0.25)
    law = DeviceLaw(fixed=2e-3, per_element=2.4e-4)
    padded, ragged = (
        simulate_schedulers(arrivals, parse_policy(spec, slo_s=0.25, max_batch_size=64), law, seconds=30.0, seed=7)
        for spec in ("adaptive", "adaptive:ragged")
    )
    assert ragged.padding_ratio == 0.0
    assert padded.padding_ratio > 0.0
    assert ragged.in_time >= 0.98 * padded.in_time
    assert len(ragged.latencies) + ragged.refused + ragged.expired == len(arrivals)
    assert ragged.mean_batch > 1.0


def test_another_notation_names_this_one_too() -> None:
    with pytest.raises(ValueError, match="adaptive:ragged"):
        parse_policy("nonsense", slo_s=0.25, max_batch_size=64)
