"""The batching controller: pure decisions about what a device runs next.

Nothing here has a clock, a thread, a socket, a file or torch; see `batchd.controller.Controller`.
"""

from batchd.budget import BudgetPolicy, MemoryReading
from batchd.controller import Controller
from batchd.decision import (
    Admission,
    Admitted,
    Decision,
    Expire,
    RefusalReason,
    Refused,
    ReleaseReason,
    RunBatch,
    Wait,
)
from batchd.item import BatchId, Item, ItemId, Shape, num_elements
from batchd.ladder import Boundaries, Ladder, Learned, Multiples, Proportional
from batchd.latency_model import LatencyModel, LatencyModelConfig
from batchd.memory_model import MemoryModel, MemoryModelConfig
from batchd.outcome import Completed, Failed, Outcome, OutOfMemory, Settled
from batchd.policy import ModelPolicy, PadTo, Window
from batchd.snapshot import ControllerSnapshot, ModelSnapshot

__version__ = "0.1.0"

__all__ = [
    "Admission",
    "Admitted",
    "BatchId",
    "Boundaries",
    "BudgetPolicy",
    "Completed",
    "Controller",
    "ControllerSnapshot",
    "Decision",
    "Expire",
    "Failed",
    "Item",
    "ItemId",
    "Ladder",
    "LatencyModel",
    "LatencyModelConfig",
    "Learned",
    "MemoryModel",
    "MemoryModelConfig",
    "MemoryReading",
    "ModelPolicy",
    "ModelSnapshot",
    "Multiples",
    "OutOfMemory",
    "Outcome",
    "PadTo",
    "Proportional",
    "RefusalReason",
    "Refused",
    "ReleaseReason",
    "RunBatch",
    "Settled",
    "Shape",
    "Wait",
    "Window",
    "__version__",
    "num_elements",
]
