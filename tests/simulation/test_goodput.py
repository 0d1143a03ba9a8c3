"""Laws of the whole controller under traffic, on a virtual clock: exact, seeded, no device."""

import random
from dataclasses import replace

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


def test_images_of_two_dimensions_are_answered_in_time_and_share_batches() -> None:
    rng = random.Random(3)
    sides = lognormal_lengths(rng, 24, 0.6, 4, 96)
    law = DeviceLaw(fixed=0.004, per_element=1e-6)
    arrivals, time = [], 0.0
    while (time := time + rng.expovariate(400)) < 20.0:
        arrivals.append(Arrival(time=time, shape=(next(sides), next(sides)), slo_s=0.25))
    result = simulate(arrivals, ModelPolicy(slo_s=0.25), law, seconds=20.0)
    assert len(result.latencies) + result.refused + result.expired == result.offered
    assert result.in_time / result.offered >= 0.99
    assert max(result.batch_sizes) > 1
    assert result.padding_ratio <= 0.5


def test_a_low_priority_ages_and_is_not_passed_for_ever() -> None:
    """Half of the traffic outranks it at full load, yet what is admitted of it is answered well before its deadline."""
    slo_s, patient_s = 0.25, 10.0
    rng = random.Random(5)
    urgent = [replace(arrival, priority=1) for arrival in text_traffic(100, 60.0, slo_s)]
    patient = [
        replace(arrival, priority=3, slo_s=patient_s)
        for arrival in poisson_arrivals(rng, 5, 60.0, lognormal_lengths(rng, 24, 1.0, 2, 256), patient_s)
    ]
    arrivals = sorted(urgent + patient, key=lambda arrival: arrival.time)
    result = simulate(arrivals, ModelPolicy(slo_s=slo_s), TEXT_LAW, seconds=60.0)
    assert len(result.latencies) + result.refused + result.expired == result.offered
    assert result.latency_quantile(1.0) <= patient_s / 2
    assert result.expired <= 0.02 * result.offered
