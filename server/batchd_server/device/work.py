"""What the engine hands to the executor, and what comes back from it and from the loader: plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from batchd.item import BatchId, Shape
from batchd.outcome import Outcome
from batchd.policy import ModelPolicy
from batchd_server.device.failures import Failure
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWork:
    """Run these items as one batch."""

    batch_id: BatchId
    name: str
    model: Model
    items: tuple[Tensors, ...]
    padded_shape: Shape


@dataclass(frozen=True, slots=True)
class Example:
    """A preprocessed item to warm a model up with, and what it is padded to."""

    item: Tensors
    padded_shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpWork:
    """Run examples of a freshly loaded model, so that ready means it works, and its costs are not unknown.

    The first one must succeed.
    """

    name: str
    model: Model
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseWork:
    """Give back the memory of an unloaded model."""

    name: str


Work: TypeAlias = BatchWork | WarmUpWork | ReleaseWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Seconds that the three stages took: collation, the network, splitting to the host."""

    collate_s: float
    run_s: float
    split_s: float

    @property
    def total_s(self) -> float:
        """All three together."""
        return self.collate_s + self.run_s + self.split_s


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDone:
    """A batch is over. `answers` has one entry per item unless it ran out of memory, then it is empty."""

    work: BatchWork
    outcome: Outcome
    started: float
    finished: float
    answers: tuple[Tensors | Failure, ...] = ()
    stages: Stages | None = None  # None unless the whole batch succeeded


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRun:
    """A timed run of identical examples."""

    batch_size: int
    shape: Shape
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpDone:
    """A warm-up is over; `failure` is None where it worked."""

    work: WarmUpWork
    failure: Failure | None
    calibration: tuple[CalibrationRun, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseDone:
    """An unloaded model's memory has been given back."""

    name: str


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """The device answers no more in this process."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model with its weights on the device. `examples` is empty where none could be made."""

    name: str
    model: Model
    policy: ModelPolicy
    examples: tuple[Tensors, ...]
    resident_bytes: int | None  # in the model's own tensors; None where none were found


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A model that cannot be served, and why."""

    name: str
    reason: str


Done: TypeAlias = BatchDone | WarmUpDone | ReleaseDone | DeviceLost
