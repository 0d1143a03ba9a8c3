"""What a training job is asked to be: the JSON of `POST /v1/training/jobs`, as pydantic checks it.

Names of schedules and rules, and their parameters, are checked by `batchd.schedules` and `batchd.lr_rules`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    SUCCEEDED = "succeeded"

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it."""
        return self in {JobStatus.CANCELLED, JobStatus.FAILED, JobStatus.SUCCEEDED}


class Part(BaseModel):
    """A table of the job: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OptimizerSpec(Part):
    """Which optimizer, and what it is told. Parameters that it does not have are refused at submission."""

    name: Literal["sgd", "adam", "adamw", "lars", "lamb"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


class NamedSpec(BaseModel):
    """A name and its own parameters, side by side."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """What stands beside the name."""
        return dict(self.model_extra or {})


class BatchingSpec(Part):
    """How large the global batch is, and what the learning rate makes of it. The microbatch is the controller's."""

    schedule: NamedSpec = NamedSpec(name="fixed")
    initial: int = Field(default=32, ge=1)
    min: int = Field(default=8, ge=1)
    max: int = Field(default=512, ge=1)
    lr_rule: NamedSpec | str = "none"
    governor: dict[str, Any] = Field(default_factory=dict)
    """Overrides of `batchd.governor.GovernorSettings`."""

    @model_validator(mode="after")
    def _ordered(self) -> BatchingSpec:
        if self.min > self.max:
            raise ValueError(f"min must not be larger than max, got {self.min} and {self.max}")
        if not self.min <= self.initial <= self.max:
            raise ValueError(f"initial must be within min..max = {self.min}..{self.max}, got {self.initial}")
        return self


class CheckpointSpec(Part):
    """How often the job's state is saved, and how many of the saved states are kept beside the best."""

    every_steps: int = Field(default=200, ge=1)
    keep: int = Field(default=2, ge=1)


class ValidationSpec(Part):
    """What part of the examples is held out, and how often it is evaluated. A dataset's own split goes first."""

    fraction: float = Field(default=0.1, ge=0, lt=1)
    every_steps: int = Field(default=100, ge=1)


class JobSpec(Part):
    """One training job."""

    model: str = Field(min_length=1)
    """A configured model that can be trained."""
    dataset: str = Field(min_length=1)
    """A dataset's id or name."""
    epochs: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    optimizer: OptimizerSpec = OptimizerSpec()
    batching: BatchingSpec = BatchingSpec()
    seed: int = Field(default=0, ge=0, lt=2**63)
    fresh: bool = True
    """Start from random weights; otherwise from those that are served."""
    validation: ValidationSpec = ValidationSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    deterministic: bool = False
    """Cut every step in the same way, whatever the device has free: the same seed, the same weights to the bit."""
    weight: float = Field(default=1.0, gt=0)
    metadata: dict[str, str | int | float | bool | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ends(self) -> JobSpec:
        if self.epochs is None and self.max_steps is None:
            raise ValueError("give epochs or max_steps")
        return self
