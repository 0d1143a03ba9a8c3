"""Training jobs in the device process: from the store to the weights, between real requests, through every mishap."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_rig import TrainingDevice, training_settings

from batchd_server.config.settings import Settings
from batchd_server.training.job_spec import JobSpec, JobStatus

Start = Callable[..., TrainingDevice]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    devices: list[TrainingDevice] = []

    def start_one(state: Path | None = None, settings: Settings | None = None, **options: Any) -> TrainingDevice:
        chosen = settings or training_settings(state or tmp_path / "state", **options)
        device = TrainingDevice(tmp_path / f"device{len(devices)}", chosen)
        devices.append(device)
        device.front.until(device.front.ready)
        return device

    yield start_one
    for device in devices:
        device.close()


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingDevice]:
    """For tests that leave the process as they found it."""
    folder = tmp_path_factory.mktemp("common")
    device = TrainingDevice(folder / "device", training_settings(folder / "state"))
    device.front.until(device.front.ready)
    yield device
    device.close()


# ---- beside inference ------------------------------------------------------------------------------------------------


def test_a_job_runs_between_requests_and_its_losses_do_not_show_it(start: Start, tmp_path: Path) -> None:
    alone = start(tmp_path / "alone")
    first = alone.until_status(alone.submit(max_steps=40), JobStatus.SUCCEEDED)

    shared = start(tmp_path / "shared", learn_s=0.05)
    second = shared.submit(max_steps=40)
    rounds = 0
    while not shared.job(second).status.final:
        numbers = range(8 * rounds, 8 * rounds + 8)
        for number in numbers:
            shared.ask(number)
        shared.front.until(lambda asked=numbers: all((each, 0) in shared.front.answers for each in asked))
        rounds += 1
    assert shared.job(second).status is JobStatus.SUCCEEDED
    assert all(answer.error is None for answer, _ in shared.front.answers.values())
    assert rounds >= 2

    one, other = alone.metrics(first), shared.metrics(second)
    assert [step.step for step in one] == [step.step for step in other] == list(range(1, 41))
    np.testing.assert_allclose([s.loss for s in one], [s.loss for s in other], rtol=1e-5)
    assert (one[-1].loss or 9) < 0.5 * (one[0].loss or 0)
    found = shared.job(second)
    assert found.progress.step == 40
    assert (found.progress.validation_accuracy or 0) > 0.6
    assert found.started is not None
    assert found.finished is not None
    assert [checkpoint.step for checkpoint in shared.store.checkpoints(second.id)] == [40]
    kinds = shared.kinds(second)
    assert kinds[:2] == ["created", "started"]
    assert kinds[-3:] == ["validation", "checkpoint", "succeeded"]


def test_several_jobs_share_the_device(start: Start) -> None:
    device = start(learn_s=0.02)
    jobs = [device.submit(max_steps=60, seed=seed) for seed in (1, 2)]
    device.until(lambda: all(device.job(job).progress.step > 5 for job in jobs))
    assert not any(device.job(job).status.final for job in jobs), "one waited for the other"
    for job in jobs:
        device.until_status(job, JobStatus.SUCCEEDED)


def test_the_journal_holds_every_change_of_the_batch_size(common: TrainingDevice) -> None:
    device = common
    schedule = {"name": "exponential", "factor": 2.0, "every_examples": 100}
    job = device.submit(max_steps=30, batching={"initial": 8, "min": 8, "max": 64, "schedule": schedule})
    device.until_status(job, JobStatus.SUCCEEDED)
    changed = [commit for commit in device.store.commits(job.id) if commit.changed]
    assert [commit.size for commit in changed] == [16, 32, 64]
    assert device.kinds(job).count("batch_size") == 3
    sizes = [step.batch_size or 0 for step in device.metrics(job)]
    begins = [0, *(commit.step for commit in changed), len(sizes)]
    for size, begin, end in zip([8, 16, 32, 64], begins[:-1], begins[1:], strict=True):
        assert max(sizes[begin:end]) == size, "an epoch's last step may be smaller"


# ---- wishes ----------------------------------------------------------------------------------------------------------


def test_pause_resume_and_cancel(start: Start) -> None:
    device = start(learn_s=0.003)
    job = device.submit(max_steps=5000, checkpoint={"every_steps": 5000, "keep": 1})
    device.until_step(job, 3)
    device.wish(job, "pause")
    paused = device.until_status(job, JobStatus.PAUSED)
    device.answer(1)
    step = device.job(job).progress.step
    assert device.store.checkpoints(job.id)[-1].step == step
    assert paused.reason is None

    device.wish(job, "run")
    device.until_status(job, JobStatus.RUNNING)
    device.until_step(job, step + 3)
    assert "resumed" in device.kinds(job)

    device.wish(job, "cancel")
    device.until_status(job, JobStatus.CANCELLED)
    assert device.kinds(job)[-1] == "cancelled"
    assert device.front.control("status").result["leases"]["tenants"] == []


def test_a_job_that_has_not_begun_is_paused_and_cancelled(start: Start, tmp_path: Path) -> None:
    device = start()
    device.process.send_signal(signal.SIGSTOP)
    spec = JobSpec.model_validate(
        {"model": "rows", "dataset": "digit-lines", "max_steps": 3, "batching": {"initial": 8, "max": 64}}
    )
    job, other = device.store.create_job(spec), device.store.create_job(spec)
    device.store.wish(job.id, "pause")
    device.store.wish(other.id, "cancel")
    device.process.send_signal(signal.SIGCONT)
    device.until_status(job, JobStatus.PAUSED)
    device.until_status(other, JobStatus.CANCELLED)
    device.wish(job, "run")
    device.until_status(job, JobStatus.SUCCEEDED)


# ---- death -----------------------------------------------------------------------------------------------------------


def test_killed_at_any_moment_a_job_ends_with_the_same_bits(start: Start, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "max_steps": 60,
        "deterministic": True,
        "checkpoint": {"every_steps": 7, "keep": 2},
        "batching": {"initial": 16, "min": 8, "max": 64, "schedule": {"name": "noise_scale"}},
    }
    quiet = start(tmp_path / "quiet")
    undisturbed = quiet.until_status(quiet.submit(**changes), JobStatus.SUCCEEDED)

    rng = random.Random(11)
    device = start(tmp_path / "killed", learn_s=0.002)
    job = device.submit(**changes)
    for _ in range(3):
        device.until_step(job, min(60, device.job(job).progress.step + rng.randrange(1, 15)))
        os.kill(device.process.pid, signal.SIGKILL)
        device.process.wait(10)
        device = start(tmp_path / "killed", learn_s=0.002)
    device.until_status(job, JobStatus.SUCCEEDED)
    assert device.weights(job) == quiet.weights(undisturbed)
    one, other = quiet.metrics(undisturbed), device.metrics(job)
    assert [(step.step, step.loss, step.batch_size) for step in one] == [
        (step.step, step.loss, step.batch_size) for step in other
    ]
    assert len(device.store.checkpoints(job.id)) <= 3
    on_disk = {path.name for path in (tmp_path / "killed" / "training" / job.id).iterdir()}
    assert on_disk == {f"step-{checkpoint.step}" for checkpoint in device.store.checkpoints(job.id)}


def test_an_orderly_end_saves_what_was_reached(start: Start, tmp_path: Path) -> None:
    device = start(learn_s=0.03)
    job = device.submit(max_steps=120, checkpoint={"every_steps": 1000, "keep": 1})
    device.until_step(job, 4)
    assert device.terminate() == 0
    found = device.job(job)
    assert found.status is JobStatus.RUNNING, "it goes on by itself"
    (saved,) = device.store.checkpoints(job.id)
    assert saved.step >= 4
    device = start()
    device.until_status(job, JobStatus.SUCCEEDED)
    resumed = [event for event in device.store.events(job.id, after=0, limit=100) if event.kind == "resumed"]
    assert resumed[0].data["step"] == saved.step


# ---- memory ----------------------------------------------------------------------------------------------------------

MIB = 2**20


def test_out_of_memory_makes_microbatches_smaller_and_loses_nothing(start: Start, tmp_path: Path) -> None:
    roomy = start(tmp_path / "roomy")
    first = roomy.until_status(roomy.submit(max_steps=12), JobStatus.SUCCEEDED)
    # four examples at once fit, so a third of a step's part does not
    device = start(memory_bytes=9 * MIB, bytes_per_example=2 * MIB)
    job = device.until_status(device.submit(max_steps=12), JobStatus.SUCCEEDED)
    steps = device.metrics(job)
    assert [step.step for step in steps] == list(range(1, 13))
    assert max(step.microbatch or 0 for step in steps) <= 4
    np.testing.assert_allclose([s.loss for s in steps], [s.loss for s in roomy.metrics(first)], rtol=1e-5)
    assert device.answer(1).shape == (6, 3)


@pytest.mark.parametrize(
    ("memory_bytes", "bytes_per_example", "said"),
    [
        (MIB, 2 * MIB, r"one example of \d+ elements needs more than the \d+ bytes that are free, beside 5340 bytes"),
        (4096, 0, r"weights, gradients and optimizer state need \d+ bytes, \d+ may be used on this device"),
    ],
)
def test_a_job_that_can_never_fit_fails_at_once_with_the_figures(
    start: Start, memory_bytes: int, bytes_per_example: int, said: str
) -> None:
    device = start(memory_bytes=memory_bytes, bytes_per_example=bytes_per_example)
    job = device.submit()
    device.until(lambda: device.job(job).status.final)
    found = device.job(job)
    assert found.status is JobStatus.FAILED
    assert found.reason is not None
    assert re.search(said, found.reason), found.reason
    assert device.answer(1, rows=2).shape == (2, 3)


# ---- what cannot work ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_fails_the_job_and_keeps_its_checkpoint(start: Start) -> None:
    device = start(nan_after=120)
    job = device.submit(max_steps=500, checkpoint={"every_steps": 2, "keep": 1})
    device.until(lambda: device.job(job).status.final)
    found = device.job(job)
    assert found.status is JobStatus.FAILED
    failed = device.store.events(job.id, after=0, limit=1000)[-1]
    assert failed.kind == "failed"
    assert f"the loss is nan at step {failed.data['step'] + 1}" in str(found.reason)
    assert device.store.checkpoints(job.id)[-1].path.is_dir()
    assert device.answer(1).shape == (6, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "nowhere"}, "there is no dataset 'nowhere'"),
        ({"model": "nobody"}, "model 'nobody' is not configured"),
        ({"batching": {"initial": 500, "min": 8, "max": 512}}, "initial must be at most the 108 training examples"),
    ],
)
def test_what_cannot_begin_fails_with_its_reason(common: TrainingDevice, changes: dict[str, Any], said: str) -> None:
    device = common
    job = device.submit(**changes)
    device.until(lambda: device.job(job).status.final)
    assert device.job(job).status is JobStatus.FAILED
    assert said in str(device.job(job).reason)


def test_a_disk_that_takes_nothing_fails_the_job_with_the_reason(start: Start) -> None:
    device = start()
    device.places.checkpoints.write_text("a file is in the way")
    job = device.submit(checkpoint={"every_steps": 5, "keep": 1})
    device.until(lambda: device.job(job).status.final)
    assert device.job(job).status is JobStatus.FAILED
    assert "the checkpoint of step 20 cannot be written: " in str(device.job(job).reason)
    assert device.kinds(job).count("checkpoint_failed") == 3
    assert device.answer(1).shape == (6, 3)


# ---- into serving ----------------------------------------------------------------------------------------------------


def test_promotion_serves_the_weights_keeps_them_and_can_be_undone(start: Start) -> None:
    device = start()
    before = device.answer(1)
    job = device.until_status(device.submit(checkpoint={"every_steps": 10, "keep": 2}), JobStatus.SUCCEEDED)
    numbers = iter(range(10, 10_000))

    def promote(step: int) -> Any:
        """Promote while requests are on their way."""
        asked = [next(numbers) for _ in range(20)]
        for number in asked:
            device.ask(number)
        reply = device.front.control("promote", model="rows", job=job.id, checkpoint=step)
        assert reply.error is None, reply.error
        device.front.until(lambda: all((number, 0) in device.front.answers for number in asked))
        assert all(device.front.answers[number, 0][0].error is None for number in asked)
        return device.answer(next(numbers) * 7 + 1)

    at_10, at_20 = promote(10), promote(20)
    assert np.abs(at_10 - before).max() > 0.01
    assert np.abs(at_20 - at_10).max() > 0.001
    device.until(lambda: device.kinds(job).count("promoted") == 2)

    os.kill(device.process.pid, signal.SIGKILL)
    device.process.wait(10)
    device = start()
    np.testing.assert_array_equal(device.answer(1), at_20)
    assert device.front.control("rollback", model="rows").error is None
    np.testing.assert_array_equal(device.answer(8), at_10)
    assert device.front.control("rollback", model="rows").error is None
    error = device.front.control("rollback", model="rows").error
    assert error is not None
    assert error[0] == 409
    missing = device.front.control("promote", model="rows", job=job.id, checkpoint=11).error
    assert missing is not None
    assert missing[0] == 404


def test_training_goes_on_while_the_store_is_in_use(common: TrainingDevice) -> None:
    device = common
    job = device.submit(max_steps=150)
    seen: list[int] = []
    give_up = time.monotonic() + 60
    while not device.job(job).status.final and time.monotonic() < give_up:
        seen.append(len(device.store.metrics(job.id, after_step=0, limit=1000)))
    assert device.job(job).status is JobStatus.SUCCEEDED
    assert seen == sorted(seen)
    assert len(device.metrics(job)) == 150
