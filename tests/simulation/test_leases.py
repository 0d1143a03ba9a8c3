"""Training beside traffic on a virtual clock: what it gets of the device, and what that costs the answers."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from batchd import Controller, ModelPolicy
from batchd.baselines import FixedWindow
from batchd.leasing import TrainingPolicy, training_share
from batchd.simulator import (
    Arrival,
    DeviceLaw,
    SimulationResult,
    Slowdown,
    TrainingLaw,
    bursty_arrivals,
    lognormal_lengths,
    parse_lengths,
    poisson_arrivals,
    simulate_schedulers,
)
from batchd.simulator.simulation import MODEL

GPU_LAW = DeviceLaw(fixed=0.002, per_element=0.35e-6, square_length=512, charged_at_least=4096)
ARRIVALS = 3000
"""About so many in every run: enough for a 99th percentile, few enough to be quick."""


@dataclass(frozen=True)
class Cell:
    """Equal items at `rate` per second on a device of a + b * n seconds, to be answered within `slo_s`."""

    rate: float
    slo_s: float
    fixed_s: float
    per_item_s: float

    @property
    def seconds(self) -> float:
        return min(40.0, ARRIVALS / self.rate)

    @property
    def law(self) -> DeviceLaw:
        return DeviceLaw(fixed=self.fixed_s, per_element=self.per_item_s)

    @property
    def ideal_share(self) -> float:
        return training_share(
            rate=self.rate, slo_s=self.slo_s, fixed_s=self.fixed_s, per_item_s=self.per_item_s, safety=0.9
        )

    @property
    def slowed(self) -> "Cell":
        return Cell(self.rate, self.slo_s, 2 * self.fixed_s, 2 * self.per_item_s)


GRID = [
    Cell(50, 0.1, 0.010, 0.001),
    Cell(100, 0.1, 0.010, 0.001),
    Cell(200, 0.05, 0.010, 0.001),
    Cell(200, 0.1, 0.010, 0.001),
    Cell(400, 0.1, 0.010, 0.001),
    Cell(400, 0.2, 0.010, 0.001),
    Cell(20, 0.25, 0.020, 0.005),
    Cell(60, 0.25, 0.020, 0.005),
    Cell(1000, 0.05, 0.002, 0.0002),
    Cell(2000, 0.05, 0.002, 0.0002),
    Cell(100, 0.5, 0.010, 0.005),
]

SOME = [cell for cell in GRID if cell.rate <= 400][::2]
"""Cells enough to see a law, where the whole grid would only take longer."""


def on_grid(
    cell: Cell,
    *,
    arrive: Callable[..., list[Arrival]] = poisson_arrivals,
    law: DeviceLaw | None = None,
    priority: float = 1.0,
    train: bool = True,
    known: float | None = None,
    seed: int = 3,
    seconds: float | None = None,
) -> SimulationResult:
    """Simulate a cell; `known` hands the controller a law of that many times the true seconds to begin with."""
    rng = random.Random(seed)
    seconds = seconds or cell.seconds
    arrivals = arrive(rng, cell.rate, seconds, parse_lengths("fixed:1", rng), cell.slo_s)

    def controller() -> Controller:
        made = Controller(training_policy=TrainingPolicy(priority=priority))
        made.add_model(MODEL, ModelPolicy(slo_s=cell.slo_s, max_batch_size=1024, max_queue_size=10**6))
        for size in (1, 2, 4, 8, 16, 32) * 6 if known else ():
            made.calibrate(MODEL, size, (1,), known * cell.law.seconds(size, 1, rng))
        return made

    training = TrainingLaw() if train else None
    return simulate_schedulers(arrivals, controller, law or cell.law, seconds=seconds, training=training, seed=seed)


@pytest.mark.parametrize("cell", GRID, ids=str)
def test_training_gets_nine_tenths_of_the_closed_form_and_answers_are_in_time(cell: Cell) -> None:
    result = on_grid(cell)
    assert result.training_share >= 0.9 * cell.ideal_share
    assert result.latency_quantile(0.99) <= cell.slo_s
    assert result.in_time >= 0.995 * result.offered


@pytest.mark.parametrize("cell", SOME, ids=str)
def test_training_in_idle_gaps_alone_gets_less(cell: Cell) -> None:
    idle = on_grid(cell, priority=0.0)
    assert idle.latency_quantile(0.99) <= cell.slo_s
    assert idle.training_share < 0.75 * on_grid(cell).training_share


@pytest.mark.parametrize("cell", SOME, ids=str)
def test_bursts_cost_training_and_not_the_answers(cell: Cell) -> None:
    """Bursts are of four times the rate: some cells cannot serve them with or without training."""
    with_training, without = (
        on_grid(cell, arrive=bursty_arrivals, train=train, seconds=20.0) for train in (True, False)
    )
    assert with_training.latency_quantile(0.99) <= cell.slo_s
    assert with_training.in_time >= 0.93 * without.in_time
    assert with_training.training_share >= 0.9 * cell.ideal_share


@pytest.mark.parametrize("cell", [GRID[0], GRID[1], GRID[3], GRID[6]], ids=str)
def test_a_device_that_turns_twice_as_slow_is_followed(cell: Cell) -> None:
    """The cells that the slowed device can still carry with room to train."""
    seconds = 60.0
    law = DeviceLaw(fixed=cell.fixed_s, per_element=cell.per_item_s, slowdowns=(Slowdown(begins=20.0, factor=2.0),))
    result = on_grid(cell, law=law, seconds=seconds)
    ideal = (20.0 * cell.ideal_share + 40.0 * cell.slowed.ideal_share) / seconds
    assert result.latency_quantile(0.99) <= cell.slo_s
    assert result.training_share >= 0.9 * ideal
    assert result.in_time >= 0.98 * result.offered


@pytest.mark.parametrize("known", [0.7, 1.3])
@pytest.mark.parametrize("cell", SOME, ids=str)
def test_cost_models_that_begin_wrong_by_a_third_are_outgrown(cell: Cell, known: float) -> None:
    result = on_grid(cell, known=known)
    assert result.latency_quantile(0.99) <= cell.slo_s
    assert result.training_share >= 0.9 * cell.ideal_share


@pytest.mark.parametrize("cell", SOME, ids=str)
def test_noise_of_a_third_breaks_no_promise(cell: Cell) -> None:
    noisy = DeviceLaw(fixed=cell.fixed_s, per_element=cell.per_item_s, noise=0.3)
    with_training, without = on_grid(cell, law=noisy), on_grid(cell, law=noisy, train=False)
    assert with_training.latency_quantile(0.99) <= cell.slo_s
    assert with_training.in_time >= 0.98 * without.in_time


def gpu_like(*, train: bool, seed: int = 7, priority: float = 1.0, max_wait_s: float | None = None) -> SimulationResult:
    rng = random.Random(seed)
    arrivals = poisson_arrivals(rng, 1000, 10.0, lognormal_lengths(rng, 24, 1.0, 2, 256), 0.05)

    def controller() -> Controller:
        made = Controller(training_policy=TrainingPolicy(priority=priority))
        made.add_model(MODEL, ModelPolicy(slo_s=0.05, max_queue_size=10**6, max_wait_s=max_wait_s))
        return made

    training = TrainingLaw() if train else None
    return simulate_schedulers(arrivals, controller, GPU_LAW, seconds=10.0, training=training)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_gpu_like_device_serves_in_a_fifth_of_its_time_while_it_trains(seed: int) -> None:
    result = gpu_like(train=True, seed=seed)
    assert result.device_busy <= 0.20
    assert result.latency_quantile(0.99) <= 0.045
    assert result.training_share >= 0.75
    assert result.in_time >= 0.999 * result.offered


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_gpu_like_device_that_does_not_train_answers_within_ten_milliseconds(seed: int) -> None:
    assert gpu_like(train=False, seed=seed).latency_quantile(0.99) <= 0.010


def test_the_priority_moves_between_idle_gaps_and_the_whole_slack() -> None:
    results = [gpu_like(train=True, priority=priority) for priority in (0.0, 0.3, 0.6, 1.0)]
    shares = [result.training_share for result in results]
    medians = [result.latency_quantile(0.5) for result in results]
    assert shares == sorted(shares)
    assert medians == sorted(medians)


def test_no_item_waits_longer_for_training_than_max_wait() -> None:
    patient, capped = gpu_like(train=True), gpu_like(train=True, max_wait_s=0.01)
    assert capped.latency_quantile(0.99) < 0.03 < patient.latency_quantile(0.99)
    assert capped.training_share < patient.training_share


def test_other_schedulers_leave_their_gaps_to_training() -> None:
    rng = random.Random(1)
    arrivals = poisson_arrivals(rng, 20, 20.0, parse_lengths("fixed:1", rng), 0.25)
    law = DeviceLaw(fixed=0.01, per_element=0.001)
    result = simulate_schedulers(
        arrivals, lambda: FixedWindow(0.005, 32), law, seconds=20.0, training=TrainingLaw(fixed=1e-3, per_item=1e-4)
    )
    assert result.device_busy + result.training_share == pytest.approx(1.0, abs=0.01)
    assert len(result.latencies) == result.offered


def test_every_arrival_is_settled_once_while_training() -> None:
    result = on_grid(GRID[4], arrive=bursty_arrivals)
    assert len(result.latencies) + result.refused + result.expired == result.offered
