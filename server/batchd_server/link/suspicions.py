"""Who may be what kills device processes: the evidence against requests, by their content.

A request that ran when a process died is a suspect, and runs in batches of its own from then on. It is convicted if the
process then ends itself while nothing else runs; where somebody else may have ended it, only after so many deaths in a
row that chance is no explanation. An answer acquits. Content, not the request, is what is remembered: a client that
tries again, perhaps because its deadline passed meanwhile, does not begin anew. Plain bookkeeping: times come in.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from batchd_server.errors import ModelFailed
from batchd_server.link.codec import Frame
from batchd_server.link.messages import Fallen, Offer

DEATHS_IN_A_ROW = 4
"""So often must a request have been running when a process was killed, perhaps from outside, to be convicted."""
REMEMBERED_S = 600.0
MOST = 1024
"""Contents that are remembered; the oldest go first."""

_CRASHES = {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS"}


def ended_itself(code: int | None) -> bool:
    """Return whether a process of that exit code died of what it did: a crash, or an exit. SIGKILL may be anybody's."""
    return code is not None and (code > 0 or (code < 0 and _signal_name(code) in _CRASHES))


def death_name(code: int | None) -> str:
    """Return what it died of, in a word or two."""
    if code is None:
        return "unknown cause"
    return _signal_name(code) if code < 0 else f"exit code {code}"


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def content_of(offer: Offer, frames: list[Frame]) -> bytes:
    """Return what stands for a request's content: equal for equal items of one model."""
    digest = blake2b(offer.model.encode(), digest_size=16)
    digest.update(msgspec.msgpack.encode(offer.items))
    for frame in frames:
        digest.update(frame)
    return digest.digest()


@dataclass(slots=True)
class Suspicion:
    """The evidence against one content."""

    since: float
    deaths: int = 0
    """Processes that died while it ran."""
    in_a_row: int = 0
    """Of the latest processes that had it."""
    convicted: bool = False
    item: int | None = None
    """The one of its items that ran alone at the last of them."""
    last_exit: int | None = None

    def verdict(self, num_items: int) -> ModelFailed:
        """Return what the client is told."""
        who = "this item" if num_items == 1 else "an item" if self.item is None else f"item {self.item}"
        times = "once" if self.deaths == 1 else f"{self.deaths} times"
        end = death_name(self.last_exit)
        return ModelFailed(f"{who} ended the device process {times}, last by {end}: it is not run again", code="poison")


class Suspicions:
    """Of one front process."""

    def __init__(self) -> None:
        self._known: dict[bytes, Suspicion] = {}  # in the order of their last deaths

    def has_any(self, now: float) -> bool:
        """Return whether anything is held against anybody: else no content need be known. What is old is forgotten."""
        while self._known:
            oldest = next(iter(self._known))
            if now - self._known[oldest].since <= REMEMBERED_S:
                return True
            del self._known[oldest]
        return False

    def of(self, content: bytes, now: float) -> Suspicion | None:
        """Return what is held against a content."""
        known = self._known.get(content)
        if known is not None and now - known.since > REMEMBERED_S:
            del self._known[content]
            return None
        return known

    def died(self, content: bytes, fallen: Fallen, now: float) -> Suspicion:
        """A process died while this content ran on it."""
        running = fallen.running or ()
        known = self.of(content, now)
        alone = len(running) == 1 and not fallen.job and not fallen.beside
        if known is None:
            known = Suspicion(now)
        elif alone and ended_itself(fallen.exit):
            known.convicted = True
        known.since, known.last_exit = now, fallen.exit
        known.item = running[0].item if len(running) == 1 else None
        known.deaths += 1
        known.in_a_row += 1
        known.convicted |= known.in_a_row >= DEATHS_IN_A_ROW
        self._known.pop(content, None)
        self._known[content] = known
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return known

    def outlived(self, content: bytes) -> None:
        """A process died that had this content, but was not running it."""
        known = self._known.get(content)
        if known is not None and not known.convicted:
            known.in_a_row = 0

    def acquit(self, content: bytes) -> bool:
        """It ran, and nobody died. Return whether it was under suspicion."""
        return self._known.pop(content, None) is not None
