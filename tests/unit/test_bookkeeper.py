"""What is said of jobs is written once, whatever fails meanwhile, and checkpoints of lives given up go."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from batchd.governor import Commit
from batchd_server.device.training.bookkeeper import Bookkeeper
from batchd_server.device.training.checkpoints import WEIGHTS, JobFolder
from batchd_server.device.training.journal import Entry, JobsSeen, SnapshotSaved, TroubleSeen
from batchd_server.device.training.strikes import note_death
from batchd_server.device.training.train_report import Snapshot
from batchd_server.link.messages import Fallen
from batchd_server.training.job_spec import JobSpec, JobStatus
from batchd_server.training.places import Places
from batchd_server.training.records import Progress, StepMetrics
from batchd_server.training.store import TrainingStore
from batchd_server.training.store_database import StoreError
from batchd_server.training.trouble import Trouble

TIMEOUT_S = 30.0
SNAPSHOT = Snapshot(
    step=0,
    weights={"weight": torch.zeros(50)},
    optimizer={"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    state={},
    validation_accuracy=0.5,
    validation_loss=1.0,
    final=False,
)


class Desk:
    """A bookkeeper, the store that it writes to, and what it has said."""

    def __init__(self, directory: Path) -> None:
        self.places = Places(
            database=f"sqlite:///{directory}/jobs.sqlite", directory=directory, data_root=None, lasting=True
        )
        self.store = TrainingStore.open(self.places.database)
        self.job = self.store.create_job(JobSpec(model="m", dataset="d", max_steps=100)).id
        self.folder = JobFolder(self.places.checkpoints / self.job)
        self.news: queue.SimpleQueue[JobsSeen | SnapshotSaved | TroubleSeen] = queue.SimpleQueue()
        self.bookkeeper = Bookkeeper(self.places, self.news.put)
        self.bookkeeper.start()

    def save(self, step: int, keep: int = 1) -> None:
        """Have a checkpoint written, and wait for it."""
        self.bookkeeper.save(self.job, replace(SNAPSHOT, step=step), keep)
        while True:
            said = self.news.get(timeout=TIMEOUT_S)
            if isinstance(said, SnapshotSaved):
                assert (said.snapshot.step, said.problem) == (step, None)
                return

    def until_written(self, entries: int) -> None:
        while True:
            self.bookkeeper.poll()
            said = self.news.get(timeout=TIMEOUT_S)
            if isinstance(said, JobsSeen) and said.written == entries:
                return

    def saved(self) -> list[int]:
        """The steps that the store knows; the folder has the same."""
        known = [checkpoint.step for checkpoint in self.store.checkpoints(self.job)]
        assert sorted(self.folder.steps()) == known
        return known

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events(self.job, limit=1000)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    assert made.bookkeeper.stop(TIMEOUT_S)
    made.store.close()


def test_a_checkpoint_that_nobody_had_time_to_note_is_noted_with_the_next(desk: Desk) -> None:
    """It may be the best, which stays, and could not be promoted otherwise."""
    desk.save(7, keep=2)
    best = replace(SNAPSHOT, step=14, validation_accuracy=0.9)
    path, num_bytes = desk.folder.write(best)  # and there its process is killed
    for step in (21, 28, 35):
        desk.save(step, keep=2)
    assert desk.saved() == [14, 28, 35]
    noted = desk.store.checkpoints(desk.job)[0]
    assert (noted.path, noted.bytes, noted.validation_accuracy, noted.best) == (path, num_bytes, 0.9, True)
    assert [checkpoint.best for checkpoint in desk.store.checkpoints(desk.job)] == [True, False, False]


@pytest.mark.parametrize("keep", [1, 2])
def test_checkpoints_of_a_life_that_was_given_up_go_when_the_next_one_is_saved(desk: Desk, keep: int) -> None:
    for step in (400, 500):
        desk.save(step, keep)
    for step in desk.saved():
        (desk.folder.path / f"step-{step}" / WEIGHTS).write_bytes(b"no weights")
    assert desk.folder.latest() is None
    for step in (20, 40):
        desk.save(step, keep)
        assert desk.saved()[-1] == step
        latest = desk.folder.latest()
        assert latest is not None
        assert latest.step == step
    assert desk.saved() == [20, 40][-keep:]


def test_a_job_that_began_anew_behind_a_damaged_checkpoint_gets_ahead_all_the_same(desk: Desk) -> None:
    desk.save(500)
    (desk.folder.path / "step-500" / WEIGHTS).write_bytes(b"no weights")
    for life in range(20):
        fallen = Fallen(incarnation=str(life), exit=-11, running=(), job=desk.job)
        note_death(desk.store, desk.places.checkpoints, fallen)
        assert desk.store.job(desk.job).status is JobStatus.QUEUED
        desk.save(10 * (life + 1))


@pytest.mark.parametrize("failing", ["add_event", "add_commit", "update"])
@pytest.mark.parametrize("calls_before", [0, 1])
def test_news_that_the_store_takes_half_of_are_written_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, failing: str, calls_before: int
) -> None:
    calls = iter([True] * calls_before + [False] * 2)
    whole = getattr(TrainingStore, failing)

    def now_and_then(*arguments: Any, **named: Any) -> Any:
        if not next(calls, True):
            raise StoreError("the job store failed", Trouble.STORE_FAILED)
        return whole(*arguments, **named)

    monkeypatch.setattr(TrainingStore, failing, now_and_then)
    entries = [
        Entry(
            job=desk.job,
            steps=[StepMetrics(step=step, examples=step, epoch=0.0, loss=1.0, batch_size=8, seconds=0.1)],
            commits=[
                Commit(
                    step=step, schedule="linear", raw=1.0, smoothed=1.0, size=8, reason="grows", changed=step % 2 == 1
                )
            ],
            events=[("validation", {"step": step})],
            progress=Progress(step=step),
            status=JobStatus.RUNNING if step == 3 else None,
        )
        for step in (1, 2, 3)
    ]
    for entry in entries:
        desk.bookkeeper.write(entry)
    desk.until_written(len(entries))
    assert desk.kinds() == ["created", "validation", "validation", "validation"]
    assert [row.step for row in desk.store.metrics(desk.job, limit=10)] == [1, 2, 3]
    assert [commit.step for commit in desk.store.commits(desk.job)] == [1, 3]
    assert desk.store.job(desk.job).status is JobStatus.RUNNING
    assert desk.store.job(desk.job).progress.step == 3


def test_a_checkpoint_that_the_store_takes_half_of_is_noted_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.save(10)
    fails = iter([True, True])
    drop = TrainingStore.drop_checkpoint

    def now_and_then(store: TrainingStore, job: str, step: int) -> None:
        if next(fails, False):
            raise StoreError("the job store failed", Trouble.STORE_FAILED)
        drop(store, job, step)

    monkeypatch.setattr(TrainingStore, "drop_checkpoint", now_and_then)
    monkeypatch.setattr(JobFolder, "best", lambda _: None)
    desk.save(20)
    assert desk.kinds() == ["created", "checkpoint", "checkpoint"]
    assert desk.saved() == [20]
