"""Has models probed that answer nothing but errors, and takes them out of service while they fail the probe too."""

from __future__ import annotations

import logging
from collections.abc import Callable

from batchd.outcome import OutOfMemory
from batchd_server.device.failures import Failure
from batchd_server.device.model_health import ModelHealth
from batchd_server.device.repository import Repository
from batchd_server.device.serving import Serving
from batchd_server.device.work import BatchDone, Example, ProbeDone, ProbeWork
from batchd_server.errors import Unavailable

log = logging.getLogger(__name__)

RETRY_S = 5.0


class HealthWatch:
    """Belongs to the engine's thread."""

    def __init__(self, repository: Repository, serving: Serving, submit: Callable[[ProbeWork], None]) -> None:
        self._repository = repository
        self._serving = serving
        self._submit = submit
        self._health = ModelHealth()

    @property
    def answered(self) -> bool:
        """Whether any item of any model ever succeeded."""
        return self._health.answered

    def batch_over(self, done: BatchDone) -> None:
        """Note what became of a batch; one that did not fit in memory says nothing about the model."""
        if isinstance(done.outcome, OutOfMemory):
            return
        succeeded = any(not isinstance(answer, Failure) for answer in done.answers)
        self._health.batch_over(done.work.name, succeeded=succeeded)

    def tend(self, now: float) -> None:
        """Have probed what is due."""
        for name in self._health.probes(now):
            entry = self._repository[name]
            if entry.state != "READY" or entry.loaded is None or not entry.loaded.examples:
                self._forget(name)
                continue
            model, policy = entry.loaded.model, entry.loaded.policy
            item = entry.loaded.examples[0]
            example = Example(item, policy.padded(model.shape(item)))
            self._submit(ProbeWork(name=name, model=model, example=example, layout=policy.layout))

    def probed(self, done: ProbeDone, now: float) -> None:
        """A probe has run."""
        name = done.work.name
        entry = self._repository[name]
        if entry.state != "READY" or entry.loaded is None or entry.loaded.model is not done.work.model:
            self._forget(name)
            return
        was_failing = self._health.is_failing(name)
        self._health.probed(name, now, succeeded=done.failure is None)
        if done.failure is not None:
            entry.failing = f"it fails its own example: {done.failure.message}"
            if not was_failing:
                log.error("model %s serves no more until it recovers: %s", name, entry.failing)
                error = Unavailable(
                    f"model {name!r} is out of service: {entry.failing}", code="model_failing", retry_after_s=RETRY_S
                )
                self._serving.suspend_model(name, error)
        elif was_failing:
            log.info("model %s has recovered and serves again", name)
            entry.failing = ""
            self._serving.resume_model(name)

    def _forget(self, name: str) -> None:
        self._health.forget(name)
        self._repository[name].failing = ""
        self._serving.resume_model(name)
