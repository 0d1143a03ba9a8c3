"""What the controller promises against the classic rules, over several seeds and from light load to overload."""

import random
import time
from functools import cache
from itertools import pairwise

import pytest

from batchd.simulator import (
    DeviceLaw,
    SimulationResult,
    parse_lengths,
    parse_policy,
    poisson_arrivals,
    simulate_schedulers,
)

TEXT = DeviceLaw(fixed=0.002, per_element=0.00024)
GPU = DeviceLaw(fixed=0.002, per_element=0.35e-6, square_length=512, charged_at_least=4096)
LOGNORMAL = "lognormal:24:1.0:2:256"
BIMODAL = "bimodal:0.85:8:16:150:256"
BASELINES = ("window:5:32", "buckets:16,32,64,128:5:32", "aimd", "total-time")
SEEDS = (1, 2, 3)
BIMODAL_SATURATION = 1 / (0.85 * 12 + 0.15 * 203) / 0.00024
"""Arrivals per second whose own tokens, without any fixed cost, take all of the device's time."""


@cache
def run(
    policy: str, rate: float, seed: int, *, lengths: str = LOGNORMAL, law: DeviceLaw = TEXT, seconds: float = 30.0
) -> SimulationResult:
    slo_s = 0.25 if law is TEXT else 0.05
    rng = random.Random(seed)
    arrivals = poisson_arrivals(rng, rate, seconds, parse_lengths(lengths, rng), slo_s)
    scheduler = parse_policy(policy, slo_s=slo_s, max_batch_size=64)
    return simulate_schedulers(arrivals, scheduler, law, seconds=seconds, seed=seed)


def holds(policy: str, rate: float, seed: int) -> bool:
    return run(policy, rate, seed).latency_quantile(0.99) <= 0.25


def highest_rate(policy: str, seed: int) -> float:
    low, high = 1.0, 2.0
    while holds(policy, high, seed):
        low, high = high, 2 * high
    while high > 1.05 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(policy, middle, seed) else (low, middle)
    return low


@pytest.mark.parametrize("seed", SEEDS)
def test_goodput_near_the_capacity_and_over_it(seed: int) -> None:
    near, over = run("adaptive", 100, seed, seconds=60.0), run("adaptive", 150, seed, seconds=60.0)
    assert near.in_time >= 0.97 * near.offered
    assert over.goodput_per_s >= 118.0


@pytest.mark.parametrize("seed", SEEDS)
def test_at_four_times_the_rate_that_a_first_come_window_holds_the_tail_still_holds(seed: int) -> None:
    """More than that many are answered in time, too, if more are offered. A window of 32 refuses nobody, we must."""
    rate = 4 * highest_rate("window:5:32", seed)
    assert rate >= 4 * 20, "a window that holds next to nothing is no yardstick"
    ours = run("adaptive", rate, seed)
    assert ours.latency_quantile(0.99) <= 0.25
    assert ours.in_time >= 0.9 * ours.offered
    assert run("adaptive", 1.5 * rate, seed).goodput_per_s >= rate


@pytest.mark.parametrize("load", [0.1, 0.3, 0.5, 0.7, 0.85, 1.0, 1.3, 2.0, 3.0])
def test_on_a_bimodal_mix_no_rule_is_better_at_any_load(load: float) -> None:
    def goodput(policy: str) -> float:
        rate = load * BIMODAL_SATURATION
        return sum(run(policy, rate, seed, lengths=BIMODAL, seconds=12.0).goodput_per_s for seed in SEEDS[:2])

    best = max(map(goodput, BASELINES))
    assert goodput("adaptive") >= 0.97 * best
    if load >= 1.0:
        assert goodput("adaptive") > best


@pytest.mark.parametrize("seed", SEEDS)
def test_without_training_a_gpu_answers_within_a_few_batches(seed: int) -> None:
    result = run("adaptive", 1000, seed, law=GPU, seconds=20.0)
    assert result.latency_quantile(0.99) <= 0.010
    assert result.in_time >= 0.999 * result.offered


def test_goodput_does_not_fall_under_twenty_times_the_capacity() -> None:
    goodputs = [run("adaptive", 100.0 * factor, 1, seconds=10.0).goodput_per_s for factor in (1, 2, 5, 10, 20)]
    assert all(later >= 0.95 * earlier for earlier, later in pairwise(goodputs))


@pytest.mark.parametrize("rate", [150, 400, 2000])
def test_under_overload_few_are_admitted_in_vain(rate: float) -> None:
    result = run("adaptive", rate, 1, seconds=15.0)
    assert result.expired <= 0.04 * result.offered
    assert result.expired <= 0.1 * result.refused


def test_fifty_thousand_requests_take_seconds() -> None:
    """A sanity bound, several times what it takes; docs/simulator.md has the figure."""
    begun = time.process_time()
    result = run("adaptive", 1000, 4, law=GPU, seconds=50.0)
    assert len(result.latencies) + result.refused + result.expired == result.offered
    assert time.process_time() - begun < 30
