"""What the executor reports of a batch. The controller learns from these and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from batchd.budget import MemoryReading
from batchd.item import BatchId, ItemId


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The batch ran. `seconds` spans collation to outputs on the host, `peak_bytes` is over what was resident."""

    batch_id: BatchId
    seconds: float
    peak_bytes: int | None  # None where nothing measured it
    first_of_shape: bool = False  # paid for compilation or autotuning: kept out of the latency fit
    tight: bool = False  # it fitted only once cached memory had been given back: no larger one will


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """The batch did not fit; its memory has been released. Nothing of it was answered."""

    batch_id: BatchId
    peak_bytes: int | None
    reading: MemoryReading | None = None  # taken once that was over: an older one may not know what was in the way
    seconds: float | None = None  # how long the device was held, where that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The batch raised something that is not about memory. Its items are answered by the executor."""

    batch_id: BatchId
    seconds: float | None = None  # how long the device was held, where that is known


Outcome: TypeAlias = Completed | OutOfMemory | Failed


@dataclass(frozen=True, slots=True)
class Settled:
    """What a report did to the items of its batch: the driver answers `finished` and `impossible`."""

    finished: tuple[ItemId, ...] = ()
    requeued: tuple[ItemId, ...] = ()  # wait again, for a smaller batch
    impossible: tuple[ItemId, ...] = ()  # ran out of memory alone: can never be served
    largest_fit: int | None = None  # beside `impossible`: elements of the largest single item thought to fit
