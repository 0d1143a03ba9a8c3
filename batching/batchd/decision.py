"""What the controller answers: plain records that carry their reason.

The driver (device process, simulator or test) matches on them and ends with `assert_never`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from batchd.item import BatchId, ItemId, Shape
from batchd.leasing.demand import Quantum


class RefusalReason(StrEnum):
    """Why an item was not admitted. The value is the error code that clients see."""

    QUEUE_FULL = "queue_full"
    DEADLINE_INFEASIBLE = "deadline_infeasible"
    TOO_LARGE = "too_large"
    MEMORY = "insufficient_memory"
    UNKNOWN_MODEL = "unknown_model"
    DRAINING = "draining"


class ReleaseReason(StrEnum):
    """Why a batch was released now rather than later."""

    FULL = "full"  # the maximum batch is reached
    MEMORY = "memory"  # one more item would not fit in memory
    DEADLINE = "deadline"  # waiting longer would miss the most urgent deadline
    WINDOW = "window"  # the window has elapsed
    IDLE = "idle"  # the device has nothing better to do
    DRAIN = "drain"  # no more items will come
    ALONE = "alone"  # the item may not share its batch


@dataclass(frozen=True, slots=True)
class Admitted:
    """The item waits; `predicted_finish` is the monotonic time at which its answer is expected."""

    predicted_finish: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The item was not taken. `retry_after_s` is None where trying again cannot help."""

    reason: RefusalReason
    detail: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBatch:
    """Run these items now, padded to `padded_shape` or end to end."""

    batch_id: BatchId
    model: str
    items: tuple[ItemId, ...]
    padded_shape: Shape | None  # of every item; None: they lie end to end
    elements: int  # of the whole batch, padding included
    predicted_s: float | None  # None while the latency model has nothing to go by
    predicted_upper_s: float | None
    predicted_bytes: int | None  # peak over what is resident; None while unknown
    padding_ratio: float  # padded elements that carry no data / all elements
    reason: ReleaseReason
    queued_after: int  # items of all models that keep waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMicrobatch:
    """The device is leased to a training tenant for one quantum of its work; the report ends the lease."""

    batch_id: BatchId
    tenant: str
    quantum: Quantum
    items: int  # how many items of the global batch to run; 1 for what cannot be divided
    elements: int  # padded elements of each
    predicted_s: float | None  # None while the tenant's cost is unknown
    predicted_upper_s: float | None
    predicted_bytes: int | None
    slack_s: float  # how long the device could have been lent; math.inf where nothing is promised to anybody
    queued_after: int  # items of all models that wait meanwhile


@dataclass(frozen=True, slots=True)
class Expire:
    """These items can no longer be answered in time: answer them so, and ask again."""

    items: tuple[ItemId, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to run before `until` (monotonic seconds; `math.inf` = until something is offered or reported)."""

    until: float


Admission: TypeAlias = Admitted | Refused
Decision: TypeAlias = RunBatch | RunMicrobatch | Expire | Wait
