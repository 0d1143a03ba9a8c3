"""A thread that makes trainers: opens data, makes networks, reads checkpoints. Serving and training go on meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from batchd_server.device.black_box import BlackBox
from batchd_server.device.failures import FailureKind, classify, describe
from batchd_server.device.training.checkpoints import JobFolder, SavedState
from batchd_server.device.training.journal import TrainerFailed, TrainerReady
from batchd_server.device.training.promotion import PromotedWeights
from batchd_server.device.training.random_state import seeded
from batchd_server.device.training.strikes import BUILDING
from batchd_server.device.training.train_report import TrainingFailed
from batchd_server.device.training.trainer import Trainer
from batchd_server.device.worker_thread import WorkerThread
from batchd_server.models.trainable import Trainable
from batchd_server.training.datasets.builtin import builtin, dataset_files
from batchd_server.training.places import Places
from batchd_server.training.records import Dataset, Job
from batchd_server.training.store import StoreError, TrainingStore

log = logging.getLogger(__name__)

Hold = Callable[[Iterable[torch.Tensor]], None]


class NoRoomYet(Exception):
    """Other jobs have the memory that this one needs."""


class UnreadableNow(Exception):
    """What the job goes on from cannot be read, but is not damaged."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes for a job: what is free, None where nothing tells, and what other jobs will give back one day."""

    free: int | None
    held_by_jobs: int

    def check(self, needed: int) -> None:
        """Make sure that weights, gradients and optimizer state fit.

        Raises:
            TrainingFailed: they never will.
            NoRoomYet: they do not now.
        """
        if self.free is None or needed <= self.free:
            return
        most = self.free + self.held_by_jobs
        said = f"weights, gradients and optimizer state need {needed} bytes"
        if needed > most:
            raise TrainingFailed(f"{said}, {most} may be used on this device")
        raise NoRoomYet(f"{said}, {self.free} are free beside other jobs")


class Workshop(WorkerThread[Callable[[], None]]):
    """Makes one trainer after another. `deliver` is called on its thread."""

    def __init__(
        self,
        places: Places,
        device: torch.device,
        hold: Hold,
        deliver: Callable[[TrainerReady | TrainerFailed], None],
        black_box: BlackBox | None = None,
    ) -> None:
        super().__init__("workshop")
        self._black_box = black_box or BlackBox()
        self._places, self._device, self._hold, self._deliver = places, device, hold, deliver

    def build(self, job: Job, model: Trainable, room: Room) -> None:
        """Make the trainer of a job, from its latest checkpoint if it has one."""
        self._inbox.put(lambda: self._deliver(self._built(job, model, room)))

    def _main(self) -> None:
        while (work := self._inbox.get()) is not None:
            try:
                work()
            except Exception:  # the next job is to be made all the same
                log.exception("work on files of training has failed")

    def _built(self, job: Job, model: Trainable, room: Room) -> TrainerReady | TrainerFailed:
        try:
            with self._black_box.beside(BUILDING + job.id):
                return self._build(job, model, room)
        except NoRoomYet as error:
            return TrainerFailed(job.id, str(error), for_now=True, crowded=True)
        except (StoreError, UnreadableNow) as error:
            return TrainerFailed(job.id, str(error), for_now=True)
        except (TrainingFailed, ValueError) as error:
            return TrainerFailed(job.id, str(error))
        except BaseException as error:  # user code: whatever it raises is the reason
            log.warning("job %s cannot begin", job.id, exc_info=error)
            if classify(error).kind is FailureKind.OUT_OF_MEMORY:
                problem = f"weights, gradients and optimizer state do not fit: {describe(error)}"
                crowded = room.held_by_jobs > 0
                return TrainerFailed(job.id, problem, for_now=crowded, crowded=crowded)
            return TrainerFailed(job.id, describe(error))

    def _build(self, job: Job, model: Trainable, room: Room) -> TrainerReady:
        spec = job.spec
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        saved = self._saved(job)  # first: where that fails it is tried every second
        examples = model.examples(dataset_files(self._dataset(spec.dataset)))
        with seeded((spec.seed,), self._device):
            network = model.new_network(fresh=spec.fresh)
        served = None if spec.fresh else PromotedWeights(self._places.promoted).serving(spec.model)
        if served is not None:
            network.load_state_dict(served)
        trainer = Trainer(spec, model, network, examples, self._device)
        room.check(trainer.resident_bytes)
        if saved is not None:
            trainer.restore(saved.weights, saved.optimizer, saved.state)
        self._hold(trainer.resident())
        trainer.start(interrupted=job.started is not None)
        return TrainerReady(job.id, trainer, None if saved is None else saved.step)

    def _saved(self, job: Job) -> SavedState | None:
        try:
            return JobFolder(self._places.checkpoints / job.id).latest()
        except OSError as error:
            raise UnreadableNow(f"its last checkpoint cannot be read: {error.strerror or error}") from error

    def _dataset(self, name: str) -> Dataset:
        known = builtin(name)
        if known is not None:
            return known
        store = TrainingStore.open(self._places.database)
        try:
            return store.dataset(name)
        except KeyError:
            raise TrainingFailed(f"there is no dataset {name!r} any more") from None
        finally:
            store.close()
