"""A front that sheds, before a controller and a lawful device, on a virtual clock."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from batchd import Admitted, Completed, Controller, Expire, Item, ItemId, ModelPolicy, RunBatch
from batchd.load import Load
from batchd.simulator import DeviceLaw
from batchd_server.device.refusals import refusal_error
from batchd_server.front.shedding import Attempt, Kind, Shedding, TurnedAway, kind_of

LINK_S = 0.001
"""From the front to the device process, and back."""
GRACE_S = 0.01
"""For what the front adds at both ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client sends."""

    at: float
    model: str = "m"
    size: int = 32
    priority: int = 0
    timeout_s: float | None = None
    name: str = ""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of the requests, by their names."""

    good: Counter[str] = field(default_factory=Counter[str])
    late: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    shed: Counter[str] = field(default_factory=Counter[str])
    good_at: list[float] = field(default_factory=list[float])
    pauses: list[float] = field(default_factory=list[float])
    refusal_waits: list[float] = field(default_factory=list[float])


def poisson(rng: random.Random, rate: float, seconds: float, **same: object) -> Iterator[Request]:
    """Yield requests of one stream."""
    at = rng.expovariate(rate)
    while at < seconds:
        yield Request(at=at, **same)  # type: ignore[arg-type]
        at += rng.expovariate(rate)


class Service:
    """One front, one device process. The front handles one thing at a time, and turning away is cheaper for it."""

    def __init__(
        self,
        policies: dict[str, ModelPolicy],
        law: DeviceLaw,
        *,
        shedding: Shedding | None = None,
        let_through_s: float = 0.0,
        turn_away_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._policies = policies
        self._law = law
        self._shedding = shedding
        self._let_through_s, self._turn_away_s = let_through_s, turn_away_s
        self._rng = random.Random(seed)
        self._controller = Controller()
        for name, policy in policies.items():
            self._controller.add_model(name, policy)
        self._ids, self._order = count(1), count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._open: dict[ItemId, tuple[Request, Attempt]] = {}
        self._busy = False
        self._front_free = 0.0
        self.outcome = Outcome()

    def run(self, requests: list[Request]) -> Outcome:
        """Serve them all to the end."""
        for request in requests:
            self._at(request.at, lambda now, request=request: self._arrive(request, now))
        while self._events:
            now, _, event = heapq.heappop(self._events)
            event(now)
        assert not self._open, "every request is answered"
        return self.outcome

    def _at(self, when: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    # ---- front -------------------------------------------------------------------------------------------------------

    def _arrive(self, request: Request, now: float) -> None:
        start = max(now, self._front_free)
        if start > now:  # the front is at work: it takes this one up when it is done
            self._front_free = start
            self._at(start, lambda later: self._take_up(request, later))
            self._front_free = start + self._turn_away_s
        else:
            self._take_up(request, now)

    def _take_up(self, request: Request, now: float) -> None:
        kind = self._kind(request)
        verdict = Attempt(kind, now) if self._shedding is None else self._shedding.ask(kind, now, self._rng.random())
        if isinstance(verdict, TurnedAway):
            self._front_free = max(self._front_free, now + self._turn_away_s)
            self.outcome.shed[request.name] += 1
            self.outcome.pauses.append(verdict.retry_after_s or 0.0)
            self.outcome.refusal_waits.append(now + self._turn_away_s - request.at)
            return
        self._front_free = max(self._front_free, now) + self._let_through_s
        self._at(now + self._let_through_s + LINK_S, lambda later: self._offer(request, verdict, now, later))

    @staticmethod
    def _kind(request: Request) -> Kind:
        return kind_of(request.model, "oip", request.priority, 4 * request.size, request.timeout_s)

    # ---- device process ----------------------------------------------------------------------------------------------

    def _offer(self, request: Request, attempt: Attempt, arrived: float, now: float) -> None:
        slo_s = self._policies[request.model].slo_s if request.timeout_s is None else request.timeout_s
        item = Item(
            id=ItemId(next(self._ids)),
            model=request.model,
            shape=(request.size,),
            arrived=arrived,
            deadline=arrived + slo_s,
            priority=request.priority,
        )
        admission = self._controller.offer(item, now)
        if isinstance(admission, Admitted):
            self._open[item.id] = request, attempt
            self._decide(now)
            return
        error = refusal_error(admission)

        def tell(later: float) -> None:
            self.outcome.refused[request.name] += 1
            self.outcome.refusal_waits.append(later - request.at)
            if self._shedding is not None:
                self.outcome.pauses.append(self._shedding.refused(attempt, error, later, self._rng.random()) or 0.0)

        self._at(now + LINK_S, tell)

    def _decide(self, now: float) -> None:
        while not self._busy:
            match self._controller.next(now):
                case RunBatch() as batch:
                    self._busy = True
                    assert batch.padded_shape is not None, "padded"
                    seconds = self._law.seconds_of(Load.padded(len(batch.items), batch.padded_shape[0]), self._rng)
                    self._at(
                        now + seconds, lambda later, batch=batch, seconds=seconds: self._done(batch, seconds, later)
                    )
                case Expire(items=items):
                    for item_id in items:
                        self._answer(item_id, math.inf, now)
                case other:
                    until = other.until  # type: ignore[union-attr]
                    if until < math.inf and self._open:
                        self._at(until, self._decide)
                    return

    def _done(self, batch: RunBatch, seconds: float, now: float) -> None:
        self._busy = False
        self._controller.report(Completed(batch_id=batch.batch_id, seconds=seconds, peak_bytes=None))
        for item_id in batch.items:
            self._answer(item_id, now + LINK_S, now)
        self._decide(now)

    def _answer(self, item_id: ItemId, answered: float, now: float) -> None:
        request, attempt = self._open.pop(item_id)
        slo_s = self._policies[request.model].slo_s if request.timeout_s is None else request.timeout_s
        in_time = answered <= request.at + slo_s + GRACE_S
        (self.outcome.good if in_time else self.outcome.late)[request.name] += 1
        if in_time:
            self.outcome.good_at.append(answered)
        if self._shedding is not None:
            shedding = self._shedding
            self._at(now + LINK_S, lambda later: shedding.settled(attempt, later, admitted=True))
