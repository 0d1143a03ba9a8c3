"""What front processes and the device process say to each other.

Every message is one msgpack-encoded struct in the first ZeroMQ frame; tensors follow as raw frames that the struct
refers to by index. Times are CLOCK_MONOTONIC seconds, which all processes of a machine share.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec


class TensorRef(msgspec.Struct, frozen=True, array_like=True):
    """A tensor whose bytes are frame `frame` of the same message (C order, little endian)."""

    name: str
    dtype: str  # numpy's dtype.str, or "bytes" for BYTES elements (u32 length + bytes each)
    shape: tuple[int, ...]
    frame: int


class OfferedItem(msgspec.Struct, frozen=True, array_like=True):
    """One preprocessed item of a request."""

    shape: tuple[int, ...]
    tensors: tuple[TensorRef, ...]


# ---- front to device -------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """A front process has come up, or has seen a new device process."""

    pid: int


class Offer(msgspec.Struct, frozen=True, tag="offer"):
    """One request: all its items, to be answered one by one as they finish."""

    request: int  # unique within the front
    model: str
    items: tuple[OfferedItem, ...]
    arrived: float
    deadline: float | None  # None = the model's SLO, counted from `arrived`
    priority: int
    request_id: str = ""  # of the HTTP request, for the log; so is the next
    trace_id: str = ""
    alone: bool = False  # its items may end the device process: each runs in a batch of its own
    accepted: bool = False  # a device process had it before, or it has waited for one: no queue refuses it now


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """The client has gone, or one item of the request has failed: forget what has not run."""

    request: int


class Control(msgspec.Struct, frozen=True, tag="control"):
    """A question or an order that is not an inference; answered by `ControlReply` with the same `call`."""

    call: int
    action: Literal[
        "load",
        "unload",
        "status",
        "statistics",
        "metrics",
        "decisions",
        "training",
        "promote",
        "rollback",
        "lease",
        "lease_return",
        "lease_drop",
        "leases",
    ]
    arguments: dict[str, Any] = {}


class Observations(msgspec.Struct, frozen=True, tag="observations"):
    """Finished requests as the front saw them, shipped in batches so that all metrics live in the device process.

    Each row: (model, api, outcome, duration_s, overhead_s). `ended` counts connections by the limit that ended them.
    """

    rows: tuple[tuple[str, str, str, float, float], ...]
    ended: dict[str, int] = {}


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The front process is stopping."""


FrontMessage: TypeAlias = Hello | Offer | Cancel | Control | Observations | Goodbye


# ---- device to front -------------------------------------------------------------------------------------------------


class ModelState(msgspec.Struct, frozen=True):
    """One entry of the model repository."""

    name: str
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
    reason: str = ""
    slo_s: float = 0.0


class RunningItem(NamedTuple):
    """An item that was on the device."""

    front: bytes  # the link's identity of the front process
    request: int
    item: int  # its index in the request


class Fallen(msgspec.Struct, frozen=True):
    """How an earlier device process ended, and what it was doing then."""

    incarnation: str
    exit: int | None  # exit code, negative: the signal; None: not known
    running: tuple[RunningItem, ...] | None  # the items of the batch; None: it cannot be told
    job: str = ""  # the training job whose quantum ran
    beside: tuple[str, ...] = ()  # what else was going on, on other threads


class Announce(msgspec.Struct, frozen=True, tag="announce"):
    """The device process's state; sent on Hello, on every change, and as a heartbeat once a second.

    `incarnation` differs for every device process: a front that sees a new one offers again what it still waits for.
    """

    incarnation: str
    pid: int
    ready: bool
    draining: bool
    models: tuple[ModelState, ...]
    fallen: tuple[Fallen, ...] = ()  # the device processes before it, the latest last
    training_trouble: str = ""  # why all training rests, a `Trouble`; empty while nothing keeps it from going on


class ItemAnswer(msgspec.Struct, frozen=True, array_like=True):
    """One item is done: `tensors` on success, else `error` = (status, code, message, retry_after_s)."""

    request: int
    index: int
    tensors: tuple[TensorRef, ...] = ()
    error: tuple[int, str, str, float | None] | None = None
    batch_size: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0


class Answers(msgspec.Struct, frozen=True, tag="answers"):
    """Everything that one batch, or one refusal, settled for one front: one wake-up, not one per item."""

    answers: tuple[ItemAnswer, ...]


class ControlReply(msgspec.Struct, frozen=True, tag="control_reply"):
    """The answer to a `Control`: `result`, or `error` = (status, code, message)."""

    call: int
    result: Any = None
    error: tuple[int, str, str] | None = None


DeviceMessage: TypeAlias = Announce | Answers | ControlReply
