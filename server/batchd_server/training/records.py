"""What the job store holds, as frozen records. Times are seconds since the epoch, sizes bytes, rates per step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from batchd_server.training.job_spec import JobSpec, JobStatus

Wanted = Literal["run", "pause", "cancel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is, and its latest figures; None = not known (yet), or not a finite number."""

    step: int = 0
    """Optimizer steps done."""
    examples: int = 0
    """Examples learned from, counted each time."""
    epoch: float = 0.0
    """Passes over the training part, with fractions."""
    loss: float | None = None
    """Mean over the terms of the latest step."""
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    batch_size: int | None = None
    """Global batch size."""
    learning_rate: float | None = None
    noise_scale: float | None = None
    microbatch: int | None = None
    """Items of the latest microbatch."""
    device_share: float | None = None
    """Share of the device's time that the job lately had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics(Progress):
    """One optimizer step's figures; `step` counts from 1."""

    seconds: float | None = None
    """Device time of the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training job. `wanted` is what was asked for last; `status` is how far that has come."""

    id: str
    spec: JobSpec
    status: JobStatus
    wanted: Wanted
    reason: str | None
    """Why it failed, or waits."""
    created: float
    started: float | None
    finished: float | None
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a job's history. Ids increase over all jobs."""

    id: int
    at: float
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A saved state of a job, at `path`."""

    step: int
    path: Path
    created: float
    bytes: int
    validation_accuracy: float | None = None
    best: bool = False
    """The best by validation so far; at most one of a job is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Examples to learn from, at `path`; None = built in."""

    id: str
    name: str
    format: str
    """npz, safetensors, parquet, jsonl, images or builtin."""
    path: Path | None
    bytes: int
    examples: int
    created: float
    sha256: str | None
