"""What becomes of a job's JSON before it is queued, whichever protocol brought it."""

from __future__ import annotations

import contextlib

from batchd_server.errors import BadRequest, Conflict, NotFound, ServingError, Unprocessable
from batchd_server.front.service import Front
from batchd_server.models.trainable import Trainable
from batchd_server.training.datasets.builtin import builtin
from batchd_server.training.job_check import check_job
from batchd_server.training.job_spec import JobSpec
from batchd_server.training.records import Dataset, Job
from batchd_server.training.store import IdempotencyConflict, TrainingStore

LONGEST_KEY = 255


async def submit(front: Front, spec: JobSpec, idempotency_key: str | None) -> Job:
    """Check a job and queue it; with a key that was used for the same job before, return that.

    Raises:
        Unprocessable: it cannot work; names the field.
        BadRequest: the key is longer than `LONGEST_KEY`, or empty.
        Conflict: the key was used for another job.
        Unavailable: the store fails.
    """
    if idempotency_key is not None and not 0 < len(idempotency_key) <= LONGEST_KEY:
        raise BadRequest(f"Idempotency-Key must have 1 to {LONGEST_KEY} characters", field="Idempotency-Key")
    try:
        model = front.model(spec.model)
    except NotFound as error:
        raise Unprocessable(error.message, field="model") from error
    if not isinstance(model, Trainable):
        raise Unprocessable(f"model {spec.model!r} cannot be trained", field="model")
    task = model.task

    def queue(store: TrainingStore) -> Job:
        dataset = find_dataset(store, spec.dataset)
        check_job(spec, task, examples=dataset.examples)
        try:
            return store.create_job(spec, idempotency_key=idempotency_key)
        except IdempotencyConflict as conflict:
            raise Conflict(str(conflict), field="Idempotency-Key") from conflict

    return await front.training.call(queue)


def find_dataset(store: TrainingStore, id_or_name: str) -> Dataset:
    """Return a dataset that was uploaded or is built in.

    Raises:
        Unprocessable: there is none.
    """
    try:
        return builtin(id_or_name) or store.dataset(id_or_name)
    except KeyError:
        raise Unprocessable(f"there is no dataset {id_or_name[:80]!r}", field="dataset") from None


async def poke(front: Front) -> None:
    """Tell the device process that the store has news. It looks once a second in any case."""
    with contextlib.suppress(ServingError):
        await front.dispatcher.control("training")
