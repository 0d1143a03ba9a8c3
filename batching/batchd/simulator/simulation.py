"""A discrete-event loop around one controller and one device that follows a law of time."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from batchd.controller import Controller
from batchd.decision import Expire, Refused, RunBatch, Wait
from batchd.item import Item, ItemId, num_elements
from batchd.outcome import Completed
from batchd.policy import ModelPolicy
from batchd.simulator.arrivals import Arrival

MODEL = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLaw:
    """Seconds of a batch: `fixed + per_element * max(tokens, charged_at_least) * (1 + E / square_length)`.

    `tokens` is batch size x padded elements E. `noise` is the sigma of a log-normal factor with median 1.
    """

    fixed: float
    per_element: float
    square_length: float = math.inf
    charged_at_least: int = 0
    noise: float = 0.0

    def seconds(self, batch_size: int, elements: int, rng: random.Random) -> float:
        """Return how long one batch takes."""
        charged = max(batch_size * elements, self.charged_at_least)
        time = self.fixed + self.per_element * charged * (1 + elements / self.square_length)
        return time * rng.lognormvariate(0.0, self.noise) if self.noise else time


@dataclass(slots=True)
class SimulationResult:
    """What happened to every arrival. Times in seconds."""

    offered: int
    seconds: float
    latencies: list[float] = field(default_factory=list)
    in_time: int = 0
    refused: int = 0
    expired: int = 0
    busy_s: float = 0.0
    batch_sizes: list[int] = field(default_factory=list)
    padded_elements: int = 0
    carried_elements: int = 0

    @property
    def goodput_per_s(self) -> float:
        """Answers within their deadline per second of the offered period."""
        return self.in_time / self.seconds

    @property
    def padding_ratio(self) -> float:
        """Padded elements that carried no data over all elements."""
        return 1.0 - self.carried_elements / self.padded_elements if self.padded_elements else 0.0

    def latency_quantile(self, q: float) -> float:
        """Return the q-quantile of the latencies of what was answered; NaN where nothing was."""
        if not self.latencies:
            return math.nan
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]


def simulate(
    arrivals: Sequence[Arrival], policy: ModelPolicy, law: DeviceLaw, *, seconds: float, seed: int = 0
) -> SimulationResult:
    """Run `arrivals` (in order of time) through a fresh controller and return what became of them."""
    return _Simulation(arrivals, policy, law, seconds, seed).run()


class _Simulation:
    """The loop's state: a clock that jumps from event to event."""

    def __init__(
        self, arrivals: Sequence[Arrival], policy: ModelPolicy, law: DeviceLaw, seconds: float, seed: int
    ) -> None:
        self._arrivals = arrivals
        self._law = law
        self._rng = random.Random(seed)  # noqa: S311  noise, not secrets
        self._controller = Controller()
        self._controller.add_model(MODEL, policy)
        self._result = SimulationResult(offered=len(arrivals), seconds=seconds)
        self._now = 0.0
        self._next_arrival = 0
        self._running: tuple[RunBatch, float, float] | None = None  # batch, seconds, end

    def run(self) -> SimulationResult:
        """Jump from event to event until nothing is left to happen."""
        while True:
            wake = self._decide()
            upcoming = self._arrivals[self._next_arrival].time if self._next_arrival < len(self._arrivals) else math.inf
            ends = self._running[2] if self._running is not None else math.inf
            at = min(wake, upcoming, ends)
            if at == math.inf:
                return self._result
            self._now = max(self._now, at)
            if ends <= at:
                self._finish()
            elif upcoming <= at:
                self._offer()

    def _decide(self) -> float:
        """Ask the controller until it runs something or waits; return when it wants to be asked again."""
        while True:
            decision = self._controller.next(self._now)
            match decision:
                case RunBatch():
                    elements = num_elements(decision.padded_shape)
                    seconds = self._law.seconds(len(decision.items), elements, self._rng)
                    self._running = (decision, seconds, self._now + seconds)
                    self._result.batch_sizes.append(len(decision.items))
                    self._result.padded_elements += elements * len(decision.items)
                    self._result.carried_elements += sum(
                        num_elements(self._arrivals[item].shape) for item in decision.items
                    )
                case Expire(items):
                    self._result.expired += len(items)
                case Wait(until):
                    return until
                case _:
                    assert_never(decision)

    def _offer(self) -> None:
        index = self._next_arrival
        self._next_arrival += 1
        arrival = self._arrivals[index]
        item = Item(
            id=ItemId(index),
            model=MODEL,
            shape=arrival.shape,
            arrived=arrival.time,
            deadline=arrival.time + arrival.slo_s,
            priority=arrival.priority,
        )
        if isinstance(self._controller.offer(item, self._now), Refused):
            self._result.refused += 1

    def _finish(self) -> None:
        assert self._running is not None
        batch, seconds, _ = self._running
        self._running = None
        settled = self._controller.report(Completed(batch_id=batch.batch_id, seconds=seconds, peak_bytes=None))
        self._result.busy_s += seconds
        for item in settled.finished:
            arrival = self._arrivals[item]
            latency = self._now - arrival.time
            self._result.latencies.append(latency)
            self._result.in_time += latency <= arrival.slo_s
