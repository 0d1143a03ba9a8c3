"""What the engine hands to the executor, and what comes back from it and from the loader: plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from batchd.item import BatchId, Shape
from batchd.outcome import Outcome
from batchd.policy import Layout, ModelPolicy
from batchd_server.device.failures import Failure
from batchd_server.device.training.promotion_work import Adopted, Promotion
from batchd_server.device.training.quantum_work import TrainDone, TrainWork
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWork:
    """Run these items as one batch."""

    batch_id: BatchId
    name: str
    model: Model
    items: tuple[Tensors, ...]
    padded_shape: Shape | None  # None: the items lie end to end
    elements: int  # of the whole batch, padding included
    upper_s: float | None = None  # predicted; None: unknown
    requests: tuple[tuple[str, str], ...] = ()  # of each item, request id and trace id: for the log


@dataclass(frozen=True, slots=True)
class Example:
    """A preprocessed item to warm a model up with, and what it is padded to."""

    item: Tensors
    padded_shape: Shape


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch that is not run; its peak memory is to be predicted."""

    items: tuple[Tensors, ...]
    padded_shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpWork:
    """Run examples of a freshly loaded model, so that ready means it works, and its costs are not unknown.

    The first one must succeed. What the `planned` batches would take is predicted, as far as that can be.
    """

    name: str
    model: Model
    examples: tuple[Example, ...]
    planned: tuple[PlannedBatch, ...] = ()
    layouts: tuple[Layout, ...] = (Layout.PADDED,)
    """More than one are measured against each other; the fastest is kept."""
    known: bool = False
    """Its costs were learned before: that the first example runs is all that is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeWork:
    """Run an example of a model that serves, to see whether it still works."""

    name: str
    model: Model
    example: Example
    layout: Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseWork:
    """Give back the memory of an unloaded model."""

    name: str


Work: TypeAlias = BatchWork | WarmUpWork | ProbeWork | ReleaseWork | TrainWork | Promotion


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
class PredictedPeak:
    """What a batch that was not run is thought to take, over what is resident."""

    batch_size: int
    shape: Shape
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpDone:
    """A warm-up is over; `failure` is None where it worked."""

    work: WarmUpWork
    failure: Failure | None
    calibration: tuple[CalibrationRun, ...] = ()
    predicted: tuple[PredictedPeak, ...] = ()
    layout: Layout = Layout.PADDED  # what the calibration was run in, and batches are to be


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDone:
    """A probe is over; `failure` is None where it worked."""

    work: ProbeWork
    failure: Failure | None


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
    planned: tuple[PlannedBatch, ...] = ()
    layouts: tuple[Layout, ...] = (Layout.PADDED,)


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A model that cannot be served, and why."""

    name: str
    reason: str


Done: TypeAlias = BatchDone | WarmUpDone | ProbeDone | ReleaseDone | TrainDone | Adopted | DeviceLost


def describe_work(work: Work) -> str:
    """Return what a piece of work is, for the log."""
    match work:
        case BatchWork():
            return f"a batch of {len(work.items)} of model {work.name}"
        case WarmUpWork():
            return f"the warm-up of model {work.name}"
        case ProbeWork():
            return f"a probe of model {work.name}"
        case ReleaseWork():
            return f"the release of model {work.name}"
        case TrainWork():
            return f"a {work.quantum} of job {work.job}"
        case Promotion():
            return f"the promotion of model {work.model}"
        case _:
            assert_never(work)
