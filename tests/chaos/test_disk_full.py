"""The disk with the state fills up while requests come and a job trains: serving goes on, training waits for room."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_rig import daemon
from disk_fault_rig import JOB, JOBS, Operator, asked_all_the_time, check_database, config, lines_of, operator, weights
from small_disk_rig import MIB, SmallDisk, small_disk

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 8 * MIB) as made:
        yield made


def refused_for_the_disk(looking: Operator) -> None:
    """Whatever would have to be stored is refused, with the reason and when to come again."""
    job = {"model": "chaos", "dataset": "digit-lines", "max_steps": 3}
    upload = b'{"x": [1.0]}\n' * 400_000
    for answer in (
        looking.client.post(JOBS, json=job),
        looking.client.post("/v1/datasets", params={"name": "more", "format": "jsonl"}, content=upload),
    ):
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] == "disk_full"
        assert "the disk is full" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0


def test_serving_goes_on_and_training_waits_for_room(tmp_path: Path, disk: SmallDisk, undisturbed: bytes) -> None:
    state = disk.path / "state"
    with (
        daemon(tmp_path, config(tmp_path, state)) as running,
        operator(running) as looking,
        asked_all_the_time(running) as asker,
    ):
        job = looking.submit()
        looking.until_step(job, 12)
        disk.fill()
        told = looking.until_status(job, "paused")
        disk.fill()  # what half a checkpoint gave back
        assert told["reason"] == "the disk is full; it goes on by itself"
        assert looking.training()["trouble"] == "the disk is full"
        assert 'batchd_training_paused{reason="disk_full"} 1.0' in looking.metrics()
        refused_for_the_disk(looking)
        assert list((state / "datasets").glob("*")) == [], "a part of the upload was left"
        seen, asked = looking.job(job)["progress"]["step"], asker.asked
        while asker.asked < asked + 40:
            time.sleep(0.1)
        assert looking.job(job)["progress"]["step"] == seen, "it trains although nothing can be kept"
        disk.empty()
        looking.until_status(job, "succeeded")
        assert looking.training()["trouble"] is None
        assert "batchd_training_paused{" not in looking.metrics()
        kinds = looking.kinds(job)
        assert kinds.index("paused") < kinds.index("resumed") < kinds.index("succeeded")
        assert [step for step, _ in looking.steps(job)] == list(range(1, JOB["max_steps"] + 1))
        assert len(lines_of(running, "training rests")) <= 3, "the log is flooded"
    assert weights(state, job) == undisturbed
    check_database(state)


def test_a_checkpoint_that_does_not_fit_waits_and_the_last_one_stays(
    tmp_path: Path, disk: SmallDisk, undisturbed: bytes
) -> None:
    state = disk.path / "state"
    with (
        daemon(tmp_path, config(tmp_path, state)) as running,
        operator(running) as looking,
        asked_all_the_time(running),
    ):
        job, other = looking.submit(), looking.submit(max_steps=5000)
        looking.until_step(job, 12)
        disk.fill(leave=MIB // 2)  # enough for the database to say why
        assert looking.client.post(f"{JOBS}/{other}/cancel").status_code == 200  # which may be what makes room
        looking.until_status(other, "cancelled")
        looking.until_status(job, "paused")
        saved = looking.client.get(f"{JOBS}/{job}/checkpoints").json()["data"]
        assert saved
        assert all((state / "training" / job / f"step-{each['step']}").is_dir() for each in saved)
        assert list((state / "training" / job).glob(".*")) == [], "a part of a checkpoint was left"
        disk.empty()
        looking.until_status(job, "succeeded")
        assert "checkpoint_failed" not in looking.kinds(job)
    assert weights(state, job) == undisturbed
    check_database(state)


def test_killed_while_the_disk_is_full_nothing_is_lost(tmp_path: Path, disk: SmallDisk, undisturbed: bytes) -> None:
    state = disk.path / "state"
    with daemon(tmp_path, config(tmp_path, state)) as running, operator(running) as looking:
        job = looking.submit()
        looking.until_step(job, 12)
        disk.fill()
        looking.until_status(job, "paused")
        disk.fill()  # what half a checkpoint gave back
        os.kill(looking.status()["device"]["pid"], signal.SIGKILL)
        looking.until_status(job, "paused")  # the next process finds out by itself
        os.killpg(running.process.pid, signal.SIGKILL)
    with (
        daemon(tmp_path, config(tmp_path, state)) as running,
        operator(running) as looking,
        asked_all_the_time(running),
    ):
        looking.until_status(job, "paused")
        assert looking.training()["trouble"] == "the disk is full"
        refused_for_the_disk(looking)
        assert len(lines_of(running, "training rests")) == 1, "once, not every second"
        disk.empty()
        looking.until_status(job, "succeeded")
    assert weights(state, job) == undisturbed
    check_database(state)
