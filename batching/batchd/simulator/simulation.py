"""A discrete-event loop around schedulers and devices that follow a law of time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from batchd.controller import Controller
from batchd.decision import Expire, Refused, RunBatch, Wait
from batchd.item import Item, ItemId, num_elements
from batchd.outcome import Completed
from batchd.policy import ModelPolicy
from batchd.scheduler import Scheduler
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

    def __post_init__(self) -> None:
        if self.fixed < 0 or self.per_element < 0 or self.fixed + self.per_element == 0:
            raise ValueError("the cost's seconds must not be negative, and not both 0")
        if self.square_length <= 0 or self.charged_at_least < 0 or self.noise < 0:
            raise ValueError("square length must be positive, tokens charged and noise not negative")

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
    devices: int = 1
    latencies: list[float] = field(default_factory=list[float])
    in_time: int = 0
    refused: int = 0
    expired: int = 0
    busy_s: float = 0.0
    ends_at: float = 0.0
    batch_sizes: list[int] = field(default_factory=list[int])
    padded_elements: int = 0
    carried_elements: int = 0

    @property
    def goodput_per_s(self) -> float:
        """Answers within their deadline per second of the offered period."""
        return self.in_time / self.seconds

    @property
    def device_busy(self) -> float:
        """Share of the devices' time that batches took, until the last one was over."""
        return self.busy_s / (self.devices * max(self.seconds, self.ends_at))

    @property
    def mean_batch(self) -> float:
        """Items per batch; 0 where none ran."""
        return sum(self.batch_sizes) / len(self.batch_sizes) if self.batch_sizes else 0.0

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

    def scheduler() -> Scheduler:
        controller = Controller()
        controller.add_model(MODEL, policy)
        return controller

    return simulate_schedulers(arrivals, scheduler, law, seconds=seconds, seed=seed)


def simulate_schedulers(
    arrivals: Sequence[Arrival],
    scheduler: Callable[[], Scheduler],
    law: DeviceLaw,
    *,
    seconds: float,
    devices: int = 1,
    seed: int = 0,
) -> SimulationResult:
    """Run `arrivals` through `devices` devices with a scheduler each; an arrival goes where least work waits."""
    return _Simulation(arrivals, [scheduler() for _ in range(devices)], law, seconds, seed).run()


@dataclass(slots=True)
class _Device:
    """A scheduler, the batch that runs for it, and when it wants to be asked again."""

    scheduler: Scheduler
    running: RunBatch | None = None
    run_s: float = 0.0
    wakes_at: float = math.inf  # when the batch ends, or when the scheduler wants to be asked
    waiting: int = 0


class _Simulation:
    """The loop's state: a clock that jumps from event to event."""

    def __init__(
        self, arrivals: Sequence[Arrival], schedulers: Sequence[Scheduler], law: DeviceLaw, seconds: float, seed: int
    ) -> None:
        self._arrivals = arrivals
        self._law = law
        self._rng = random.Random(seed)  # noqa: S311  noise, not secrets
        self._devices = [_Device(scheduler) for scheduler in schedulers]
        self._result = SimulationResult(offered=len(arrivals), seconds=seconds, devices=len(schedulers))
        self._now = 0.0
        self._next_arrival = 0

    def run(self) -> SimulationResult:
        """Jump from event to event until nothing is left to happen."""
        arrivals = self._arrivals
        while True:
            device = min(self._devices, key=lambda device: device.wakes_at)
            upcoming = arrivals[self._next_arrival].time if self._next_arrival < len(arrivals) else math.inf
            if device.wakes_at <= upcoming:
                if device.wakes_at == math.inf:
                    self._result.ends_at = self._now
                    return self._result
                self._now = max(self._now, device.wakes_at)
                if device.running is not None:
                    self._finish(device)
            else:
                self._now = max(self._now, upcoming)
                device = self._offer()
            if device.running is None:
                self._decide(device)

    def _offer(self) -> _Device:
        index = self._next_arrival
        self._next_arrival += 1
        arrival = self._arrivals[index]
        device = min(self._devices, key=lambda device: device.waiting)
        item = Item(
            id=ItemId(index),
            model=MODEL,
            shape=arrival.shape,
            arrived=arrival.time,
            deadline=arrival.time + arrival.slo_s,
            priority=arrival.priority,
        )
        if isinstance(device.scheduler.offer(item, self._now), Refused):
            self._result.refused += 1
        else:
            device.waiting += 1
        return device

    def _decide(self, device: _Device) -> None:
        """Ask the scheduler until it runs something or waits."""
        while True:
            decision = device.scheduler.next(self._now)
            match decision:
                case RunBatch():
                    self._launch(device, decision)
                    return
                case Expire(items):
                    device.waiting -= len(items)
                    self._result.expired += len(items)
                case Wait(until):
                    device.wakes_at = until
                    return
                case _:
                    assert_never(decision)

    def _launch(self, device: _Device, batch: RunBatch) -> None:
        elements = num_elements(batch.padded_shape)
        device.running = batch
        device.run_s = self._law.seconds(len(batch.items), elements, self._rng)
        device.wakes_at = self._now + device.run_s
        result = self._result
        result.batch_sizes.append(len(batch.items))
        result.padded_elements += elements * len(batch.items)
        result.carried_elements += sum(num_elements(self._arrivals[item].shape) for item in batch.items)

    def _finish(self, device: _Device) -> None:
        batch = device.running
        assert batch is not None
        device.running = None
        outcome = Completed(batch_id=batch.batch_id, seconds=device.run_s, peak_bytes=None)
        settled = device.scheduler.report(outcome)
        self._result.busy_s += device.run_s
        device.waiting -= len(settled.finished)
        for item in settled.finished:
            arrival = self._arrivals[item]
            latency = self._now - arrival.time
            self._result.latencies.append(latency)
            self._result.in_time += latency <= arrival.slo_s
