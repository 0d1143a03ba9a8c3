"""A checkpoint that cannot be read for now: its job waits for it, others do not, and nothing is begun anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from training_rig import TrainingDevice, training_settings

from batchd_server.training.job_spec import JobStatus
from batchd_server.training.records import Job

pytestmark = pytest.mark.slow


@pytest.fixture
def device(tmp_path: Path) -> Iterator[TrainingDevice]:
    made = TrainingDevice(tmp_path / "runtime", training_settings(tmp_path / "state", learn_s=0.005))
    made.front.until(made.front.ready)
    yield made
    made.close()


def rest(device: TrainingDevice) -> Job:
    """Return a job that has learned something and is paused."""
    job = device.submit(max_steps=60)
    device.until_step(job, 3)
    device.wish(job, "pause")
    return device.until_status(job, JobStatus.PAUSED)


def spoil(device: TrainingDevice, job: Job) -> tuple[Path, bytes]:
    """Make every attempt to open a file of its checkpoint fail, which is there all the same."""
    path = device.store.checkpoints(job.id)[-1].path / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(path)
    return path, content


def mend(path: Path, content: bytes) -> None:
    whole = path.with_name("whole")
    whole.write_bytes(content)
    whole.replace(path)


def test_jobs_wait_for_what_they_go_on_from_and_others_do_not(device: TrainingDevice) -> None:
    jobs = [rest(device), rest(device)]
    steps = [device.job(job).progress.step for job in jobs]
    spoiled = [spoil(device, job) for job in jobs]
    for job in jobs:
        device.wish(job, "run")
    device.until_status(device.submit(max_steps=3), JobStatus.SUCCEEDED)
    for job, step, (path, content) in reversed(list(zip(jobs, steps, spoiled, strict=True))):
        assert device.kinds(job).count("started") == 1
        assert "resumed" not in device.kinds(job)
        assert f"job {job.id} waits: its last checkpoint cannot be read: Too many levels" in device.log.read_text()
        mend(path, content)
        device.until_status(job, JobStatus.SUCCEEDED)
        resumed = [event.data for event in device.store.events(job.id, limit=100) if event.kind == "resumed"]
        assert resumed == [{"step": step}]
    assert device.log.read_text().count("waits: its last checkpoint") == len(jobs), "each is told once"
