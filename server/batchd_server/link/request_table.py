"""What a front process has asked for and not yet been told: the memory that lets no request be lost.

Plain bookkeeping: it must not know sockets, event loops or clocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from batchd_server.errors import ERROR_TYPES, DeadlineExceeded, ModelFailed, ServingError, Unavailable
from batchd_server.link.codec import Frame, LinkError, unpack_tensors
from batchd_server.link.messages import ItemAnswer, Offer
from batchd_server.models.spec import Tensors

MAX_LOSSES = 3
"""A request that was aboard when this many device processes died is not offered again: it may be what kills them."""


@dataclass(slots=True, kw_only=True)
class PendingRequest:
    """One request from its arrival to its last answer."""

    offer: Offer
    frames: list[Frame]
    deadline: float
    aboard: bool = False
    """Whether the present device process has it."""
    losses: int = 0
    answers: dict[int, ItemAnswer] = field(default_factory=dict)
    """By the item's index; the answers that were no errors."""
    outputs: dict[int, Tensors] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every item is answered."""
        return len(self.outputs) == len(self.offer.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A request that has left the table: answered whole, or with the error of one of its items."""

    request: PendingRequest
    error: ServingError | None = None


class RequestTable:
    """All pending requests of one front process, in order of arrival."""

    def __init__(self) -> None:
        self._pending: dict[int, PendingRequest] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, request: PendingRequest) -> None:
        """Keep `request` until it is settled or removed."""
        self._pending[request.offer.request] = request

    def remove(self, request: int) -> PendingRequest | None:
        """Forget a request; None where it has been settled already."""
        return self._pending.pop(request, None)

    def get(self, request: int) -> PendingRequest | None:
        """Return a pending request."""
        return self._pending.get(request)

    def held(self) -> Iterator[PendingRequest]:
        """Yield what no device process has, oldest first. The table must not change meanwhile."""
        return (request for request in self._pending.values() if not request.aboard)

    def settle(self, answer: ItemAnswer, frames: list[memoryview]) -> Settlement | None:
        """Take the answer of one item; return its request if that settles it.

        Answers to requests that are not in the table are late, and ignored; so are second answers to one item.
        """
        request = self._pending.get(answer.request)
        if request is None or answer.index in request.outputs:
            return None
        error = _error(answer)
        if error is None and not 0 <= answer.index < len(request.offer.items):
            error = ServingError("the device process answered an item that was not asked for")
        if error is None:
            try:
                request.outputs[answer.index] = unpack_tensors(answer.tensors, frames)
            except LinkError:
                error = ModelFailed(f"the answer of model {request.offer.model!r} was damaged on its way")
            request.answers[answer.index] = answer
        if error is None and not request.complete:
            return None
        del self._pending[answer.request]
        return Settlement(request=request, error=error)

    def lose(self, now: float) -> list[Settlement]:
        """The device process is gone: take back what it had, and return what must not be offered again."""
        settled = []
        for request in [pending for pending in self._pending.values() if pending.aboard]:
            request.aboard = False
            request.losses += 1
            error = _after_loss(request, now)
            if error is not None:
                del self._pending[request.offer.request]
                settled.append(Settlement(request=request, error=error))
        return settled


def _error(answer: ItemAnswer) -> ServingError | None:
    if answer.error is None:
        return None
    status, code, message, retry_after_s = answer.error
    return ERROR_TYPES.get(status, ServingError)(message, retry_after_s=retry_after_s, code=code)


def _after_loss(request: PendingRequest, now: float) -> ServingError | None:
    if now >= request.deadline:
        return DeadlineExceeded("the device process was lost, and the deadline passed before another was ready")
    if request.losses >= MAX_LOSSES:
        return Unavailable(f"the device process died {request.losses} times while it had this request")
    return None
