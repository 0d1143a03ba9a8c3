"""What the runner has to say to the job store, and what comes back from the threads that do slow things for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from batchd.governor import Commit
from batchd_server.device.training.train_report import Snapshot
from batchd_server.device.training.trainer import Trainer
from batchd_server.training.job_spec import JobStatus
from batchd_server.training.records import Job, Progress, StepMetrics
from batchd_server.training.trouble import Trouble


@dataclass(slots=True, kw_only=True)
class Entry:
    """News of one job, to be written in this order: figures, events, status."""

    job: str
    steps: list[StepMetrics] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    progress: Progress | None = None
    status: JobStatus | None = None
    reason: str | None = None

    def append(self, later: Entry) -> None:
        """Take over later news of the same job."""
        self.steps += later.steps
        self.commits += later.commits
        self.events += later.events
        self.progress = later.progress or self.progress
        if later.status is not None:
            self.status, self.reason = later.status, later.reason


@dataclass(frozen=True, slots=True)
class JobsSeen:
    """What the store held after the first `written` entries had been written."""

    jobs: tuple[Job, ...]
    written: int


@dataclass(frozen=True, slots=True)
class SnapshotSaved:
    """A snapshot lies on the disk, or does not: `problem` says why."""

    job: str
    snapshot: Snapshot
    problem: str | None


@dataclass(frozen=True, slots=True)
class TrainerReady:
    """A job can begin, or go on after `resumed` steps."""

    job: str
    trainer: Trainer
    resumed: int | None


@dataclass(frozen=True, slots=True)
class TrainerFailed:
    """A job cannot begin, and why; `for_now`: it is tried again, `crowded` not before a job has given memory back."""

    job: str
    reason: str
    for_now: bool = False
    crowded: bool = False


@dataclass(frozen=True, slots=True)
class TroubleSeen:
    """Nothing can be kept any more, and why; None: it can again."""

    trouble: Trouble | None


TrainingNews: TypeAlias = JobsSeen | SnapshotSaved | TrainerReady | TrainerFailed | TroubleSeen
