"""What a front process has asked for and not yet been told: the memory that lets no request be lost.

When a device process dies, all that it had is kept for the next one. What merely waited there is offered again as if
nothing had happened, as often as its deadline allows; what ran there is a suspect (`link/suspicions.py`). Which is
which the next process says (`Announce.fallen`). Plain bookkeeping: it must not know sockets, event loops or clocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from batchd_server.errors import ERROR_TYPES, DeadlineExceeded, ModelFailed, ServingError, Unavailable
from batchd_server.link.codec import Frame, LinkError, unpack_tensors
from batchd_server.link.messages import Announce, Fallen, ItemAnswer, Offer
from batchd_server.link.suspicions import Suspicions, content_of
from batchd_server.models.spec import Tensors

MOST_UNEXPLAINED = 4
"""A request that was aboard when this many device processes died that left no word is not offered again."""
MOST_LEFT = 1024
"""Requests that nobody waits for any more, but that may be running, are remembered up to this number."""


@dataclass(slots=True, kw_only=True)
class PendingRequest:
    """One request from its arrival to its last answer."""

    offer: Offer
    frames: list[Frame]
    deadline: float
    aboard: bool = False
    """Whether the present device process has it."""
    lost_with: str | None = None
    """The incarnation that died with it aboard, until the next one has told what ran then."""
    accepted: bool = False
    """It was let in before, or has waited for a device process."""
    alone: bool = False
    """It may be what kills them, as far as was known when it was last offered."""
    unexplained: int = 0
    """Losses of which nobody could tell what ran."""
    content: bytes | None = None
    """What stands for its items, where that had to be known."""
    answers: dict[int, ItemAnswer] = field(default_factory=dict)
    """By the item's index; the answers that were no errors."""
    outputs: dict[int, Tensors] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every item is answered."""
        return len(self.outputs) == len(self.offer.items)

    @property
    def message(self) -> Offer:
        """What the device process is told."""
        if not self.alone and not self.accepted:
            return self.offer
        return msgspec.structs.replace(self.offer, alone=self.alone, accepted=self.accepted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A request that has left the table: answered whole, or with the error of one of its items."""

    request: PendingRequest
    error: ServingError | None = None


class RequestTable:
    """All pending requests of one front process, in order of arrival."""

    def __init__(self, front: bytes = b"") -> None:
        self.front = front
        """What device processes know this front process by."""
        self._pending: dict[int, PendingRequest] = {}
        self._left: dict[int, bytes] = {}  # contents of requests given up while the present device process had them
        self._gone: dict[int, tuple[str, bytes]] = {}  # with the process that died, until it is known what ran then
        self._suspicions = Suspicions()
        self._tried: dict[bytes, int] = {}  # of suspects that are alike, the one that was offered last
        self._acquitted = False

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, request: PendingRequest, now: float) -> ServingError | None:
        """Keep `request` until it is settled or removed; return the reason where it must not run again."""
        if self._suspicions.has_any(now):
            suspicion = self._suspicions.of(self._content(request), now)
            if suspicion is not None and suspicion.convicted:
                return suspicion.verdict(len(request.offer.items))
        self._pending[request.offer.request] = request
        return None

    def remove(self, request: int) -> PendingRequest | None:
        """Forget a request; None where it has been settled already."""
        removed = self._pending.pop(request, None)
        if removed is not None and removed.aboard:
            self._left[request] = self._content(removed)
            if len(self._left) > MOST_LEFT:
                del self._left[next(iter(self._left))]
        elif removed is not None and removed.lost_with is not None:
            self._gone[request] = removed.lost_with, self._content(removed)
        return removed

    def get(self, request: int) -> PendingRequest | None:
        """Return a pending request."""
        return self._pending.get(request)

    def held(self) -> Iterator[PendingRequest]:
        """Yield what no device process has, oldest first. The table must not change meanwhile."""
        return (request for request in self._pending.values() if not request.aboard)

    def may_board(self, request: PendingRequest, now: float) -> bool:
        """Return whether to offer a request now, and decide whether it must run alone.

        Of suspects that are alike one is tried, and the others wait for what becomes of it.
        """
        request.alone = request.unexplained > 0
        if request.content is None or self._suspicions.of(request.content, now) is None:
            return True
        other = self._pending.get(self._tried.get(request.content, 0))
        if other is not None and other is not request and other.aboard and other.content == request.content:
            return False
        self._tried[request.content] = request.offer.request
        request.alone = True
        return True

    def acquitted(self) -> bool:
        """Return whether a suspect has been answered since this was last asked: those like it may be offered."""
        acquitted, self._acquitted = self._acquitted, False
        return acquitted

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
        if error is None and request.content is not None:
            self._acquitted |= self._suspicions.acquit(request.content)
        if error is not None and len(request.offer.items) > len(request.outputs) + 1:
            self.remove(answer.request)  # the items beside the one that failed may be running
        else:
            del self._pending[answer.request]
        return Settlement(request=request, error=error)

    # ---- deaths ------------------------------------------------------------------------------------------------------

    def lose(self, incarnation: str, now: float) -> list[Settlement]:
        """That device process is gone: take back what it had, and return what is late already."""
        settled = []
        self._gone |= {number: (incarnation, content) for number, content in self._left.items()}
        self._left.clear()
        for request in [pending for pending in self._pending.values() if pending.aboard]:
            request.aboard = False
            request.accepted = True
            request.lost_with = incarnation
            if now >= request.deadline:
                self.remove(request.offer.request)
                late = "the device process was lost, and the deadline passed before another was ready"
                settled.append(Settlement(request=request, error=DeadlineExceeded(late)))
        return settled

    def judge(self, announce: Announce, now: float) -> list[Settlement]:
        """Hear from a new device process what ran on those before it; return what must not be offered again."""
        deaths = {fallen.incarnation: fallen for fallen in announce.fallen}
        gone = [incarnation for incarnation, _ in self._gone.values()]
        for incarnation in dict.fromkeys([*gone, *(pending.lost_with for pending in self._pending.values())]):
            if incarnation is not None and incarnation != announce.incarnation:  # else it was the link that broke
                self._blame(incarnation, deaths.get(incarnation), now)
        self._gone.clear()
        settled = []
        self._tried.clear()
        for request in tuple(self._pending.values()):
            request.lost_with = None
            error = self._verdict(request, now)
            if error is not None:
                del self._pending[request.offer.request]
                settled.append(Settlement(request=request, error=error))
        return settled

    def _blame(self, incarnation: str, fallen: Fallen | None, now: float) -> None:
        """Note what follows from a death for those that were aboard."""
        aboard = [request for request in self._pending.values() if request.lost_with == incarnation]
        if fallen is None or fallen.running is None:
            for request in aboard:
                request.unexplained += 1
            return
        ran = {item.request for item in fallen.running if item.front == self.front}
        running = {self._content(request) for request in aboard if request.offer.request in ran}
        running |= {self._gone[number][1] for number in ran if self._gone.get(number, ("",))[0] == incarnation}
        for content in running:
            self._suspicions.died(content, fallen, now)
        for request in aboard:
            if request.content is not None and request.content not in running:
                self._suspicions.outlived(request.content)

    def _content(self, request: PendingRequest) -> bytes:
        request.content = request.content or content_of(request.offer, request.frames)
        return request.content

    def _verdict(self, request: PendingRequest, now: float) -> ServingError | None:
        if request.unexplained >= MOST_UNEXPLAINED:
            return Unavailable(
                f"the device process died {request.unexplained} times while it had this request", code="device_lost"
            )
        if not self._suspicions.has_any(now):
            return None
        suspicion = self._suspicions.of(self._content(request), now)
        if suspicion is None or not suspicion.convicted:
            return None
        return suspicion.verdict(len(request.offer.items))


def _error(answer: ItemAnswer) -> ServingError | None:
    if answer.error is None:
        return None
    status, code, message, retry_after_s = answer.error
    return ERROR_TYPES.get(status, ServingError)(message, retry_after_s=retry_after_s, code=code)
