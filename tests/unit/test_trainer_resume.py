"""What a trainer saves, what it goes on from, and what it reports on the way."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trainable_rig import CLASSES, PLANS, Driver, Rowwise, Watched, assert_identical, run, spec, trainer

from batchd.leasing.demand import Quantum
from batchd_server.device.training.checkpoints import OPTIMIZER, STATE, WEIGHTS, JobFolder, superseded
from batchd_server.device.training.data_split import DataSplit
from batchd_server.device.training.train_report import Snapshot, TrainingFailed
from batchd_server.device.training.workshop import NoRoomYet, Room

RESUMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "adam and dropout": {"optimizer": {"name": "adam", "lr": 0.02}},
    "lamb": {"optimizer": {"name": "lamb", "lr": 0.02}},
    "noise": {"batching": {"initial": 16, "min": 8, "max": 64, "schedule": {"name": "noise_scale"}}},
    "by epoch": {"batching": {"initial": 16, "min": 8, "max": 64, "schedule": {"name": "loss_moving_average"}}},
    "selection": {"batching": {"initial": 16, "min": 8, "max": 64, "schedule": {"name": "online_selection"}}},
    "curriculum": {"batching": {"initial": 16, "min": 8, "max": 64, "schedule": {"name": "curriculum"}}},
}


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("killed_after", [1, 23, 40])
def test_a_killed_job_ends_with_the_same_bits(tmp_path: Path, changes: dict[str, Any], killed_after: int) -> None:
    job = spec(deterministic=True, max_steps=16, checkpoint={"every_steps": 3}, **changes)
    undisturbed = run(job, model=Rowwise(dropout=0.3))
    folder = JobFolder(tmp_path / "job")
    training = trainer(job, Rowwise(dropout=0.3))
    training.start()
    driver = Driver(training, PLANS["one by one"])
    for _ in range(killed_after):
        driver.turn()
        if driver.reports[-1].snapshot is not None:
            folder.write(driver.reports[-1].snapshot)
    del training, driver  # killed
    torch.manual_seed(4711)
    second = trainer(job, Rowwise(dropout=0.3))
    saved = folder.latest()
    if saved is not None:
        second.restore(saved.weights, saved.optimizer, saved.state)
    second.start()
    assert_identical(Driver(second).run().weights(), undisturbed.weights())


def test_a_pause_in_the_middle_of_a_step_begins_it_anew(tmp_path: Path) -> None:
    job = spec(deterministic=True, max_steps=8)
    training = trainer(job)
    training.start()
    driver = Driver(training, PLANS["one by one"])
    while training.step < 4:
        driver.turn()
    demand = training.report().demand
    assert demand is not None
    training.run(demand.quantum, 1)
    training.run(Quantum.CHECKPOINT, 1)
    snapshot = training.report().snapshot
    assert snapshot is not None
    assert (snapshot.step, training.saved) == (4, True)
    folder = JobFolder(tmp_path)
    folder.write(snapshot)
    saved = folder.latest()
    assert saved is not None
    second = trainer(job)
    second.restore(saved.weights, saved.optimizer, saved.state)
    second.start()
    assert_identical(Driver(second).run().weights(), run(job).weights())


def test_a_snapshot_does_not_change_afterwards() -> None:
    training = trainer(spec(checkpoint={"every_steps": 2}))
    training.start()
    driver = Driver(training)
    while not any(report.snapshot for report in driver.reports):
        driver.turn()
    snapshot = next(report.snapshot for report in driver.reports if report.snapshot)
    kept = {name: tensor.clone() for name, tensor in snapshot.weights.items()}
    state = json.dumps(snapshot.state)
    driver.run()
    assert_identical(dict(snapshot.weights), kept)
    assert json.dumps(snapshot.state) == state


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    driver = run(spec(max_steps=6, checkpoint={"every_steps": 2}))
    folder = JobFolder(tmp_path)
    for report in driver.reports:
        if report.snapshot is not None:
            folder.write(report.snapshot)
    assert sorted(folder.steps()) == [2, 4, 6]
    (tmp_path / "step-6" / STATE).write_text("{")
    (tmp_path / "step-4" / WEIGHTS).write_bytes(b"no weights")
    (tmp_path / ".step-8.1").mkdir()
    saved = folder.latest()
    assert saved is not None
    assert saved.step == 2


@pytest.mark.parametrize("file", [STATE, WEIGHTS, OPTIMIZER])
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ESTALE])
def test_what_cannot_be_read_now_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, number: int
) -> None:
    folder = JobFolder(tmp_path)
    for step in (2, 4):
        folder.write(replace(saved_at_four(), step=step))
    opened = io.open

    def failing(path: Any, *rest: Any, **more: Any) -> Any:
        if Path(path) == tmp_path / "step-4" / file:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(io, "open", failing)  # what pathlib opens files with
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            folder.latest()
        if file == STATE:
            with pytest.raises(OSError, match=re.escape(os.strerror(number))):
                folder.best()
    saved = folder.latest()
    assert saved is not None
    assert saved.step == 4
    (tmp_path / "step-4" / file).unlink()
    saved = folder.latest()
    assert saved is not None
    assert saved.step == 2, "what is not there will not be there later"


def saved_at_four() -> Snapshot:
    driver = run(spec(max_steps=4, checkpoint={"every_steps": 4}))
    return next(report.snapshot for report in driver.reports if report.snapshot is not None)


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    assert superseded([2, 4, 6, 8], keep=2, best=2) == [4]
    assert superseded([2, 4, 6, 8], keep=1, best=8) == [2, 4, 6]
    assert superseded([2], keep=3, best=None) == []
    driver = run(spec(max_steps=9, checkpoint={"every_steps": 3}))
    folder = JobFolder(tmp_path)
    snapshots = [report.snapshot for report in driver.reports if report.snapshot is not None]
    for snapshot in snapshots:
        folder.write(snapshot)
    accuracies = {snapshot.step: snapshot.validation_accuracy or 0.0 for snapshot in snapshots}
    best = folder.best()
    assert best is not None
    assert accuracies[best] == max(accuracies.values())


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = run(spec(max_steps=4, checkpoint={"every_steps": 2}))
    folder = JobFolder(tmp_path)
    first, second = (report.snapshot for report in driver.reports if report.snapshot is not None)
    folder.write(first)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write(second)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-2"]


# ---- what is reported ------------------------------------------------------------------------------------------------


def test_the_learning_rate_follows_its_rule_and_is_taken_back() -> None:
    batching = {"initial": 8, "min": 8, "max": 32, "lr_rule": {"name": "sqrt"}, "schedule": {"name": "linear"}}
    driver = run(spec(max_steps=40, batching=batching))
    steps = [step for report in driver.reports for step in report.steps]
    assert len({step.batch_size for step in steps}) > 2
    for step in steps:
        assert step.learning_rate == pytest.approx(0.05 * ((step.batch_size or 0) / 8) ** 0.5)
    assert all(group["lr"] == 0.05 for group in driver.trainer._optimizer.param_groups)


def test_validation_is_held_out_and_comes_with_every_checkpoint() -> None:
    rows = Watched()
    driver = run(
        spec(max_steps=10, validation={"fraction": 0.25, "every_steps": 4}, checkpoint={"every_steps": 5}),
        model=Rowwise(examples=rows),
    )
    found = [data["step"] for report in driver.reports for kind, data in report.events if kind == "validation"]
    assert found == [4, 5, 8, 10]
    held_out = set(DataSplit.of(rows.count, None, 0.25, 3).validation.tolist())
    assert len(held_out) == 30
    assert not held_out & {index for cut in rows.asked for index in cut}  # type: ignore[attr-defined]
    last = [report.snapshot for report in driver.reports if report.snapshot][-1]
    assert last is not None
    assert last.final
    assert 1 / CLASSES < (last.validation_accuracy or 0.0) <= 1


def test_state_and_gradients_lie_on_the_device_before_the_first_step() -> None:
    training = trainer(spec())
    before = sum(tensor.nbytes for tensor in training.resident())
    weights = sum(p.nbytes for p in training._gradients.parameters)
    assert before >= 5 * weights, "weights, gradients, a part's gradients, and two of AdamW's"
    training.start()
    Driver(training).run()
    assert sum(tensor.nbytes for tensor in training.resident()) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batching": {"initial": 200, "min": 8, "max": 512}}, "initial must be at most the 108 training examples"),
        ({"batching": {"schedule": {"name": "nonsense"}}}, "no schedule is called 'nonsense'"),
        (
            {"batching": {"schedule": {"name": "online_selection", "score": "lookahead"}}},
            "online_selection in a job scores by average",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trainer(spec(**changes))


def test_a_job_waits_for_memory_that_others_will_give_back_and_for_no_other() -> None:
    Room(free=None, held_by_jobs=0).check(10**12)
    Room(free=100, held_by_jobs=0).check(100)
    with pytest.raises(NoRoomYet, match="need 150 bytes, 100 are free beside other jobs"):
        Room(free=100, held_by_jobs=50).check(150)
    with pytest.raises(TrainingFailed, match="need 151 bytes, 150 may be used on this device"):
        Room(free=100, held_by_jobs=50).check(151)
