"""The job store is locked, deleted or overwritten, or its disk fills up: jobs rest, say why, and go on from there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from device_process_rig import Device
from disk_fault_rig import check_database
from small_disk_rig import MIB, SmallDisk, breaking_disk, read_only, small_disk
from training_rig import MODEL, TrainingDevice, training_settings

from batchd_server.training.job_spec import JobStatus
from batchd_server.training.places import DATABASE
from batchd_server.training.store import StoreError, TrainingStore

pytestmark = pytest.mark.slow
TRAINABLE = Path(__file__).parents[1] / "support" / "trainable_rig.py"
Start = Callable[..., TrainingDevice]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Stands before `start` in a test: devices end first."""
    with small_disk(tmp_path / "disk", 4 * MIB) as made:
        yield made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    devices: list[TrainingDevice] = []

    def start_one(state: Path, learn_s: float = 0.003) -> TrainingDevice:
        device = TrainingDevice(tmp_path / f"device{len(devices)}", training_settings(state, learn_s=learn_s))
        devices.append(device)
        device.front.until(device.front.ready)
        return device

    yield start_one
    for device in devices:
        device.close()


def until_trouble(device: TrainingDevice, code: str) -> None:
    """Wait for the device process to say so; "" is that all is well."""
    device.front.until(lambda: device.front.state is not None and device.front.state.training_trouble == code)


def test_a_lock_that_another_process_holds_is_waited_for(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state"
    device = start(state, learn_s=0.01)
    job = device.submit(max_steps=400)
    device.until_step(job, 3)
    other = sqlite3.connect(state / DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    until_trouble(device, "store_locked")
    reached = device.job(job).progress.step
    assert device.answer(1).shape == (6, 3)
    other.execute("ROLLBACK")
    other.close()
    until_trouble(device, "")
    device.until_status(job, JobStatus.SUCCEEDED)
    assert [step.step for step in device.metrics(job)] == list(range(1, 401))
    assert 3 <= reached < 400
    assert device.log.read_text().count("training rests") == 1


def test_a_store_that_is_deleted_is_made_anew_and_its_jobs_are_gone(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state"
    device = start(state)
    job = device.submit(max_steps=100_000)
    device.until_step(job, 3)
    (state / DATABASE).unlink()
    device.until(lambda: f"job {job.id} is gone from the store" in device.log.read_text())
    with pytest.raises(StoreError, match=r"deleted|replaced"):
        device.job(job)
    until_trouble(device, "")
    device.store.close()
    device.store = TrainingStore.open(device.places.database)
    assert device.store.jobs(limit=9) == []
    device.until_status(device.submit(max_steps=5), JobStatus.SUCCEEDED)
    assert device.answer(1).shape == (6, 3)
    check_database(state)


def test_garbage_in_the_place_of_the_store_is_told_and_jobs_go_on_when_it_is_back(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state"
    device = start(state, learn_s=0.02)
    job = device.submit(max_steps=200)
    device.until_step(job, 3)
    aside = state / "aside"
    aside.hardlink_to(state / DATABASE)  # so that there is one at every moment
    (state / "garbage").write_bytes(b"no database, whatever its name says" * 500)
    (state / "garbage").rename(state / DATABASE)
    until_trouble(device, "store_damaged")
    assert device.answer(1).shape == (6, 3)
    aside.rename(state / DATABASE)
    until_trouble(device, "")
    device.store.close()
    device.store = TrainingStore.open(device.places.database)
    device.until_status(job, JobStatus.SUCCEEDED)
    assert [step.step for step in device.metrics(job)] == list(range(1, 201))
    device.store.close()
    assert device.terminate() == 0
    check_database(state)


class WithoutStore(TrainingDevice):
    """Where the test could not open the store either."""

    def __init__(self, directory: Path, state: Path) -> None:
        directory.mkdir()
        for name, text in (("served_rows.py", MODEL), ("trainable_rig.py", TRAINABLE.read_text())):
            (directory / name).write_text(text)
        Device.__init__(self, directory, training_settings(state))

    def close(self) -> None:
        Device.close(self)


def serves_and_says_why(directory: Path, state: Path, trouble: str) -> None:
    device = WithoutStore(directory, state)
    try:
        device.front.until(device.front.ready)
        until_trouble(device, trouble)
        for number in range(3):
            assert device.answer(number).shape == (6, 3)
        metrics = device.front.control("metrics").result
        assert f'batchd_training_paused{{reason="{trouble}"}} 1.0' in metrics
        assert device.terminate() == 0
        assert device.log.read_text().count("training rests") == 1, "once, not every second"
    finally:
        device.close()


def test_garbage_at_the_start_keeps_nobody_from_being_served(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / DATABASE).write_bytes(b"no database, whatever its name says" * 500)
    serves_and_says_why(tmp_path / "device", state, "store_damaged")


def test_a_full_disk_at_the_start_keeps_nobody_from_being_served(disk: SmallDisk, tmp_path: Path) -> None:
    disk.fill()
    serves_and_says_why(tmp_path / "device", disk.path / "state", "disk_full")


def test_a_read_only_disk_at_the_start_keeps_nobody_from_being_served(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with read_only(state):
        serves_and_says_why(tmp_path / "device", state, "disk_read_only")


def test_a_disk_that_breaks_while_a_job_trains(start: Start, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"max_steps": 60, "deterministic": True, "checkpoint": {"every_steps": 7, "keep": 2}}
    quiet = start(tmp_path / "quiet", learn_s=0.0)
    undisturbed = quiet.until_status(quiet.submit(**changes), JobStatus.SUCCEEDED)
    image, place = tmp_path / "image", tmp_path / "disk"
    with breaking_disk(image, place) as break_it:
        device = start(place / "state", learn_s=0.05)
        job = device.submit(**changes)
        device.until_step(job, 12)
        break_it()
        until_trouble(device, "disk_read_only")
        assert device.answer(1).shape == (6, 3)
        assert device.terminate() == 0, "there is nothing that it could wait for"
        assert device.log.read_text().count("training rests") == 1
        device.close()
    with breaking_disk(image, place):  # mounted anew, as after a repair
        device = start(place / "state")
        device.until_status(job, JobStatus.SUCCEEDED)
        assert device.weights(job) == quiet.weights(undisturbed)
        device.close()
        check_database(place / "state")


def test_a_job_that_waits_for_room_is_cancelled_and_others_go_on(disk: SmallDisk, start: Start) -> None:
    state = disk.path / "state"
    device = start(state)
    large = device.submit(max_steps=100_000, checkpoint={"every_steps": 5, "keep": 1})
    device.until_step(large, 3)
    other = device.submit(max_steps=100_000, checkpoint={"every_steps": 100_000, "keep": 1})
    device.until_step(other, 3)
    disk.fill(leave=MIB // 2)
    until_trouble(device, "disk_full")
    reached = device.job(other).progress.step
    device.until(lambda: "paused" in device.kinds(large))
    device.wish(large, "cancel")
    device.until_status(large, JobStatus.CANCELLED)
    until_trouble(device, "")
    device.until_step(other, reached + 5)
    assert list((state / "training" / large.id).glob(".*")) == [], "half a checkpoint was left"
    disk.empty()
    device.wish(other, "pause")
    device.until_status(other, JobStatus.PAUSED)
    assert device.store.checkpoints(other.id)[-1].step == device.job(other).progress.step


def test_the_end_does_not_wait_for_a_disk_that_stays_full(disk: SmallDisk, start: Start) -> None:
    device = start(disk.path / "state")
    job = device.submit(max_steps=100_000, checkpoint={"every_steps": 5, "keep": 1})
    device.until_step(job, 12)
    disk.fill()
    until_trouble(device, "disk_full")
    disk.fill()  # what half a checkpoint gave back
    saved = device.store.checkpoints(job.id)[-1].step
    assert device.terminate() == 0
    disk.empty()
    device = start(disk.path / "state")
    device.until_step(job, saved + 3)
    resumed = [event for event in device.store.events(job.id, limit=9999) if event.kind == "resumed"]
    assert [event.data["step"] for event in resumed] == [saved]
    assert all(step.step for step in device.metrics(job))
