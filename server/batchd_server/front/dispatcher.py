"""The seam between protocols and the device: what every route calls, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchd_server.link.messages import ModelState
from batchd_server.models.protocol import Model
from batchd_server.models.spec import Tensors
from batchd_server.supervisor.standing import DeviceStanding


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """One client call, parsed and preprocessed. Times are monotonic seconds."""

    model: str
    items: Sequence[Tensors]  # preprocessed by the model's front half
    arrived: float
    deadline: float | None  # the client's, less what the way back takes; None = the model's SLO
    priority: int = 0
    api: str = "oip"  # label for metrics: "oip" | "openai"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTiming:
    """What one item went through, for response parameters and statistics."""

    batch_size: int
    queue_s: float
    compute_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceAnswer:
    """One answer per item, in the order of the request."""

    outputs: Sequence[Tensors]
    timings: Sequence[ItemTiming] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """The last that was heard of the device process."""

    connected: bool
    ready: bool
    draining: bool
    """Whether new requests are, or soon will be, refused."""
    pid: int | None
    models: tuple[ModelState, ...]
    closing: bool = False
    """Whether this front process is about to end: streams should, too."""
    training_trouble: str = ""
    """Why all training rests, a `Trouble`; empty while nothing keeps it from going on."""


class Dispatcher(Protocol):
    """Hands requests to the device process and brings answers back."""

    def model(self, name: str) -> Model:
        """Return the front half of a configured model.

        Raises:
            NotFound: no model of that name is configured.
        """
        ...

    def state(self) -> DeviceState:
        """Return the last announced state, without asking."""
        ...

    def standing(self) -> DeviceStanding | None:
        """Return what the supervisor says of the device process; None where nobody supervises it."""
        ...

    def num_pending(self) -> int:
        """Return how many requests wait for their answers."""
        ...

    async def infer(self, request: InferenceRequest) -> InferenceAnswer:
        """Have every item answered. Cancelling this coroutine cancels what has not run.

        Raises:
            ServingError: the request was refused, failed or missed its deadline.
        """
        ...

    async def control(self, action: str, **arguments: Any) -> Any:
        """Ask the device process: `load`, `unload`, `status`, `statistics`, `metrics` or `decisions`.

        Raises:
            ServingError: as the device process answered, or Unavailable where it does not answer.
        """
        ...
