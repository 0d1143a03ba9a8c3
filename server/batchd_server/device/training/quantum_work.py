"""One leased quantum as the executor gets it, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from batchd.item import BatchId
from batchd.leasing.demand import Quantum
from batchd.outcome import Outcome
from batchd_server.device.training.train_report import TrainReport
from batchd_server.device.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainWork:
    """Run one quantum of a job."""

    batch_id: BatchId
    tenant: str
    job: str
    trainer: Trainer
    quantum: Quantum
    items: int
    elements: int
    memory_used: float | None  # by the step's microbatches so far, as a share of what they might have used
    headroom: int | None  # bytes that it may use
    upper_s: float | None = None  # predicted; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainDone:
    """A quantum is over. Without a report the job cannot go on: `problem` says why."""

    work: TrainWork
    outcome: Outcome
    report: TrainReport | None
    problem: str | None = None
    broken: bool = False  # it can from a checkpoint
