"""Training jobs and datasets for coroutines: `AsyncClient.training`. What is sent stands in training_calls.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Protocol, TypeVar, Unpack

from batchd_client import training_calls as calls
from batchd_client.errors import ConnectionFailed, Unavailable
from batchd_client.exchange import Call, CallSettings
from batchd_client.following import PATIENCE_S, Following
from batchd_client.json_object import JsonObject
from batchd_client.training_calls import CheckpointName, JobSettings
from batchd_client.training_records import (
    BatchSizeCommit,
    Dataset,
    JobCheckpoint,
    JobEvent,
    TrainingFigures,
    TrainingJob,
    TrainingJobPage,
)

T = TypeVar("T")


class Runs(Protocol):
    """Makes a call, and returns what it comes to."""

    async def __call__(self, call: Call[T], /) -> T:
        """Make the call."""
        ...


class AsyncTraining:
    """Training jobs and datasets of a batchd server, as `AsyncClient.training`.

    Every method raises `BatchdError` where the call failed, and ValueError where an id cannot be one.
    """

    def __init__(
        self,
        run: Runs,
        listen: Callable[[Following], AsyncGenerator[JobEvent]],
        sleep: Callable[[float], Awaitable[None]],
        settings: CallSettings,
    ) -> None:
        self._run = run
        self._listen = listen
        self._sleep = sleep
        self._settings = settings

    async def create(
        self,
        model: str,
        dataset: str,
        *,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
        **settings: Unpack[JobSettings],
    ) -> TrainingJob:
        """Submit a job. Give an `idempotency_key` where a repetition by you must not make a second job."""
        spec = {"model": model, "dataset": dataset, **settings}
        return await self._run(calls.create_job(spec, idempotency_key, timeout_s))

    async def job(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Return a job as it stands."""
        return await self._run(calls.job(job_id, timeout_s))

    async def jobs(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        status: str | None = None,
        timeout_s: float | None = None,
    ) -> TrainingJobPage:
        """Return jobs, newest first: those older than the job `after`, and of one status where that is given."""
        return await self._run(calls.jobs(limit, after, status, timeout_s))

    async def pause(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Have a job rest. It keeps its state, and gives the device back."""
        return await self._run(calls.steer_job(job_id, "pause", timeout_s))

    async def resume(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """Have a resting job go on."""
        return await self._run(calls.steer_job(job_id, "resume", timeout_s))

    async def cancel(self, job_id: str, *, timeout_s: float | None = None) -> TrainingJob:
        """End a job for good. Its checkpoints stay."""
        return await self._run(calls.steer_job(job_id, "cancel", timeout_s))

    async def promote(
        self, job_id: str, checkpoint: CheckpointName = "best", *, timeout_s: float | None = None
    ) -> JsonObject:
        """Have the model served with a job's weights: those of a step, or of the best or last checkpoint."""
        return await self._run(calls.promote(job_id, checkpoint, timeout_s))

    async def rollback(self, model: str, *, timeout_s: float | None = None) -> JsonObject:
        """Have the model served with the weights that it had before the last promotion."""
        return await self._run(calls.rollback(model, timeout_s))

    async def metrics(
        self, job_id: str, *, after_step: int = 0, limit: int = 1000, timeout_s: float | None = None
    ) -> tuple[TrainingFigures, ...]:
        """Return the figures of the first `limit` steps behind `after_step`."""
        return await self._run(calls.metrics(job_id, after_step, limit, timeout_s))

    async def journal(self, job_id: str, *, timeout_s: float | None = None) -> tuple[BatchSizeCommit, ...]:
        """Return every decision about the batch size."""
        return await self._run(calls.journal(job_id, timeout_s))

    async def checkpoints(self, job_id: str, *, timeout_s: float | None = None) -> tuple[JobCheckpoint, ...]:
        """Return the states of a job that are kept."""
        return await self._run(calls.checkpoints(job_id, timeout_s))

    async def events(self, job_id: str, *, after: int = 0, patience_s: float = PATIENCE_S) -> AsyncGenerator[JobEvent]:
        """Yield what happens to a job, from the event behind `after` until the job is over.

        Where the connection breaks, it is made anew and goes on where it was; the error is raised once there has been
        none for `patience_s` seconds.
        """
        following = Following(calls.events_path(job_id), self._settings, after=after, patience_s=patience_s)
        while True:
            async with aclosing(self._listen(following)) as events:
                async for event in events:
                    yield event
            if following.finished or (following.silent and await self._is_over(job_id)):
                return
            await self._sleep(following.pause_s)

    async def _is_over(self, job_id: str) -> bool:
        with suppress(ConnectionFailed, Unavailable):
            return (await self.job(job_id)).final
        return False

    async def upload_dataset(
        self,
        file: Path | str,
        *,
        name: str | None = None,
        format: str | None = None,  # noqa: A002 - the word of the protocol
        timeout_s: float | None = calls.UPLOAD_TIMEOUT_S,
    ) -> Dataset:
        """Send a file, piece by piece. Without a name, it is the file's; without a format, the daemon looks.

        Raises:
            OSError: the file cannot be read.
        """
        return await self._run(calls.upload_dataset(Path(file), name, format, timeout_s))

    async def adopt_dataset(
        self,
        path: str,
        *,
        name: str | None = None,
        format: str | None = None,  # noqa: A002 - the word of the protocol
        timeout_s: float | None = None,
    ) -> Dataset:
        """Make known what lies at `path` below the daemon's data root."""
        return await self._run(calls.adopt_dataset(path, name, format, timeout_s))

    async def datasets(self, *, timeout_s: float | None = None) -> tuple[Dataset, ...]:
        """Return all datasets, those that are built in among them."""
        return await self._run(calls.datasets(timeout_s))

    async def dataset(self, dataset_id: str, *, timeout_s: float | None = None) -> Dataset:
        """Return a dataset."""
        return await self._run(calls.dataset(dataset_id, timeout_s))

    async def delete_dataset(self, dataset_id: str, *, timeout_s: float | None = None) -> None:
        """Have a dataset forgotten, and what was uploaded deleted."""
        await self._run(calls.delete_dataset(dataset_id, timeout_s))
