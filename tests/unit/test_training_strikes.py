"""Jobs that end device processes are told from jobs that are interrupted, and what is saved how often meanwhile."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from trainable_rig import Driver, assert_identical, run, spec, trainer

from batchd_server.device.training.checkpoint_pace import AT_LAST_S, COST, FIRST_S, LONGEST_S, CheckpointPace
from batchd_server.device.training.strikes import BUILDING, CRASHES, DEATHS, EVENT, note_death
from batchd_server.link.messages import Fallen, RunningItem
from batchd_server.training.job_spec import JobSpec, JobStatus
from batchd_server.training.records import Job
from batchd_server.training.store import TrainingStore

SEGFAULT, KILL = -signal.SIGSEGV, -signal.SIGKILL


class History:
    """A job in a store, and the deaths that it lives through."""

    def __init__(self, folder: Path) -> None:
        self.store = TrainingStore.open(f"sqlite:///{folder}/jobs.sqlite")
        self.checkpoints = folder / "training"
        self.job = self.store.create_job(JobSpec(model="m", dataset="d", max_steps=100))
        self.deaths = 0

    def die(
        self, code: int | None, *, building: bool = False, beside: tuple[str, ...] = (), request: bool = False
    ) -> Job:
        self.deaths += 1
        fallen = Fallen(
            incarnation=str(self.deaths),
            exit=code,
            running=(RunningItem(b"f", 1, 0),) if request else (),
            job="" if building else self.job.id,
            beside=(*beside, *([BUILDING + self.job.id] if building else [])),
        )
        for _ in range(3):  # a store that failed is asked again
            note_death(self.store, self.checkpoints, fallen)
        return self.now()

    def now(self) -> Job:
        return self.store.job(self.job.id)

    def save(self, step: int) -> None:
        (self.checkpoints / self.job.id / f"step-{step}").mkdir(parents=True)

    def told(self) -> list[int]:
        return [event.data["deaths"] for event in self.store.events(self.job.id, limit=1000) if event.kind == EVENT]


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path)
    yield made
    made.store.close()


@pytest.mark.parametrize("building", [False, True])
def test_a_job_that_keeps_crashing_fails_with_the_reason(history: History, building: bool) -> None:
    for _ in range(CRASHES - 1):
        assert history.die(SEGFAULT, building=building).status is JobStatus.QUEUED
    job = history.die(SEGFAULT, building=building)
    assert job.status is JobStatus.FAILED
    assert job.reason == (
        "the device process died 3 times while this job was at work, last by SIGSEGV, without a checkpoint in between"
    )
    assert history.told() == [1, 2, 3], "each death is noted once"
    kinds = [event.kind for event in history.store.events(job.id, limit=100)]
    assert kinds[-2:] == [EVENT, "failed"]


def test_a_job_that_gets_ahead_is_interrupted_for_ever(history: History) -> None:
    for life in range(40):
        history.save(life + 1)
        assert history.die(SEGFAULT).status is JobStatus.QUEUED
    assert set(history.told()) == {1}


def test_kills_from_outside_count_but_not_for_much(history: History) -> None:
    for _ in range(DEATHS - 1):
        assert history.die(KILL).status is JobStatus.QUEUED
    job = history.die(KILL)
    assert job.status is JobStatus.FAILED
    assert job.reason is not None
    assert f"{DEATHS} times" in job.reason


def test_with_others_at_work_it_may_have_been_any_of_them(history: History) -> None:
    for _ in range(2 * CRASHES):
        assert history.die(SEGFAULT, request=True).status is JobStatus.QUEUED
    assert history.die(SEGFAULT, beside=("loading model m",)).status is JobStatus.QUEUED
    assert history.die(SEGFAULT, beside=(BUILDING + "job-of-another",)).status is JobStatus.QUEUED


def test_who_has_ended_or_is_gone_has_no_part_in_it(history: History) -> None:
    history.store.update(history.job.id, status=JobStatus.SUCCEEDED)
    for _ in range(DEATHS):
        assert history.die(SEGFAULT).status is JobStatus.SUCCEEDED
    assert history.told() == []
    note_death(history.store, history.checkpoints, Fallen(incarnation="x", exit=SEGFAULT, running=(), job="job-gone"))


# ---- what is saved how often -----------------------------------------------------------------------------------------


def saves(pace: CheckpointPace, until: float, cost: float) -> list[float]:
    """When a job that always has the device is saved."""
    now, found = 0.0, []
    while now < until:
        if pace.due(now):
            pace.saved(now)
            found.append(now)
            now += cost
        pace.runs(now)
        now += 0.25
    return found


def test_a_job_that_was_interrupted_is_saved_soon_and_then_less_and_less_often() -> None:
    pace = CheckpointPace()
    pace.begin(0.0, interrupted=True)
    found = saves(pace, 600.0, 0.0)
    gaps = [later - earlier for earlier, later in zip([0.0, *found], found, strict=False)]
    assert found[0] <= FIRST_S + 0.25
    assert len([each for each in found if each < 5.0]) >= 2
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(LONGEST_S, abs=0.5)


@pytest.mark.parametrize("cost", [0.5, 3.0, 1000.0])
def test_saving_takes_a_small_part_of_the_time_however_long_it_takes(cost: float) -> None:
    pace = CheckpointPace()
    pace.begin(0.0, interrupted=True)
    found = saves(pace, 10_000.0, cost)
    gaps = [later - earlier - cost for earlier, later in itertools.pairwise(found)]
    assert all(gap >= min(AT_LAST_S, COST * cost) for gap in gaps)


def test_a_job_that_was_not_interrupted_is_not_disturbed_at_first() -> None:
    pace = CheckpointPace()
    pace.begin(0.0, interrupted=False)
    assert saves(pace, LONGEST_S, 0.0) == []


def test_what_is_saved_on_the_way_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved after every step, and begun anew from the last of them, a job ends at the same weights to the bit."""
    job = spec(deterministic=True, checkpoint={"every_steps": 1000}, validation={"every_steps": 5})
    whole = run(job)
    assert [report.snapshot.step for report in whole.reports if report.snapshot is not None] == [12]
    monkeypatch.setattr(CheckpointPace, "due", lambda self, now: True)
    often = run(job)
    steps = [report.snapshot.step for report in often.reports if report.snapshot is not None]
    assert steps == list(range(1, 13))
    assert_identical(often.weights(), whole.weights())
    middle = next(
        report.snapshot for report in often.reports if report.snapshot is not None and report.snapshot.step == 7
    )
    resumed = trainer(job)
    resumed.restore(middle.weights, middle.optimizer, middle.state)
    resumed.start(interrupted=True)
    assert_identical(Driver(resumed).run().weights(), whole.weights())
    assert torch.equal(next(iter(whole.weights().values())), next(iter(often.weights().values())))
