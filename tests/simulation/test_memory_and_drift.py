"""A device that runs out of memory, is shared with a neighbour, or changes its speed."""

import random
from dataclasses import replace

import pytest

from batchd import ModelPolicy
from batchd.simulator import (
    Arrival,
    DeviceLaw,
    DeviceMemory,
    Neighbour,
    SimulationResult,
    Slowdown,
    parse_lengths,
    parse_policy,
    poisson_arrivals,
    simulate,
    simulate_schedulers,
)

POLICIES = ("adaptive", "window:5:32", "buckets:16,32,64,128:5:32", "aimd", "total-time", "threshold:0.6:0.8")
MIX = "lognormal:24:1.0:2:256"
MIB = 2**20
QUICK = DeviceLaw(fixed=0.004, per_element=2e-5)
"""Fast enough that batches grow, so that memory and not time is what bounds them."""


def traffic(rate: float, seconds: float, slo_s: float = 0.25, lengths: str = MIX, seed: int = 5) -> list[Arrival]:
    rng = random.Random(seed)
    return poisson_arrivals(rng, rate, seconds, parse_lengths(lengths, rng), slo_s)


def run(policy: str, law: DeviceLaw, rate: float = 600.0, seconds: float = 10.0) -> SimulationResult:
    scheduler = parse_policy(policy, slo_s=0.25, max_batch_size=64)
    return simulate_schedulers(traffic(rate, seconds), scheduler, law, seconds=seconds)


def settled(result: SimulationResult) -> int:
    return len(result.latencies) + result.refused + result.expired + result.failed


@pytest.mark.parametrize("policy", POLICIES)
def test_every_arrival_ends_once_on_a_device_that_is_too_small(policy: str) -> None:
    memory = DeviceMemory(total=200 * MIB, per_element=MIB / 8, neighbours=(Neighbour(held=80 * MIB, begins=4),))
    result = run(policy, replace(QUICK, memory=memory))
    assert settled(result) == result.offered
    assert (result.failed == 0) or (result.ooms > 0)


def test_what_fits_alone_is_never_lost_by_the_controller_and_is_by_a_fixed_window() -> None:
    memory = DeviceMemory(
        total=300 * MIB, per_element=MIB / 4, neighbours=(Neighbour(held=100 * MIB, begins=3, ends=7),)
    )
    law = replace(QUICK, memory=memory)
    ours, window = run("adaptive", law), run("window:5:32", law)
    assert ours.failed == 0
    assert ours.ooms <= 3
    assert window.failed > 0
    assert ours.in_time > window.in_time


def test_only_what_cannot_fit_alone_fails() -> None:
    memory = DeviceMemory(total=256 * MIB, per_element=MIB)
    sizes = [300 if number % 50 == 49 else 20 for number in range(500)]
    arrivals = [Arrival(time=number / 100, shape=(size,), slo_s=0.25) for number, size in enumerate(sizes)]
    result = simulate(arrivals, ModelPolicy(slo_s=0.25), replace(QUICK, memory=memory), seconds=5.0)
    assert result.failed >= 1
    assert result.failed + result.refused == sizes.count(300)  # once one has failed alone the rest is refused
    assert result.in_time == sizes.count(20)


def test_batches_shrink_when_a_neighbour_comes_and_grow_when_it_goes() -> None:
    memory = DeviceMemory(
        total=400 * MIB, per_element=MIB / 4, neighbours=(Neighbour(held=200 * MIB, begins=5, ends=10),)
    )
    law = replace(QUICK, memory=memory)
    arrivals = traffic(900, 15.0, slo_s=1.0)
    result = simulate(arrivals, ModelPolicy(slo_s=1.0), law, seconds=15.0)
    assert result.failed == 0
    free = simulate(arrivals, ModelPolicy(slo_s=1.0), replace(law, memory=replace(memory, neighbours=())), seconds=15.0)
    crowded = replace(memory, neighbours=(Neighbour(held=200 * MIB),))
    always = simulate(arrivals, ModelPolicy(slo_s=1.0), replace(law, memory=crowded), seconds=15.0)
    assert max(free.batch_sizes) >= max(result.batch_sizes) >= max(always.batch_sizes)
    assert free.mean_batch >= result.mean_batch >= always.mean_batch


def test_a_device_that_turns_half_as_fast_is_followed() -> None:
    """At 40/s the slowed device has time to spare: only arrivals around the change may suffer."""
    law = DeviceLaw(fixed=0.002, per_element=0.00024, slowdowns=(Slowdown(begins=30.0, factor=2.0),))
    arrivals = traffic(40, 60.0)
    changed = simulate(arrivals, ModelPolicy(slo_s=0.25), law, seconds=60.0)
    always = simulate(
        arrivals, ModelPolicy(slo_s=0.25), replace(law, slowdowns=(Slowdown(begins=0.0, factor=2.0),)), seconds=60.0
    )
    assert changed.in_time >= always.in_time - 5
    assert changed.in_time / changed.offered >= 0.97


def test_a_device_that_becomes_twice_as_fast_is_made_use_of() -> None:
    law = DeviceLaw(fixed=0.004, per_element=0.00048, slowdowns=(Slowdown(begins=20.0, factor=0.5),))
    arrivals = traffic(100, 60.0)
    changed = simulate(arrivals, ModelPolicy(slo_s=0.25), law, seconds=60.0)
    late = [arrival for arrival in arrivals if arrival.time > 20]
    assert changed.in_time >= 0.95 * len(late)


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_that_is_never_short_changes_nothing(policy: str) -> None:
    endless = DeviceMemory(total=2**50, per_element=1.0)
    with_memory, without = run(policy, replace(QUICK, memory=endless), rate=60), run(policy, QUICK, rate=60)
    if policy.startswith("threshold"):
        assert settled(with_memory) == settled(without)  # it follows the memory: there is another to follow
    else:
        assert with_memory.latencies == without.latencies
