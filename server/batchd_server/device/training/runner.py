"""The training jobs of this device process: taken up from the store, lent the device, and brought to their ends.

Runs on the engine's thread and never waits: the store and the checkpoints are the bookkeeper's, trainers are made in
the workshop, and quanta run on the executor's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, assert_never

from batchd.controller import Controller
from batchd.decision import RunMicrobatch
from batchd.device_scheduler import DeviceScheduler
from batchd.leasing.demand import Demand, Quantum
from batchd.outcome import Completed
from batchd_server.device.black_box import BlackBox
from batchd_server.device.repository import Repository
from batchd_server.device.training.bookkeeper import Bookkeeper
from batchd_server.device.training.journal import (
    Entry,
    JobsSeen,
    SnapshotSaved,
    TrainerFailed,
    TrainerReady,
    TrainingNews,
    TroubleSeen,
)
from batchd_server.device.training.quantum_work import TrainDone, TrainWork
from batchd_server.device.training.train_report import TrainReport
from batchd_server.device.training.trainer import Trainer
from batchd_server.device.training.workshop import Room, Workshop
from batchd_server.models.trainable import Trainable
from batchd_server.training.job_spec import JobStatus
from batchd_server.training.records import Job, Progress, StepMetrics, Wanted
from batchd_server.training.trouble import Trouble

log = logging.getLogger(__name__)


MOST_ACTIVE = 8
"""Jobs that hold memory at a time; others wait in the queue."""


class Stage(StrEnum):
    """Where an active job stands."""

    BUILDING = "building"
    RUNNING = "running"
    LENT = "lent"  # a quantum of it is on the device
    SAVING = "saving"  # nothing runs until its checkpoint is on the disk


@dataclass(slots=True)
class _Active:
    """A job that is being worked on."""

    job: Job
    wanted: Wanted
    stage: Stage = Stage.BUILDING
    trainer: Trainer | None = None
    report: TrainReport = field(default_factory=TrainReport)
    memory_used: float | None = None

    @property
    def name(self) -> str:
        """The tenant that learns."""
        return self.job.id

    @property
    def forward(self) -> str:
        """The tenant that only runs forward, whose costs are others."""
        return f"{self.job.id}/forward"


class Runner:
    """Knows the active jobs; of all others the store alone knows."""

    def __init__(
        self,
        controller: DeviceScheduler,
        repository: Repository,
        bookkeeper: Bookkeeper,
        workshop: Workshop,
        submit: Callable[[TrainWork], None],
        black_box: BlackBox,
    ) -> None:
        self._black_box = black_box
        self._controller, self._repository = controller, repository
        self._leases = controller.leases if isinstance(controller, Controller) else None  # others lend nothing
        self._bookkeeper, self._workshop, self._submit = bookkeeper, workshop, submit
        self._active: dict[str, _Active] = {}
        self._said = 0  # entries handed to the bookkeeper
        self._last_word: dict[str, int] = {}  # how many had been, with the one that gave a job's status
        self._crowded_out: set[str] = set()  # jobs that wait for another's memory
        self._waiting: dict[str, str] = {}  # why jobs cannot begin for now, as the log was told
        self._draining = False
        self.trouble: Trouble | None = None
        """Why nothing can be kept, and so nothing trains."""

    @property
    def busy(self) -> bool:
        """Whether a quantum is on the device, or, while draining, anything is left to be saved."""
        if any(active.stage is Stage.LENT for active in self._active.values()):
            return True
        if self.trouble is not None:  # what cannot be saved goes on from the last checkpoint
            return False
        return self._draining and any(self._unsaved(active) for active in self._active.values())

    def owns(self, tenant: str) -> bool:
        """Whether a tenant of the controller is a job."""
        return tenant.partition("/")[0] in self._active

    def lend(self, lease: RunMicrobatch) -> None:
        """A quantum of a job may run now."""
        active = self._active[lease.tenant.partition("/")[0]]
        assert active.trainer is not None, "the device was lent to a job that is not ready"
        active.stage = Stage.LENT
        self._black_box.job(active.job.id)
        self._submit(
            TrainWork(
                batch_id=lease.batch_id,
                tenant=lease.tenant,
                job=active.job.id,
                trainer=active.trainer,
                quantum=lease.quantum,
                items=lease.items,
                elements=lease.elements,
                memory_used=active.memory_used,
                headroom=self._controller.headroom(),
                upper_s=lease.predicted_upper_s,
            )
        )

    def done(self, done: TrainDone) -> None:
        """A quantum is over."""
        self._black_box.job_over()
        self._controller.report(done.outcome)
        active = self._active[done.work.job]
        active.stage = Stage.RUNNING
        self._note_memory(active, done)
        if done.broken:
            self._say(Entry(job=done.work.job, events=[("step_broken", {"reason": done.problem})]))
            self._forget(active)
            self._take_up(active.job)
        elif done.report is None:
            assert active.trainer is not None, "a quantum ran without a trainer"
            self._fail(active, done.problem or "the model failed", step=active.trainer.step)
        else:
            self._reported(active, done.report)

    def hear(self, news: TrainingNews) -> None:
        """Something came back from the store, the disk or the workshop."""
        match news:
            case JobsSeen():
                self._seen(news)
            case TrainerReady(job=job, trainer=trainer, resumed=resumed):
                self._ready(self._active[job], trainer, resumed)
                self._bookkeeper.poll()  # the next one may begin
            case TrainerFailed(job=job, reason=reason, for_now=True, crowded=crowded):
                if self._waiting.get(job) != reason:
                    log.info("job %s waits: %s", job, reason)
                self._waiting.pop(job, None)
                self._waiting[job] = reason  # behind the others
                self._forget(self._active[job])
                if crowded and self._active:
                    self._crowded_out.add(job)
            case TrainerFailed(job=job, reason=reason):
                self._fail(self._active[job], reason, step=None)
            case SnapshotSaved():
                self._saved(news)
            case TroubleSeen(trouble=trouble):
                self._troubled(trouble)
            case never:
                assert_never(never)

    def note(self, job: str, kind: str, data: dict[str, Any]) -> None:
        """Have an event of a job written."""
        self._say(Entry(job=job, events=[(kind, data)]))

    def drain(self) -> None:
        """Save what is not saved, and begin nothing."""
        self._draining = True
        for active in self._active.values():
            self._demand(active)

    # ---- wishes ------------------------------------------------------------------------------------------------------

    def _seen(self, seen: JobsSeen) -> None:
        if self._draining:
            return
        self._end_the_lost(seen)
        turns = {job: turn for turn, job in enumerate(self._waiting)}
        for job in sorted(seen.jobs, key=lambda job: turns.get(job.id, -1)):  # who waits in vain keeps nobody waiting
            if seen.written < self._last_word.get(job.id, 0):
                continue  # the store had not heard yet
            active = self._active.get(job.id)
            if active is not None:
                active.wanted = job.wanted
                if job.status is JobStatus.QUEUED and active.stage is not Stage.BUILDING:  # it was to pause, and is not
                    self._say(Entry(job=job.id, status=JobStatus.RUNNING))
                self._heed(active)
            elif job.wanted == "run":
                if job.id not in self._crowded_out and self._may_begin and self.trouble is None:
                    self._take_up(job)
            elif job.wanted == "cancel":
                self._say(Entry(job=job.id, events=[("cancelled", {})], status=JobStatus.CANCELLED))
            elif job.status is not JobStatus.PAUSED:
                self._say(Entry(job=job.id, events=[("paused", {})], status=JobStatus.PAUSED))

    def _end_the_lost(self, seen: JobsSeen) -> None:
        """Let go of jobs that the store does not know any more: its file was deleted, or another was put there."""
        known = {job.id for job in seen.jobs}
        for active in tuple(self._active.values()):
            heard = seen.written >= self._last_word.get(active.job.id, 0)
            if active.job.id not in known and heard and active.stage is Stage.RUNNING:
                log.error("job %s is gone from the store, and ends", active.job.id)
                self._forget(active)

    def _troubled(self, trouble: Trouble | None) -> None:
        """Let all jobs rest where they are while nothing can be kept, and go on from there."""
        self.trouble = trouble
        for active in tuple(self._active.values()):
            if active.trainer is not None:
                step = active.trainer.step
                event = ("resumed", {"step": step}) if trouble is None else ("paused", {"reason": trouble.reason})
                self._say(Entry(job=active.job.id, events=[event]))
            self._demand(active)
            self._heed(active)

    @property
    def _may_begin(self) -> bool:
        """Whether another job may be taken up: one by one, for what memory each takes is seen afterwards."""
        building = any(active.stage is Stage.BUILDING for active in self._active.values())
        return not building and len(self._active) < MOST_ACTIVE

    def _heed(self, active: _Active) -> None:
        """Do what is wanted of a job, as soon as nothing of it runs."""
        if active.stage is Stage.SAVING and active.wanted == "cancel" and self.trouble is not None:
            self._bookkeeper.discard(active.job.id)  # it may be what the disk has no room for
        elif active.stage is not Stage.RUNNING:
            return
        if active.wanted == "cancel":
            self._leave(active, JobStatus.CANCELLED, "cancelled")
        elif active.wanted == "pause" and active.trainer is not None and active.trainer.saved:
            self._leave(active, JobStatus.PAUSED, "paused")
        else:
            self._demand(active)

    def _take_up(self, job: Job) -> None:
        """Have a trainer made for a job, if its model serves."""
        model_name = job.spec.model
        if self._leases is None:
            self._refuse(job, 'training needs device.policy = "adaptive"')
        elif model_name not in self._repository:
            self._refuse(job, f"model {model_name!r} is not configured any more")
        elif (loaded := self._repository[model_name].loaded) is None or self._repository[model_name].state != "READY":
            return  # it is looked at again in a second
        elif not isinstance(loaded.model, Trainable):
            self._refuse(job, f"model {model_name!r} cannot be trained")
        else:
            self._active[job.id] = _Active(job, job.wanted)
            held = sum(active.trainer.resident_bytes for active in self._active.values() if active.trainer is not None)
            self._workshop.build(job, loaded.model, Room(self._controller.headroom(), held))

    # ---- the life of a job -------------------------------------------------------------------------------------------

    def _ready(self, active: _Active, trainer: Trainer, resumed: int | None) -> None:
        assert self._leases is not None, "a trainer was made although nothing is lent"
        active.trainer = trainer
        active.stage = Stage.RUNNING
        self._waiting.pop(active.job.id, None)
        for tenant in (active.name, active.forward):
            self._leases.add(tenant, active.job.spec.weight)
        event = ("started", {}) if resumed is None else ("resumed", {"step": resumed})
        self._say(Entry(job=active.job.id, events=[event], status=JobStatus.RUNNING))
        self._reported(active, trainer.report())

    def _reported(self, active: _Active, report: TrainReport) -> None:
        active.report = report
        if report.steps:
            active.memory_used = None
        events = report.events + [
            ("batch_size", {"step": c.step, "size": c.size, "reason": c.reason, "raw": c.raw})
            for c in report.commits
            if c.changed
        ]
        entry = Entry(job=active.job.id, steps=report.steps, commits=report.commits, events=events)
        if entry.steps:
            entry.progress = _progress(report.steps[-1])
        if entry.steps or entry.commits or entry.events:
            self._say(entry)
        if report.snapshot is not None:
            active.stage = Stage.SAVING
            self._demand(active)
            self._bookkeeper.save(active.job.id, report.snapshot, active.job.spec.checkpoint.keep)
        else:
            self._heed(active)

    def _saved(self, saved: SnapshotSaved) -> None:
        active = self._active.get(saved.job)
        if active is None:  # it was cancelled in this moment
            return
        active.stage = Stage.RUNNING
        snapshot = saved.snapshot
        if saved.problem is not None:
            reason = f"the checkpoint of step {snapshot.step} cannot be written: {saved.problem}"
            if snapshot.final or active.wanted == "pause":
                self._fail(active, reason, step=snapshot.step)
                return
            self._say(Entry(job=saved.job, events=[("checkpoint_failed", {"step": snapshot.step, "reason": reason})]))
        elif snapshot.final and active.wanted != "cancel":
            self._leave(active, JobStatus.SUCCEEDED, "succeeded")
            return
        self._heed(active)

    def _fail(self, active: _Active, reason: str, *, step: int | None) -> None:
        log.warning("job %s has failed: %s", active.job.id, reason)
        self._forget(active)
        event = ("failed", {"reason": reason, "step": step})
        self._say(Entry(job=active.job.id, events=[event], status=JobStatus.FAILED, reason=reason))

    def _refuse(self, job: Job, reason: str) -> None:
        event = ("failed", {"reason": reason, "step": None})
        self._say(Entry(job=job.id, events=[event], status=JobStatus.FAILED, reason=reason))

    def _leave(self, active: _Active, status: JobStatus, event: str) -> None:
        log.info("job %s is %s", active.job.id, status)
        self._forget(active)
        self._say(Entry(job=active.job.id, events=[(event, {})], status=status))

    def _forget(self, active: _Active) -> None:
        del self._active[active.job.id]
        self._crowded_out.clear()
        if self._leases is not None and active.trainer is not None:
            self._leases.remove(active.name)
            self._leases.remove(active.forward)
        active.trainer = None

    def _demand(self, active: _Active) -> None:
        """Tell the controller what the job would run next."""
        if self._leases is None or active.trainer is None:
            return
        wanted = self._wanted(active)
        forward = active.report.forward_only and wanted is active.report.demand
        self._leases.demand(active.name, None if forward else wanted)
        self._leases.demand(active.forward, wanted if forward else None)

    def _wanted(self, active: _Active) -> Demand | None:
        if active.stage is Stage.SAVING or active.trainer is None or self.trouble is not None:
            return None
        if active.wanted == "pause" or self._draining:
            return None if active.trainer.saved else Demand(quantum=Quantum.CHECKPOINT)
        return active.report.demand

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _unsaved(self, active: _Active) -> bool:
        if active.stage is Stage.SAVING:
            return True
        return active.trainer is not None and not active.trainer.saved

    def _note_memory(self, active: _Active, done: TrainDone) -> None:
        outcome, headroom = done.outcome, done.work.headroom
        if isinstance(outcome, Completed) and outcome.peak_bytes is not None and headroom:
            active.memory_used = max(active.memory_used or 0.0, min(1.0, outcome.peak_bytes / headroom))

    def _say(self, entry: Entry) -> None:
        self._said += 1
        if entry.status is not None:
            self._last_word[entry.job] = self._said
        self._bookkeeper.write(entry)


def _progress(step: StepMetrics) -> Progress:
    return Progress(**{name: getattr(step, name) for name in Progress.__dataclass_fields__})
