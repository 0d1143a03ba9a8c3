"""The device process's loop: one thread that owns the controller and the link, and never waits for the device.

Everything slow happens on other threads (executor, loader, telemetry) and comes back through `post`.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, assert_never

from batchd.baselines import ADAPTIVE
from batchd.controller import Controller
from batchd.decision import RunMicrobatch
from batchd_server.config.policies import scheduler_for
from batchd_server.config.settings import Settings
from batchd_server.device.announcing import Announcing, process_lives
from batchd_server.device.answering import Answering
from batchd_server.device.black_box import BlackBox
from batchd_server.device.controls import Controls
from batchd_server.device.ending import Ending
from batchd_server.device.executor import Executor
from batchd_server.device.external_leases import ExternalLeases
from batchd_server.device.health_watch import HealthWatch
from batchd_server.device.learned_state import LearnedState, LearnedWriter, circumstances_of
from batchd_server.device.loader import Loader
from batchd_server.device.memory.sampler import TelemetrySampler
from batchd_server.device.memory.telemetry import Telemetry
from batchd_server.device.model_lifecycle import ModelLifecycle
from batchd_server.device.questions import Questions
from batchd_server.device.repository import Caller, Repository
from batchd_server.device.selection import SelectedDevice
from batchd_server.device.serving import Serving
from batchd_server.device.training.journal import JobsSeen, SnapshotSaved, TrainerFailed, TrainerReady, TroubleSeen
from batchd_server.device.training.promotion import PromotedWeights
from batchd_server.device.training.promotion_work import Adopted, PromotionSettled
from batchd_server.device.training.quantum_work import TrainDone
from batchd_server.device.training.spatial_split import SpatialSplit
from batchd_server.device.training.training_side import TrainingEvent, TrainingSide, Ways
from batchd_server.device.vitals import Vitals
from batchd_server.device.work import BatchDone, DeviceLost, Loaded, LoadFailed, ProbeDone, ReleaseDone, WarmUpDone
from batchd_server.errors import ServingError, Unavailable
from batchd_server.link.codec import Frame
from batchd_server.link.device_endpoint import Received, Waker
from batchd_server.link.messages import (
    Announce,
    Cancel,
    Control,
    ControlReply,
    DeviceMessage,
    Goodbye,
    Hello,
    Observations,
    Offer,
)
from batchd_server.observe.arrival_trace import ArrivalTrace
from batchd_server.observe.instruments import Instruments
from batchd_server.supervisor.pulse import NO_PULSE, Pulse
from batchd_server.training.places import Places

log = logging.getLogger(__name__)

SAVE_INTERVAL_S = 60.0
STOP_TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True)
class Park:
    """The daemon will stop: save what is trained, begin no more of it, and go on serving."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish what was admitted, then end."""


Event: TypeAlias = (
    BatchDone
    | WarmUpDone
    | ProbeDone
    | ReleaseDone
    | DeviceLost
    | Loaded
    | LoadFailed
    | Telemetry
    | TrainingEvent
    | Park
    | Stop
)


class Endpoint(Protocol):
    """What the engine needs of the link."""

    def receive(self, timeout_s: float) -> list[Received]:
        """Return what has come, or wait for it or for a wake-up."""
        ...

    def send(self, front: bytes, message: DeviceMessage, frames: Sequence[Frame] = ()) -> bool:
        """Send to one front; False where it has gone."""
        ...

    def waker(self) -> Waker:
        """Return what ends a waiting `receive` from another thread."""
        ...


class DeviceLostError(Exception):
    """The device answers no more in this process: only a new process helps."""


class Engine:
    """Construct, `start`, then `run` on the thread that is to own it; `post` from anywhere."""

    def __init__(
        self,
        settings: Settings,
        device: SelectedDevice,
        endpoint: Endpoint,
        instruments: Instruments,
        places: Places,
        *,
        pulse: Pulse = NO_PULSE,
        black_box: BlackBox | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._waker = endpoint.waker()
        self._clock = clock
        self._black_box = black_box or BlackBox()
        self._ending = Ending(settings.server.drain_delay_s, settings.server.drain_timeout_s)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        split = SpatialSplit.of(settings, device, self.post)
        self._executor = Executor(
            device.torch_device,
            device.peaks,
            self.post,
            pace=device.pace,
            telemetry=device.telemetry,
            threads=device.info.threads,
            black_box=self._black_box,
        )
        promoted = PromotedWeights(places.promoted)
        self._loader = Loader(settings, device.torch_device, self.post, device.peaks.hold, promoted, self._black_box)
        # beside training there is no moment in which nothing runs: what is held when the sampler looks is resident
        resident = self._executor.resident if split is None else lambda: None
        self._sampler = TelemetrySampler(device.telemetry, resident=resident, deliver=self.post)
        self._controller = scheduler_for(settings.device, settings.training)
        self._instruments = instruments
        self._answering = Answering(endpoint.send)
        self._announcing = Announcing(endpoint.send, process_lives=process_lives)
        self._trace = ArrivalTrace(settings.state.trace)
        leases = self._controller.leases if isinstance(self._controller, Controller) else None
        self._external = ExternalLeases(leases, self._controller.report, self._reply)
        self._serving = Serving(
            self._controller,
            self._answering,
            instruments,
            self._executor.submit,
            self._trace,
            self._lend,
            self._black_box,
        )
        self._repository = Repository((name, model.load) for name, model in settings.models.items())
        self._health = HealthWatch(self._repository, self._serving, self._executor.submit)
        running = (self._executor.running, *(() if split is None else (split.running,)))
        self._vitals = Vitals(pulse, settings.device.hang_timeout_s, running)
        self._training = TrainingSide(
            places,
            device,
            self._controller,
            self._repository,
            Ways(self._executor.submit, self.post, self._reply),
            split,
            self._black_box,
        )
        self._learned = LearnedWriter(LearnedState(places.directory if settings.device.policy == ADAPTIVE else None))
        self._lifecycle = ModelLifecycle(
            self._repository,
            self._controller,
            self._serving,
            self._learned,
            circumstances=circumstances_of(settings, device.info),
            load=self._loader.submit,
            submit=self._executor.submit,
            reply=self._reply,
        )
        self._questions = Questions(
            incarnation=self._black_box.incarnation,
            device=device.info,
            policy=settings.device.policy,
            controller=self._controller,
            repository=self._repository,
            serving=self._serving,
            instruments=instruments,
            split=split,
        )
        self._controls = Controls(
            self._questions, self._lifecycle, self._external, self._training, self._announcing.pids, self._reply
        )
        self._save_at = 0.0

    def post(self, event: Event) -> None:
        """Hand an event to the loop. Safe from any thread, and from a signal handler."""
        self._events.put(event)
        self._waker.wake()

    def start(self) -> None:
        """Start the threads and begin to load models."""
        self._executor.start()
        self._loader.start()
        self._learned.start()
        self._sampler.start()
        self._training.start()
        self._lifecycle.start()
        self._save_at = self._clock() + SAVE_INTERVAL_S

    def run(self) -> None:
        """Serve until stopped and drained.

        Raises:
            DeviceLostError: the device is beyond repair in this process.
            HungError: what runs on it does not end.
        """
        wake_at = self._clock()
        while not self._drained():
            received = self._endpoint.receive(
                max(0.0, min(wake_at, self._announcing.next_at, self._vitals.next_at) - self._clock())
            )
            now = self._clock()
            # Whatever has come is known before the free device gets its next batch.
            for each in received:
                self._take(each, now)
            self._take_events(now)
            self._health.tend(now)
            self._vitals.turn(now, ready=self._repository.ready, answered=self._health.answered)
            self._external.tick(now)
            wake_at = min(self._serving.decide(now), self._training.decide(now), self._external.wake_at)
            for front in self._answering.flush():
                self._forget(front)
            self._announce(now)
            self._save(now)
        if self._serving.num_open:
            log.warning("%d items were not finished in time", self._serving.num_open)
            self._serving.fail_all(Unavailable("the server has shut down", code="draining"), self._clock())
            self._answering.flush()

    def close(self) -> bool:
        """Save what was learned and end the threads; False where a batch or a load would not end."""
        self._lifecycle.save()
        self._trace.close()
        self._sampler.stop()
        ended = (
            self._executor.stop(STOP_TIMEOUT_S),
            self._loader.stop(STOP_TIMEOUT_S),
            self._learned.stop(STOP_TIMEOUT_S),
            self._training.stop(STOP_TIMEOUT_S),
        )
        return all(ended)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _take(self, received: Received, now: float) -> None:
        front = received.front
        match received.message:
            case Hello(pid=pid):
                self._announcing.seen(front, pid)
            case Offer() as offer:
                self._announcing.seen(front)
                self._serving.offer(front, offer, received.frames, now)
            case Cancel(request=request):
                self._serving.cancel(front, request)
            case Control() as control:
                self._announcing.seen(front)
                self._controls.take(Caller(front, control.call), control, now)
            case Observations(rows=rows, ended=ended):
                self._instruments.requests_observed(rows)
                self._instruments.connections_ended(ended)
            case Goodbye():
                self._forget(front)
            case never:
                assert_never(never)

    def _take_events(self, now: float) -> None:
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            match event:
                case BatchDone():
                    self._health.batch_over(event)
                    self._serving.batch_done(event, now)
                case ProbeDone():
                    self._health.probed(event, now)
                case Loaded() | LoadFailed() | WarmUpDone() | ReleaseDone():
                    self._lifecycle.take(event)
                case Telemetry():
                    self._questions.telemetry = event
                    self._controller.observe(event.memory)
                    self._training.observe(event.memory)
                case (
                    TrainDone()
                    | Adopted()
                    | PromotionSettled()
                    | JobsSeen()
                    | SnapshotSaved()
                    | TrainerReady()
                    | TrainerFailed()
                    | TroubleSeen()
                ):
                    self._training.take(event)
                case DeviceLost(reason=reason):
                    raise DeviceLostError(reason)
                case Park():
                    self._park(now)
                case Stop():
                    self._drain(now)
                case never:
                    assert_never(never)

    def _lend(self, lease: RunMicrobatch, now: float) -> None:
        """Give the device to whoever trains: a job, or a process of its own."""
        if self._training.owns(lease):
            self._training.lend(lease)
        else:
            self._external.lend(lease, now)

    def _reply(self, caller: Caller, result: Any, error: ServingError | None = None) -> None:
        described = None if error is None else (error.status, error.code, error.message)
        reply = ControlReply(call=caller.call, result=None if error else result, error=described)
        if not self._endpoint.send(caller.front, reply):
            self._forget(caller.front)

    def _announce(self, now: float) -> None:
        draining = self._ending.stopping
        state = Announce(
            incarnation=self._black_box.incarnation,
            fallen=self._black_box.fallen,
            pid=os.getpid(),
            ready=self._repository.ready and not draining,
            draining=draining,
            models=self._repository.states(),
            training_trouble=self._training.trouble,
        )
        for front in self._announcing.announce(state, now):
            self._forget(front)

    def _forget(self, front: bytes) -> None:
        log.info("front %s is gone", front.decode(errors="replace"))
        self._announcing.forget(front)
        self._serving.forget_front(front)
        self._external.forget_front(front)

    def _park(self, now: float) -> None:
        if self._ending.park(now):
            self._external.drain()
            self._training.drain()

    def _drain(self, now: float) -> None:
        if self._ending.stop(now):
            log.info("finishing %d admitted items", self._serving.num_open)
            self._controller.drain()
            self._park(now)

    def _drained(self) -> bool:
        # a batch whose items nobody waits for any more is left behind
        return self._ending.over(self._clock(), serving=self._serving.num_open > 0, saving=self._training.busy)

    def _save(self, now: float) -> None:
        self._trace.flush(now)
        if now >= self._save_at:
            self._save_at = now + SAVE_INTERVAL_S
            self._lifecycle.save()
