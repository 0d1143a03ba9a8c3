"""What a trainer says to the rest of the device process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from batchd.governor import Commit
from batchd.leasing.demand import Demand
from batchd_server.training.records import StepMetrics


class TrainingFailed(Exception):
    """The job cannot go on; the message goes to whoever asked for it."""


class StepBroken(Exception):
    """The optimizer stopped half-way through: only a checkpoint helps."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job at the end of a step, on the host."""

    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    state: Mapping[str, Any]
    """Everything else, as JSON."""
    validation_accuracy: float | None
    validation_loss: float | None
    final: bool


@dataclass(slots=True)
class TrainReport:
    """What has happened since the last report, and what comes next."""

    demand: Demand | None = None
    """None: the job is over."""
    forward_only: bool = False
    """Whether the demand is for forward passes alone, whose costs are others."""
    steps: list[StepMetrics] = field(default_factory=list)
    """A step comes again once its validation is known."""
    commits: list[Commit] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    snapshot: Snapshot | None = None
