"""Laws of the whole controller under traffic, on a virtual clock: exact, seeded, no device."""

import random

import pytest

from batchd import ModelPolicy, Window
from batchd.simulator import Arrival, DeviceLaw, SimulationResult, lognormal_lengths, poisson_arrivals, simulate

TEXT_LAW = DeviceLaw(fixed=0.002, per_element=0.00024)
GPU_LAW = DeviceLaw(fixed=0.002, per_element=0.35e-6, square_length=512, charged_at_least=4096)


def text_traffic(rate: float, seconds: float, slo_s: float = 0.25, seed: int = 7) -> list[Arrival]:
    rng = random.Random(seed)
    return poisson_arrivals(rng, rate, seconds, lognormal_lengths(rng, 24, 1.0, 2, 256), slo_s)


def run(rate: float, law: DeviceLaw = TEXT_LAW, seconds: float = 60.0, slo_s: float = 0.25) -> SimulationResult:
    return simulate(text_traffic(rate, seconds, slo_s), ModelPolicy(slo_s=slo_s), law, seconds=seconds)


@pytest.mark.parametrize("rate", [20, 80, 150, 600])
def test_every_arrival_is_answered_refused_or_expired_exactly_once(rate: float) -> None:
    result = run(rate)
    assert len(result.latencies) + result.refused + result.expired == result.offered


def test_the_same_seed_gives_the_same_run() -> None:
    assert run(100).latencies == run(100).latencies


def test_what_is_answered_at_moderate_load_is_in_time() -> None:
    result = run(60)
    assert result.in_time / result.offered >= 0.99
    assert result.latency_quantile(0.99) <= 0.25


def test_goodput_near_capacity_and_beyond() -> None:
    assert run(100).goodput_per_s >= 95.0
    assert run(150).goodput_per_s >= 118.0


def test_overload_does_not_collapse_goodput() -> None:
    goodputs = [run(rate).goodput_per_s for rate in (100, 200, 400, 800)]
    assert goodputs == sorted(goodputs)


def test_refusals_come_before_expiry_under_overload() -> None:
    result = run(400)
    assert result.expired <= 0.2 * result.refused


def test_a_gpu_like_device_keeps_latencies_near_one_batch() -> None:
    result = run(1000, GPU_LAW, seconds=20.0, slo_s=0.05)
    assert result.latency_quantile(0.99) <= 0.012
    assert result.in_time / result.offered >= 0.999


def test_noise_of_twenty_percent_is_absorbed() -> None:
    noisy = DeviceLaw(fixed=0.002, per_element=0.00024, noise=0.2)
    result = run(70, noisy)
    assert result.in_time / result.offered >= 0.98


def test_a_fixed_window_makes_fuller_batches_and_longer_waits() -> None:
    arrivals = text_traffic(200, 20.0, slo_s=1.0)
    fixed = ModelPolicy(slo_s=1.0, window=Window.FIXED, max_wait_s=0.05)
    held = simulate(arrivals, fixed, GPU_LAW, seconds=20.0)
    free = simulate(arrivals, ModelPolicy(slo_s=1.0), GPU_LAW, seconds=20.0)
    assert held.busy_s < 0.5 * free.busy_s
    assert held.latency_quantile(0.5) > 5 * free.latency_quantile(0.5)
