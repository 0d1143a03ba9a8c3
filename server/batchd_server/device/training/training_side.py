"""Training as the engine sees it: takes events and control calls, and runs what the device is lent for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

from batchd.budget import MemoryReading
from batchd.decision import RunMicrobatch
from batchd.device_scheduler import DeviceScheduler
from batchd_server.device.black_box import BlackBox
from batchd_server.device.model_lifecycle import Reply
from batchd_server.device.repository import Caller, Repository
from batchd_server.device.selection import SelectedDevice
from batchd_server.device.training.bookkeeper import Bookkeeper
from batchd_server.device.training.journal import (
    JobsSeen,
    SnapshotSaved,
    TrainerFailed,
    TrainerReady,
    TrainingNews,
    TroubleSeen,
)
from batchd_server.device.training.promoter import Promoter, promotion_call
from batchd_server.device.training.promotion_work import Adopted, Promotion, PromotionSettled
from batchd_server.device.training.quantum_work import TrainDone, TrainWork
from batchd_server.device.training.runner import Runner
from batchd_server.device.training.spatial_split import SpatialSplit
from batchd_server.device.training.workshop import Workshop
from batchd_server.training.places import Places

TrainingEvent: TypeAlias = TrainDone | Adopted | PromotionSettled | TrainingNews


@dataclass(frozen=True, slots=True)
class Ways:
    """How training reaches the rest of the device process."""

    submit: Callable[[TrainWork | Promotion], None]
    """To the executor."""
    deliver: Callable[[TrainingEvent], None]
    """To the engine's thread, from any other."""
    reply: Reply


class TrainingSide:
    """Construct, `start`, then call from the engine's thread."""

    def __init__(
        self,
        places: Places,
        device: SelectedDevice,
        controller: DeviceScheduler,
        repository: Repository,
        ways: Ways,
        split: SpatialSplit | None = None,
        black_box: BlackBox | None = None,
    ) -> None:
        black_box = black_box or BlackBox()
        submit, deliver, self._reply = ways.submit, ways.deliver, ways.reply
        self._split = split
        self._bookkeeper = Bookkeeper(places, deliver, black_box.fallen[-1] if black_box.fallen else None)
        self._workshop = Workshop(places, device.torch_device, device.peaks.hold, deliver, black_box)
        if split is None:
            self._runner = Runner(controller, repository, self._bookkeeper, self._workshop, submit, black_box)
        else:
            scheduler, run = split.controller, split.submit
            self._runner = Runner(scheduler, repository, self._bookkeeper, self._workshop, run, black_box)
        self._promoter = Promoter(places, self._workshop, repository, submit, deliver, ways.reply)

    def start(self) -> None:
        """Start the threads, and look for jobs."""
        self._bookkeeper.start()
        self._workshop.start()
        if self._split is not None:
            self._split.start()

    def stop(self, timeout_s: float) -> bool:
        """Write what is left and end the threads; False where that takes longer."""
        ended = (
            self._split is None or self._split.stop(timeout_s),
            self._workshop.stop(timeout_s),
            self._bookkeeper.stop(timeout_s),
        )
        return all(ended)

    @property
    def busy(self) -> bool:
        """Whether something must be finished before the process may end."""
        return self._runner.busy

    @property
    def trouble(self) -> str:
        """Why all training rests, a `Trouble`; empty while nothing keeps it from going on."""
        return "" if self._runner.trouble is None else self._runner.trouble.value

    def drain(self) -> None:
        """Save what is not saved, and begin nothing."""
        if self._split is not None:
            self._split.drain()
        self._runner.drain()

    def owns(self, lease: RunMicrobatch) -> bool:
        """Whether the device was lent to a job."""
        return self._runner.owns(lease.tenant)

    def observe(self, reading: MemoryReading) -> None:
        """Hear what the memory probes saw."""
        if self._split is not None:
            self._split.observe(reading)

    def decide(self, now: float) -> float:
        """Use the cores that training has to itself, if it has any; return when to ask again."""
        return math.inf if self._split is None else self._split.decide(now, self.lend)

    def lend(self, lease: RunMicrobatch) -> None:
        """Run what the device was lent for."""
        self._runner.lend(lease)

    def take(self, event: TrainingEvent) -> None:
        """Hear what came back from another thread."""
        match event:
            case TrainDone():
                self._runner.done(event)
            case JobsSeen() | SnapshotSaved() | TrainerReady() | TrainerFailed() | TroubleSeen():
                self._runner.hear(event)
            case Adopted():
                self._promoter.adopted(event)
            case PromotionSettled(promotion=promotion):
                self._promoter.settled(event)
                if event.error is None and promotion is not None and promotion.job is not None:
                    self._runner.note(promotion.job, "promoted", {"step": promotion.step})
            case never:
                assert_never(never)

    # ---- control calls -----------------------------------------------------------------------------------------------

    def look(self, caller: Caller) -> None:
        """Somebody has changed something in the store."""
        self._bookkeeper.poll()
        self._reply(caller, None, None)

    def promote(self, caller: Caller, model: str, arguments: dict[str, Any]) -> None:
        """Serve a model with a checkpoint's weights.

        Raises:
            ServingError: that cannot be.
        """
        job, step = promotion_call(arguments)
        self._promoter.promote(caller, model, job, step)

    def roll_back(self, caller: Caller, model: str) -> None:
        """Undo a model's last promotion.

        Raises:
            ServingError: that cannot be.
        """
        self._promoter.roll_back(caller, model)
