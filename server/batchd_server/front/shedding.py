"""Which requests a front refuses by itself: those like the ones that the device process is refusing just now.

Under overload most of the work per request is reading, preparing and sending what is then refused. Of every kind of
request that has been refused of late, only as many are let through as keep finding room, and about as many again that
look for more. Pure: times and counts come in, verdicts go out. It must not know HTTP, sockets or the clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from batchd_server.errors import ServingError

CALM_S = 1.0
"""After so long without a refusal of its kind, requests are not held back any more."""
SHORTEST_HOLD_S, LONGEST_HOLD_S = 0.01, 0.1
"""How long a kind of which not even one request at a time finds room rests before the next; doubled each time."""
DECIDED_AFTER = 3.0
"""A request that was not refused within so many times of what refusals take has been admitted, as far as is known."""
SHORTEST_DECISION_S, LONGEST_DECISION_S = 0.002, 0.2
SMOOTHING = 0.2
MAX_KINDS = 256
FLOW_S = 1.0
"""Over how long requests are counted, fading, for the pause that refusals ask for."""
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests that stand an equal chance, as far as can be told without preparing them."""

    model: str
    form: str  # protocol and encoding: bytes of one are not those of another
    priority: int
    size: int  # of the body, in half octaves
    timeout: int  # the same of the milliseconds that its client gives it; -1: none, so the model's SLO


def kind_of(model: str, form: str, priority: int, num_bytes: int, timeout_s: float | None) -> Kind:
    """Return the kind of a request."""
    timeout = -1 if timeout_s is None else _half_octaves(timeout_s * 1e3)
    return Kind(model, form, priority, _half_octaves(num_bytes), timeout)


def _half_octaves(value: float) -> int:
    return round(2 * math.log2(1 + max(0.0, value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnedAway:
    """A request is refused without having been read further; `like` is what the last of its kind was refused with."""

    like: ServingError
    retry_after_s: float | None


@dataclass(slots=True, eq=False)
class Attempt:
    """A request that was let through, until it is known what became of it."""

    kind: Kind
    since: float
    counted: bool = False
    """Among those of which it is not known yet whether they find room."""
    over: bool = False


@dataclass(slots=True)
class _Gate:
    """Of one kind that is being refused."""

    like: ServingError
    refused_at: float
    allowed: float = 1.0
    """Requests that may look for room at a time: one more for each that finds it, one less for each that does not."""
    open_from: float = 0.0
    hold_s: float = SHORTEST_HOLD_S
    looking: deque[Attempt] = field(default_factory=deque)
    num_looking: int = 0


@dataclass(slots=True)
class _Flow:
    """Requests of a model of late: admitted and not, fading with time."""

    admitted: float = 0.0
    refused: float = 0.0
    at: float = 0.0

    def count(self, now: float, *, admitted: float = 0.0, refused: float = 0.0) -> None:
        fade = math.exp(-max(0.0, now - self.at) / FLOW_S)
        self.admitted = self.admitted * fade + admitted
        self.refused = self.refused * fade + refused
        self.at = now

    @property
    def crowd_s(self) -> float:
        """How long it takes to serve as many as have been refused of late."""
        return FLOW_S * self.refused / max(1.0, self.admitted)


class Shedding:
    """The gates of one front process."""

    def __init__(self) -> None:
        self._gates: dict[Kind, _Gate] = {}  # the one refused longest ago comes first
        self._flows: dict[str, _Flow] = {}
        self._refusal_takes_s = SHORTEST_DECISION_S
        self.num_turned_away = 0

    @property
    def calm(self) -> bool:
        """Whether everything is let through, so that nobody need be asked."""
        return not self._gates

    def ask(self, kind: Kind, now: float, chance: float) -> Attempt | TurnedAway:
        """Let a request through, or turn it away; `chance` in [0, 1) is drawn for its pause.

        Whoever is let through must be told of, by `refused` or `settled`.
        """
        gate = self._gates.get(kind)
        if gate is None:
            return Attempt(kind, now)
        if now - gate.refused_at > CALM_S:
            del self._gates[kind]
            return Attempt(kind, now)
        self._ripen(gate, now)
        if now < gate.open_from or gate.num_looking >= gate.allowed:
            self.num_turned_away += 1
            return TurnedAway(like=gate.like, retry_after_s=self._pause_s(gate, kind, now, chance))
        attempt = Attempt(kind, now, counted=True)
        gate.looking.append(attempt)
        gate.num_looking += 1
        return attempt

    def refused(self, attempt: Attempt, error: ServingError, now: float, chance: float) -> float | None:
        """Learn that a request found no room; return the pause in seconds to ask its client for, if `error` did."""
        attempt.over = True
        kind = attempt.kind
        taken = min(max(now - attempt.since, 0.0), LONGEST_DECISION_S)
        self._refusal_takes_s += SMOOTHING * (taken - self._refusal_takes_s)
        # not the error itself: its traceback holds the whole request
        like = type(error)(error.message, retry_after_s=error.retry_after_s, code=error.code)
        gate = self._gates.pop(kind, None) or _Gate(like=like, refused_at=now)
        self._gates[kind] = gate
        gate.like, gate.refused_at = like, now
        self._decided(gate, attempt)
        gate.allowed -= 1.0
        if gate.allowed < 1.0:
            gate.allowed = 1.0
            wait = gate.hold_s if error.retry_after_s is None else min(gate.hold_s, error.retry_after_s)
            gate.open_from = now + wait
            gate.hold_s = min(2 * gate.hold_s, LONGEST_HOLD_S)
        self._forget(now)
        return self._pause_s(gate, kind, now, chance)

    def settled(self, attempt: Attempt, now: float, *, admitted: bool) -> None:
        """Learn that a request is over otherwise; it was `admitted`, or it told nothing. Once told, it is no news."""
        if attempt.over:
            return
        attempt.over = True
        if admitted:
            self.admitted(attempt.kind.model, now)
        gate = self._gates.get(attempt.kind)
        if gate is not None and self._decided(gate, attempt) and admitted:
            self._found_room(gate)

    def admitted(self, model: str, now: float) -> None:
        """Learn that a request was admitted of which `ask` had not been asked."""
        self._flow(model).count(now, admitted=1.0)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _ripen(self, gate: _Gate, now: float) -> None:
        """Count those as admitted that would have been refused by now."""
        wait = min(max(DECIDED_AFTER * self._refusal_takes_s, SHORTEST_DECISION_S), LONGEST_DECISION_S)
        while gate.looking and (not gate.looking[0].counted or gate.looking[0].since + wait <= now):
            if self._decided(gate, gate.looking.popleft()):
                self._found_room(gate)

    @staticmethod
    def _decided(gate: _Gate, attempt: Attempt) -> bool:
        """Count an attempt no longer; False where it was not counted."""
        counted, attempt.counted = attempt.counted, False
        gate.num_looking -= counted
        return counted

    @staticmethod
    def _found_room(gate: _Gate) -> None:
        if gate.allowed < 2.0 * (gate.num_looking + 1):  # what is not used shows nothing
            gate.allowed += 1.0
        gate.hold_s = SHORTEST_HOLD_S

    def _flow(self, model: str) -> _Flow:
        flow = self._flows.get(model)
        if flow is None:
            flow = self._flows[model] = _Flow()
        return flow

    def _pause_s(self, gate: _Gate, kind: Kind, now: float, chance: float) -> float | None:
        """Seconds until there may be room, and the crowd that waits for it spread over what serving it takes."""
        flow = self._flow(kind.model)
        crowd_s = flow.crowd_s
        flow.count(now, refused=1.0)
        if gate.like.retry_after_s is None:
            return None
        room_s = gate.like.retry_after_s - (now - gate.refused_at)
        return min(max(room_s, 0.0) + chance * crowd_s, LONGEST_PAUSE_S)

    def _forget(self, now: float) -> None:
        """Drop the gates that are calm, and the oldest where there are too many."""
        while self._gates:
            oldest, gate = next(iter(self._gates.items()))
            if now - gate.refused_at <= CALM_S and len(self._gates) <= MAX_KINDS:
                return
            del self._gates[oldest]
