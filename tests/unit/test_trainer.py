"""A job's trainer, with a test in place of the executor: whatever the device is lent for, the result is the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from trainable_rig import PLANS, Driver, Rows, Rowwise, Watched, assert_identical, assert_same, run, spec, trainer

from batchd_server.device.training.course import Course
from batchd_server.device.training.data_split import DataSplit
from batchd_server.device.training.forward_pass import LossSums
from batchd_server.device.training.network_state import NetworkBuffers
from batchd_server.device.training.train_report import StepBroken, TrainingFailed
from batchd_server.training.job_spec import JobSpec

OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd", "lr": 0.3, "momentum": 0.9, "weight_decay": 0.01},
    {"name": "adam", "lr": 0.02},
    {"name": "adamw", "lr": 0.02, "weight_decay": 0.05},
    {"name": "lamb", "lr": 0.02},
    {"name": "lars", "lr": 1.0, "momentum": 0.5},
]

# ---- the result does not depend on how the device was shared ---------------------------------------------------------


def plain_loop(job: JobSpec) -> dict[str, torch.Tensor]:
    """The same job as anybody would write it: whole batches, mean over the terms, torch's own backward and step."""
    torch.manual_seed(job.seed)
    model = Rowwise()
    network, rows = model.new_network(fresh=True), Rows()
    sizes = rows.sizes.reshape(-1, 1)
    split = DataSplit.of(len(sizes), None, job.validation.fraction, job.seed)
    course = Course(job, model.task, sizes, split.training)
    asked = job.optimizer
    optimizer = {
        "sgd": lambda: torch.optim.SGD(network.parameters(), asked.lr, asked.momentum, weight_decay=asked.weight_decay),
        "adam": lambda: torch.optim.Adam(network.parameters(), asked.lr),
        "adamw": lambda: torch.optim.AdamW(network.parameters(), asked.lr, weight_decay=asked.weight_decay),
    }[asked.name]()
    course.start()
    while not course.over:
        ids = course.begin_step()
        x, y = rows.batch(ids, (int(sizes[ids].max()),), torch.device("cpu"))
        scores = functional.log_softmax(network(x), dim=-1)
        loss = functional.nll_loss(scores.flatten(0, 1), y.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        course.end_step(LossSums(loss.item(), 1.0, None, None), alpha=None, beta=None, memory_used=None)
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:3], ids=lambda optimizer: optimizer["name"])
@pytest.mark.parametrize("units", PLANS.values(), ids=PLANS)
def test_accumulation_is_one_batch(optimizer: dict[str, Any], units: Callable[[int], int]) -> None:
    job = spec(optimizer=optimizer)
    assert_same(run(job, units).weights(), plain_loop(job), 1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer["name"])
def test_every_optimizer_gives_the_same_whatever_the_microbatches(optimizer: dict[str, Any]) -> None:
    job = spec(optimizer=optimizer)
    one, other = run(job), run(job, PLANS["threes"])
    np.testing.assert_allclose(one.losses(), other.losses(), rtol=1e-9)
    assert_same(one.weights(), other.weights(), 1e-8)


@pytest.mark.parametrize("schedule", ["noise_scale", "norm_test", "exponential", "online_selection", "curriculum"])
def test_batch_sizes_and_noise_are_blind_to_the_microbatches(schedule: str) -> None:
    job = spec(max_steps=25, batching={"initial": 16, "min": 8, "max": 64, "schedule": {"name": schedule}})
    drivers = [run(job, units) for units in PLANS.values()]
    courses = [[(step.step, step.batch_size) for report in d.reports for step in report.steps] for d in drivers]
    assert all(course == courses[0] for course in courses)
    noises = [[step.noise_scale or 0.0 for report in d.reports for step in report.steps] for d in drivers]
    for noise in noises:
        np.testing.assert_allclose(noise, noises[0], rtol=1e-6)
    assert len({size for _, size in courses[0]}) > 1, "the size never moved, so nothing was shown"


def test_a_deterministic_job_is_the_same_to_the_bit_dropout_included() -> None:
    job = spec(deterministic=True)
    weights = [run(job, units, Rowwise(dropout=0.4)).weights() for units in PLANS.values()]
    for each in weights:
        assert_identical(each, weights[0])
    torch.manual_seed(987)  # nor does it depend on what was drawn before, or it on the job
    state = torch.get_rng_state()
    training = trainer(job, Rowwise(dropout=0.4))
    torch.set_rng_state(state)
    training.start()
    assert_identical(Driver(training).run().weights(), weights[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_every_example_comes_once_per_epoch() -> None:
    rows = Watched()
    job = spec(max_steps=None, epochs=3, batching={"initial": 10, "min": 8, "max": 64})
    run(job, PLANS["threes"], Rowwise(examples=rows))
    split = DataSplit.of(rows.count, None, 0.1, job.seed)
    seen = Counter(index for cut in rows.asked for index in cut)  # type: ignore[attr-defined]
    assert seen == {int(index): 3 for index in split.training}


# ---- memory runs out -------------------------------------------------------------------------------------------------


class Fault:
    """Runs out of memory at chosen calls, in the forward pass or in the backward pass."""

    def __init__(self, at: set[int], *, backward: bool) -> None:
        self.calls, self._at, self._backward = 0, at, backward

    def __call__(self, loss: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return loss
        self.calls += 1
        if self.calls not in self._at:
            return loss
        if not self._backward:
            raise torch.OutOfMemoryError("injected")

        class Failing(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
                return value.clone()

            @staticmethod
            def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
                raise torch.OutOfMemoryError("injected")

        failed: torch.Tensor = Failing.apply(loss)  # type: ignore[no-untyped-call]
        return failed


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("at", [{2}, {3, 4}, {5, 9, 10}])
def test_out_of_memory_loses_nothing_and_repeats_nothing(at: set[int], backward: bool) -> None:
    job = spec(max_steps=6)
    rows = Watched()
    fault = Fault(at, backward=backward)
    driver = run(job, PLANS["threes"], Rowwise(spoil=fault, examples=rows))
    assert fault.calls > max(at)
    assert_same(driver.weights(), run(job).weights(), 1e-9)
    steps = [step.step for report in driver.reports for step in report.steps if step.validation_loss is None]
    assert steps == sorted(set(steps)), "no step is taken twice"
    assert sum(kind == "out_of_memory" for report in driver.reports for kind, _ in report.events) == len(at)


def test_a_deterministic_job_goes_on_in_smaller_slices() -> None:
    job = spec(deterministic=True, max_steps=6)
    driver = run(job, PLANS["all at once"], Rowwise(spoil=Fault({4}, backward=True)))
    assert_same(driver.weights(), run(job).weights(), 1e-9)
    assert driver.trainer._slice_size in {1, 2, 3, 4}


def test_an_optimizer_that_runs_out_of_memory_before_it_changed_anything_steps_again() -> None:
    job = spec(max_steps=6)
    training = trainer(job)
    step, calls = training._optimizer.step, iter(range(100))

    def failing(*arguments: Any) -> Any:
        if next(calls) in {1, 2, 4}:
            raise torch.OutOfMemoryError("injected")
        return step(*arguments)

    training._optimizer.step = failing  # type: ignore[method-assign]
    training.start()
    driver = Driver(training).run()
    assert next(calls) > 6
    assert_identical(driver.weights(), run(job).weights())


def test_an_optimizer_that_fails_half_way_is_not_believed() -> None:
    training = trainer(spec())
    training.start()

    def half(*_: Any) -> Any:
        with torch.no_grad():
            training._gradients.parameters[0].add_(1.0)
        raise torch.OutOfMemoryError("injected")

    training._optimizer.step = half  # type: ignore[method-assign]
    with pytest.raises(StepBroken):
        Driver(training).run()


def test_an_example_that_never_fits_fails_the_job_with_the_figures() -> None:
    def never(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("injected")

    training = trainer(spec(), Rowwise(spoil=never))
    training.start()
    demand = training.report().demand
    assert demand is not None
    with pytest.raises(torch.OutOfMemoryError):
        training.run(demand.quantum, 1)
    with pytest.raises(TrainingFailed, match=r"example of 1[12] elements needs more than the 1000 bytes .* \d+ bytes"):
        training.out_of_memory(demand.quantum, 1, headroom=1000)


def test_what_fitted_before_is_tried_again() -> None:
    fault = Fault({40}, backward=False)
    driver = run(spec(max_steps=6), PLANS["one by one"], Rowwise(spoil=fault))
    assert fault.calls > 40
    assert_same(driver.weights(), run(spec(max_steps=6)).weights(), 1e-9)


def test_buffers_are_as_before_where_a_pass_fails() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    buffers = NetworkBuffers(network)
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}

    def fail_late() -> None:
        with buffers.kept_on_failure():
            network(torch.ones(4, 3))
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fail_late()
    assert_identical(dict(network.named_buffers()), before)
    with buffers.kept_on_failure():
        network(torch.randn(4, 3))
    assert not torch.equal(network[1].running_mean, before["1.running_mean"])  # type: ignore[arg-type]
    assert_identical({k: v for k, v in buffers.weights_then().items() if k in before}, before)
    buffers.mark()
    assert torch.equal(buffers.weights_then()["1.running_mean"], network[1].running_mean)  # type: ignore[arg-type]


# ---- figures that are none -------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_fails_the_job_with_its_step() -> None:
    calls = iter(range(1000))

    def spoil(loss: torch.Tensor) -> torch.Tensor:
        return loss * torch.nan if torch.is_grad_enabled() and next(calls) == 13 else loss

    training = trainer(spec(checkpoint={"every_steps": 1}), Rowwise(spoil=spoil))
    training.start()
    driver = Driver(training)
    with pytest.raises(TrainingFailed, match=r"the loss is nan at step \d+"):
        driver.run()
    assert training.saved, "what was reached before it is kept"


def test_a_gradient_that_is_not_finite_fails_the_job() -> None:
    def spoil(loss: torch.Tensor) -> torch.Tensor:
        return loss + (loss - loss.detach()) * torch.inf if torch.is_grad_enabled() else loss

    def finite_value(loss: torch.Tensor) -> torch.Tensor:
        spoilt = spoil(loss)
        return torch.where(torch.isfinite(spoilt), spoilt, loss * 1e308 * 10 + loss.detach())

    with pytest.raises(TrainingFailed, match=r"is (nan|inf)"):
        run(spec(), model=Rowwise(spoil=finite_value))
