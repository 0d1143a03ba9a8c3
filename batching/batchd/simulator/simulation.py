"""A discrete-event loop around schedulers and devices that follow a law of time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never

from batchd.baselines.idle_training import IdleTraining
from batchd.controller import Controller
from batchd.decision import Expire, Refused, RunBatch, RunMicrobatch, Wait
from batchd.item import Item, ItemId, num_elements
from batchd.leasing.demand import Demand
from batchd.load import Load
from batchd.outcome import Completed, OutOfMemory
from batchd.policy import ModelPolicy
from batchd.scheduler import MemoryObserver, Scheduler
from batchd.simulator.arrivals import Arrival
from batchd.simulator.device_law import DeviceLaw, DeviceRun
from batchd.simulator.training_law import TENANT, TrainingLaw

MODEL = "simulated"

NOTHING_RAN = DeviceRun(0.0, None)

TELEMETRY_S = 0.25
"""Between two readings of the memory, as in the device process."""


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
    failed: int = 0
    """Ran out of memory alone, or in a batch that its scheduler does not split."""
    ooms: int = 0
    """Batches that ran out of memory."""
    busy_s: float = 0.0
    """Device time that inference took."""
    training_s: float = 0.0
    """Device time that was lent to training."""
    trained_items: int = 0
    microbatches: int = 0
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
        """Share of the devices' time that inference batches took, until the last one was over."""
        return self.busy_s / (self.devices * max(self.seconds, self.ends_at))

    @property
    def training_share(self) -> float:
        """Share of the devices' time that was lent to training."""
        return self.training_s / (self.devices * max(self.seconds, self.ends_at))

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
    training: TrainingLaw | None = None,
) -> SimulationResult:
    """Run `arrivals` through `devices` devices with a scheduler each; an arrival goes where least work waits.

    With `training` every device has an endless job beside it, until `seconds` are over. Schedulers other than the
    controller leave it the gaps.
    """
    made = [_device(scheduler(), training) for _ in range(devices)]
    return _Simulation(arrivals, made, law, seconds, seed, training).run()


@dataclass(slots=True)
class _Device:
    """A scheduler, the batch that runs for it, and when it wants to be asked again."""

    scheduler: Scheduler
    demand: Callable[[Demand | None], None] | None  # where it trains: says what it would train next
    observer: MemoryObserver | None = None  # what of it wants to know of the memory
    running: RunBatch | RunMicrobatch | None = None
    run: DeviceRun = NOTHING_RAN
    wakes_at: float = 0.0  # when what runs ends, or when the scheduler wants to be asked
    waiting: int = 0


def _device(scheduler: Scheduler, training: TrainingLaw | None) -> _Device:
    observer = scheduler if isinstance(scheduler, MemoryObserver) else None
    if training is None:
        return _Device(scheduler, None, observer)
    if isinstance(scheduler, Controller):
        scheduler.leases.add(TENANT)
        device = _Device(scheduler, partial(scheduler.leases.demand, TENANT), observer)
    else:
        idle = IdleTraining(scheduler, training.idle_items)
        device = _Device(idle, idle.demand, observer)
    assert device.demand is not None
    device.demand(training.demand)
    return device


class _Simulation:
    """The loop's state: a clock that jumps from event to event."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        devices: Sequence[_Device],
        law: DeviceLaw,
        seconds: float,
        seed: int,
        training: TrainingLaw | None,
    ) -> None:
        self._arrivals = arrivals
        self._law = law
        self._rng = random.Random(seed)  # noqa: S311  noise, not secrets
        self._training = training
        self._devices = devices
        self._result = SimulationResult(offered=len(arrivals), seconds=seconds, devices=len(devices))
        self._now = 0.0
        self._read_at = math.inf if law.memory is None else 0.0
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
                self._advance(device.wakes_at)
                if device.running is not None:
                    self._finish(device)
            else:
                self._advance(upcoming)
                device = self._offer()
            if device.running is None:
                self._decide(device)

    def _advance(self, now: float) -> None:
        """Move the clock on, and tell the schedulers the last reading of the memory before that."""
        self._now = max(self._now, now)
        if self._now < self._read_at:
            return
        memory = self._law.memory
        assert memory is not None, "readings are due of a memory only"
        read_at = math.floor(self._now / TELEMETRY_S) * TELEMETRY_S
        self._read_at = read_at + TELEMETRY_S
        for device in self._devices:
            if device.observer is not None:
                device.observer.observe(memory.reading(read_at))

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
        if device.demand is not None and self._now >= self._result.seconds:
            device.demand(None)
            device.demand = None
        while True:
            decision = device.scheduler.next(self._now)
            match decision:
                case RunBatch():
                    self._launch(device, decision)
                    return
                case RunMicrobatch():
                    assert self._training is not None, "a microbatch was launched, but nothing trains"
                    device.running = decision
                    seconds = self._training.seconds(decision.items, self._rng)
                    device.run = DeviceRun(seconds * self._law.factor(self._now), None)
                    device.wakes_at = self._now + device.run.seconds
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
        sizes = [num_elements(self._arrivals[item].shape) for item in batch.items]
        if batch.padded_shape is None:
            load = Load.ragged(sizes)
        else:
            load = Load.padded(len(batch.items), num_elements(batch.padded_shape))
        device.running = batch
        device.run = self._law.run(load, self._now, self._rng)
        device.wakes_at = self._now + device.run.seconds
        result = self._result
        result.batch_sizes.append(len(batch.items))
        result.padded_elements += load.elements
        result.carried_elements += sum(sizes)

    def _finish(self, device: _Device) -> None:
        batch = device.running
        assert batch is not None
        device.running = None
        run, result = device.run, self._result
        if run.fits:
            settled = device.scheduler.report(
                Completed(batch_id=batch.batch_id, seconds=run.seconds, peak_bytes=run.peak_bytes)
            )
        else:
            result.ooms += 1
            reading = None if self._law.memory is None else self._law.memory.reading(self._now)
            settled = device.scheduler.report(
                OutOfMemory(batch_id=batch.batch_id, peak_bytes=run.peak_bytes, reading=reading)
            )
        if isinstance(batch, RunMicrobatch):
            result.training_s += run.seconds
            result.trained_items += batch.items
            result.microbatches += 1
            return
        result.busy_s += run.seconds
        device.waiting -= len(settled.finished) + len(settled.impossible)
        result.failed += len(settled.impossible)
        for item in settled.finished:
            arrival = self._arrivals[item]
            latency = self._now - arrival.time
            result.latencies.append(latency)
            result.in_time += latency <= arrival.slo_s
