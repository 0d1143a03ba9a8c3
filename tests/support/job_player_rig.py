"""The real front with the real job store, and in the device process's place a script that writes what a job does.

For tests of clients and commands; what a job really does is tested with the device process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from front_rig import InlineDispatcher, Scale, settings_for

from batchd.governor import Commit
from batchd.schedules import Task
from batchd_server.config.settings import TrainingSettings
from batchd_server.front.app import create_app
from batchd_server.models.protocol import Model
from batchd_server.training.job_spec import JobStatus
from batchd_server.training.places import Places
from batchd_server.training.records import Checkpoint, Progress, StepMetrics
from batchd_server.training.store import TrainingStore

STEPS_PER_EPOCH = 20
REASON = "plan within [min, max]"


class Learner(Scale):
    """A model that fronts take for trainable. None of these is called in a front."""

    @property
    def task(self) -> Task:
        return Task(kind="classification", num_classes=10)

    def new_network(self, *, fresh: bool) -> Any:
        raise NotImplementedError

    def examples(self, dataset: Any) -> Any:
        raise NotImplementedError

    def losses(self, network: Any, batch: Any) -> Any:
        raise NotImplementedError

    def adopt(self, weights: Mapping[str, Any]) -> None:
        raise NotImplementedError


MODELS: dict[str, Model] = {"learner": Learner(), "scale": Scale()}


@dataclass
class ControlLog(InlineDispatcher):
    """Keeps the control actions that a device process would be asked for."""

    controls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def control(self, action: str, **arguments: Any) -> Any:
        if action in {"training", "promote", "rollback"}:
            self.controls.append((action, arguments))
            return None
        return await super().control(action, **arguments)


@dataclass(frozen=True)
class JobFront:
    """A front at `url`, its store, and what it asked of the device."""

    url: str
    store: TrainingStore
    dispatcher: ControlLog

    def play(
        self,
        job_id: str,
        *,
        steps: int = 60,
        end: JobStatus | None = JobStatus.SUCCEEDED,
        reason: str | None = None,
        first: int = 1,
    ) -> None:
        """Write what a device process would, from step `first` on: figures, sizes, checkpoints, and the job's end."""
        self.store.update(job_id, status=JobStatus.RUNNING)
        self.store.add_event(job_id, "started", {})
        rows = [figures(step) for step in range(first, first + steps)]
        self.store.add_metrics(job_id, rows)
        for row in rows:
            if row.step % STEPS_PER_EPOCH == 0:
                self._epoch_ends(job_id, row)
        last = rows[-1]
        progress = Progress(**{name: getattr(last, name) for name in Progress.__dataclass_fields__})
        self.store.update(job_id, progress=progress)
        if end is not None:
            told = {"step": last.step} | ({} if reason is None else {"reason": reason})
            self.store.update(job_id, status=end, reason=reason)
            self.store.add_event(job_id, end.value, told)

    def _epoch_ends(self, job_id: str, row: StepMetrics) -> None:
        size = batch_size(row.step + 1)
        commit = Commit(
            step=row.step,
            schedule="linear",
            raw=float(size),
            smoothed=float(size),
            size=size,
            reason=REASON,
            changed=True,
        )
        self.store.add_commit(job_id, commit)
        self.store.add_event(
            job_id, "batch_size", {"step": row.step, "size": size, "reason": REASON, "raw": float(size)}
        )
        saved = Checkpoint(
            step=row.step,
            path=Path("unread"),
            created=row.epoch,
            bytes=1000,
            validation_accuracy=row.validation_accuracy,
        )
        self.store.add_checkpoint(job_id, saved)
        self.store.add_event(job_id, "checkpoint", {"step": row.step})


def batch_size(step: int) -> int:
    return 16 * (1 + (step - 1) // STEPS_PER_EPOCH)


def figures(step: int) -> StepMetrics:
    """One step of a job that learns: a falling loss with noise, validated every fifth step."""
    noise = float(np.random.default_rng(step).normal())
    validated = step % 5 == 0
    loss = 2.3 * 0.97**step
    return StepMetrics(
        step=step,
        examples=32 * step,
        epoch=step / STEPS_PER_EPOCH,
        loss=loss * (1 + 0.1 * noise),
        accuracy=1 - 0.9 * 0.97**step,
        validation_loss=1.1 * loss if validated else None,
        validation_accuracy=1 - 0.95 * 0.97**step if validated else None,
        batch_size=batch_size(step),
        learning_rate=0.003 * min(1.0, step / STEPS_PER_EPOCH),
        noise_scale=None if step < 4 else 20 * 1.05**step,
        microbatch=8,
        device_share=0.6 + 0.05 * noise,
        seconds=0.02,
    )


@contextmanager
def job_front(folder: Path, **training: Any) -> Iterator[JobFront]:
    """Serve on a free port while the context is open; the store is in `folder`, `training` are settings."""
    dispatcher = ControlLog(models=dict(MODELS))
    settings = settings_for(dispatcher).model_copy(update={"training": TrainingSettings(**training)})
    places = Places(
        database=f"sqlite:///{folder / 'jobs.sqlite3'}", directory=folder, data_root=folder / "data", lasting=True
    )
    app = create_app(settings, dispatcher, places=places)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    listener = config.bind_socket()
    listener.listen()
    http_server = uvicorn.Server(config)
    thread = threading.Thread(target=http_server.run, kwargs={"sockets": [listener]})
    thread.start()
    store = TrainingStore.open(places.database)
    try:
        yield JobFront(url=f"http://127.0.0.1:{listener.getsockname()[1]}", store=store, dispatcher=dispatcher)
    finally:
        http_server.should_exit = True
        thread.join(timeout=30)
        listener.close()
        store.close()
        assert not thread.is_alive()
