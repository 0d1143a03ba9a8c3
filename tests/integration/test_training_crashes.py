"""A training job that crashes the device process every time it runs, through several lives of that process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_rig import TrainingDevice, training_settings

from batchd_server.supervisor.standing import DeviceStanding
from batchd_server.training.job_spec import JobStatus

pytestmark = pytest.mark.slow


class Lives:
    """One device process after another in the same place, and what their supervisor does about it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settings = training_settings(folder / "state", crash=True)
        self.device = self._start()

    def _start(self) -> TrainingDevice:
        return TrainingDevice(self._folder / "runtime", self._settings)

    def die(self) -> int:
        """Wait for the end of the present one, note it, and start the next."""
        process = self.device.process
        code = process.wait(120)
        self.close()
        standing = DeviceStanding(state="restarting", last_exit=code, last_pid=process.pid)
        standing.write(self._folder / "runtime")
        self.device = self._start()
        return code

    def close(self) -> None:
        self.device.close()
        self.device.store.close()


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    made = Lives(tmp_path)
    yield made
    made.close()


def test_a_job_that_crashes_every_process_ends_and_the_service_goes_on(lives: Lives) -> None:
    lives.device.front.until(lives.device.front.ready)
    job = lives.device.queue(max_steps=5)  # a process that is told may crash before it answers
    assert [lives.die() for _ in range(3)] == [-signal.SIGSEGV] * 3
    failed = lives.device.until_status(job, JobStatus.FAILED)
    assert failed.reason is not None
    assert "the device process died 3 times while this job was at work, last by SIGSEGV" in failed.reason
    events = [event.kind for event in lives.device.store.events(job.id, limit=100)]
    assert events.count("device_died") == 3
    assert events[-1] == "failed"
    lives.device.front.until(lives.device.front.ready)
    lives.device.ask(1)
    lives.device.front.until(lambda: (1, 0) in lives.device.front.answers)
    assert lives.device.front.answers[1, 0][0].error is None
    assert [each.running for each in lives.device.front.announced[-1].fallen] == [()] * 3, "no request is blamed"
    assert [each.job for each in lives.device.front.announced[-1].fallen] == [job.id] * 3
