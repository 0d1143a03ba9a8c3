"""What an exception on the device means: out of memory, a poisoned device, or the model's own problem.

Must not import torch: errors are told by their names and texts, which also holds where torch wraps them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from batchd_server.errors import InsufficientMemory, ModelFailed, ServingError
from batchd_server.observe.exceptions import place_of

EXIT_DEVICE_LOST = 75
"""Exit status of a device process whose CUDA context is beyond repair (EX_TEMPFAIL): start another one."""
EXIT_HUNG = 76
"""Exit status of a device process in which something runs that should have ended long ago: start another one."""

OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "DefaultCPUAllocator: can't allocate",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # cuDNN says so when no algorithm's workspace fits
)

DEVICE_LOST_TEXTS = (
    "device-side assert",
    "illegal memory access",
    "misaligned address",
    "illegal instruction",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "hardware stack error",
    "device is lost",
    "GPU has fallen off the bus",
    "unknown error",
)

MAX_MESSAGE_CHARS = 300
_PATH = re.compile(r"(?<![\w/])(?:/[\w.@+-]+){2,}/?")


class FailureKind(StrEnum):
    """What can be done about it: a smaller batch, a new process, or nothing."""

    OUT_OF_MEMORY = "out_of_memory"
    DEVICE_LOST = "device_lost"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception without its traceback, whose frames would keep the batch's tensors alive."""

    kind: FailureKind
    message: str
    place: str = field(default="", compare=False)
    """Where in the code, for the log: `file:line in function`."""

    def to_error(self) -> ServingError:
        """Return what the client of an item that failed alone is told."""
        if self.kind is FailureKind.OUT_OF_MEMORY:
            return InsufficientMemory("this item alone does not fit in the device's memory")
        return ModelFailed(f"the model failed: {self.message}")


class WrongAnswers(Exception):
    """`split` returned another number of answers than there are items, or one that lacks an output."""


def classify(error: BaseException) -> Failure:
    """Return what `error` means."""
    return Failure(_kind(error), describe(error), place_of(error))


def describe(error: BaseException) -> str:
    """Return the exception's type and first line, shortened and without paths: fit for a client."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return _PATH.sub("<path>", text)[:MAX_MESSAGE_CHARS]


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return FailureKind.OUT_OF_MEMORY
    if not isinstance(error, RuntimeError):
        return FailureKind.MODEL
    text = str(error)
    if any(part in text for part in OUT_OF_MEMORY_TEXTS):
        return FailureKind.OUT_OF_MEMORY
    if "CUDA" in text and any(part in text for part in DEVICE_LOST_TEXTS):
        return FailureKind.DEVICE_LOST
    return FailureKind.MODEL
