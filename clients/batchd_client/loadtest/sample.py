"""One request as the generator saw it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTiming:
    """What the server says about the batch that a request was part of; None where it does not say."""

    batch_size: float | None = None
    queue_s: float | None = None
    compute_s: float | None = None


NO_TIMING = ServerTiming()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One attempt on the wire. Times are the event loop's seconds."""

    sent: float
    done: float
    outcome: str  # "200", "429 queue_full", "timeout", "connect error"
    ok: bool
    answered: bool  # the server gave a whole HTTP answer, good or bad
    waited_for_connection: bool = False
    timing: ServerTiming = NO_TIMING
    message: str = ""
    retry_after_s: float | None = None
    """The pause that a refusal asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A request and what became of it. Times are seconds since the start of the run, warm-up included."""

    scheduled: float
    sent: float
    done: float
    outcome: str
    ok: bool
    answered: bool
    size: int
    items: int
    deadline_s: float | None
    waited_for_connection: bool
    timing: ServerTiming
    message: str
    retry_after_s: float | None = None

    @property
    def response_s(self) -> float:
        """From the scheduled arrival to the answer: what a user who came at that time would see."""
        return self.done - self.scheduled

    @property
    def service_s(self) -> float:
        """From the actual send to the answer: what hides a stall once the generator is held up by it."""
        return self.done - self.sent

    @property
    def lag_s(self) -> float:
        """How late the generator sent."""
        return self.sent - self.scheduled
