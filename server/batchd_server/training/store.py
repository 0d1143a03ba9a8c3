"""Where training jobs, their history and the datasets are kept: one SQL database, shared by all processes.

Fronts write wishes (`create_job`, `wish`) and read; the device process writes what became of them. Every method is one
short transaction and may be called from any thread; none belongs on an event loop.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Row, Select, Table, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from batchd.governor import Commit
from batchd_server.training.job_spec import JobSpec, JobStatus
from batchd_server.training.records import Checkpoint, Dataset, Event, Job, Progress, StepMetrics, Wanted
from batchd_server.training.store_database import Database, StoreError
from batchd_server.training.store_tables import (
    DATASETS,
    JOB_CHECKPOINTS,
    JOB_COMMITS,
    JOB_EVENTS,
    JOB_METRICS,
    JOBS,
    make_tables,
)

__all__ = ["Conflict", "IdempotencyConflict", "StoreError", "TrainingStore"]

R = TypeVar("R")

FINAL = tuple(status.value for status in JobStatus if status.final)


class Conflict(Exception):
    """What is asked for does not go with what is there; the message says why."""


class IdempotencyConflict(Conflict):
    """The key was used for another job."""


class TrainingStore:
    """Jobs, their journals, and datasets."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], float] = time.time) -> TrainingStore:
        """Open the database at a SQLAlchemy URL, and make the tables if it lacks them.

        A database that is complete is not written to, so that it can be read where it cannot be written.

        Raises:
            StoreError: it cannot be opened or written.
        """
        database = Database(url)
        try:
            make_tables(database)
        except BaseException:
            database.close()
            raise
        return cls(database, clock)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def together(self) -> AbstractContextManager[None]:
        """Make one transaction of what this thread does within: all of it is written, or nothing."""
        return self._database.together()

    # ---- jobs --------------------------------------------------------------------------------------------------------

    def create_job(self, spec: JobSpec, *, idempotency_key: str | None = None) -> Job:
        """Queue a job; with a key that was used for the same spec before, return the job that is there.

        Raises:
            IdempotencyConflict: the key was used for another spec.
            StoreError: the job is not stored.
        """
        try:
            return self._create(spec, idempotency_key)
        except IntegrityError:  # another process used the key in this moment
            return self._create(spec, idempotency_key)

    def _create(self, spec: JobSpec, key: str | None) -> Job:
        document = spec.model_dump(mode="json")
        with self._database.writing() as connection:
            if key is not None:
                there = connection.execute(select(JOBS).where(JOBS.c.idempotency_key == key)).one_or_none()
                if there is not None and there.spec != document:
                    raise IdempotencyConflict("this Idempotency-Key was used for another job")
                if there is not None:
                    return _job(there)
            job_id, now = f"job-{secrets.token_hex(8)}", self._clock()
            connection.execute(
                insert(JOBS).values(
                    id=job_id,
                    idempotency_key=key,
                    spec=document,
                    status=JobStatus.QUEUED.value,
                    wanted="run",
                    created=now,
                    progress=_document(Progress()),
                )
            )
            _add_event(connection, job_id, now, "created", {})
            return _job_row(connection, job_id)

    def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            KeyError: there is none of that id.
        """
        with self._database.reading() as connection:
            return _job_row(connection, job_id)

    def jobs(self, *, limit: int, after: str | None = None, status: JobStatus | None = None) -> list[Job]:
        """Return jobs, newest first: those older than the job `after`.

        Raises:
            KeyError: there is no job `after`.
        """
        query = select(JOBS).order_by(JOBS.c.number.desc()).limit(limit)
        if status is not None:
            query = query.where(JOBS.c.status == status.value)
        with self._database.reading() as connection:
            if after is not None:
                query = query.where(JOBS.c.number < _row(connection, after).number)
            return [_job(row) for row in connection.execute(query)]

    def unfinished(self) -> list[Job]:
        """Return the jobs that something is still to be done about, oldest first."""
        query = select(JOBS).where(JOBS.c.status.not_in(FINAL)).order_by(JOBS.c.number)
        with self._database.reading() as connection:
            return [_job(row) for row in connection.execute(query)]

    def wish(self, job_id: str, wanted: Wanted) -> Job:
        """Ask for a job to run, pause or end. A wish that was fulfilled already changes nothing.

        A job that is to go on is queued again until a runner takes it up.

        Raises:
            KeyError: there is no such job.
            Conflict: it has ended, or is being cancelled.
        """
        with self._database.writing() as connection:
            job = _job(_row(connection, job_id, lock=True))
            if job.status.final:
                raise Conflict(f"the job has ended: it is {job.status.value}")
            if job.wanted == wanted:
                return job
            if job.wanted == "cancel":
                raise Conflict("the job is being cancelled")
            status = {"run": JobStatus.QUEUED, "pause": JobStatus.PAUSING, "cancel": JobStatus.CANCELLING}[wanted]
            connection.execute(
                update(JOBS).where(JOBS.c.id == job_id).values(wanted=wanted, status=status.value, reason=None)
            )
            return _job_row(connection, job_id)

    def update(
        self,
        job_id: str,
        *,
        status: JobStatus | None = None,
        reason: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write what a runner knows; `reason` goes with a status.

        A wish that came in the meantime is not overwritten: a job that is to pause or end does not look as if it ran,
        one that is to run again is queued rather than paused, and a final status stays.

        Raises:
            KeyError: there is no such job.
        """
        with self._database.writing() as connection:
            job = _job(_row(connection, job_id, lock=True))
            values: dict[str, Any] = {} if progress is None else {"progress": _document(progress)}
            status = None if status is None else _allowed(job, status)
            if status is not None:
                values |= {"status": status.value, "reason": reason}
                now = self._clock()
                if status is JobStatus.RUNNING and job.started is None:
                    values["started"] = now
                if status.final:
                    values["finished"] = now
            if values:
                connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(**values))

    def counts(self) -> dict[JobStatus, int]:
        """Return how many jobs have each status."""
        query = select(JOBS.c.status, func.count()).group_by(JOBS.c.status)
        with self._database.reading() as connection:
            return {JobStatus(status): number for status, number in connection.execute(query)}

    # ---- journals ----------------------------------------------------------------------------------------------------

    def add_event(self, job_id: str, kind: str, data: Mapping[str, Any]) -> int:
        """Note that something happened; return the event's id, larger than all before."""
        with self._database.writing() as connection:
            return _add_event(connection, job_id, self._clock(), kind, data)

    def events(self, job_id: str, *, after: int = 0, limit: int) -> list[Event]:
        """Return events with ids larger than `after`, oldest first."""
        table = JOB_EVENTS
        query = select(table).where(table.c.job_id == job_id, table.c.id > after).order_by(table.c.id).limit(limit)
        with self._database.reading() as connection:
            return [Event(id=r.id, at=r.at, kind=r.kind, data=r.data) for r in connection.execute(query)]

    def latest_events(self, job_id: str, *, before: int | None = None, limit: int) -> list[Event]:
        """Return events with ids smaller than `before`, newest first."""
        table = JOB_EVENTS
        query = select(table).where(table.c.job_id == job_id).order_by(table.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(table.c.id < before)
        with self._database.reading() as connection:
            return [Event(id=r.id, at=r.at, kind=r.kind, data=r.data) for r in connection.execute(query)]

    def add_metrics(self, job_id: str, rows: Sequence[StepMetrics]) -> None:
        """Add steps in ascending order. What is there from the first one's step on goes: it is repeated."""
        if not rows:
            return
        with self._database.writing() as connection:
            connection.execute(
                delete(JOB_METRICS).where(JOB_METRICS.c.job_id == job_id, JOB_METRICS.c.step >= rows[0].step)
            )
            values = [{"job_id": job_id, "step": row.step, "figures": _document(row)} for row in rows]
            connection.execute(insert(JOB_METRICS), values)

    def metrics(self, job_id: str, *, after_step: int = 0, limit: int) -> list[StepMetrics]:
        """Return the figures of the steps after `after_step`, in order."""
        return [
            _read(StepMetrics, figures) for figures in self._by_step(JOB_METRICS.c.figures, job_id, after_step, limit)
        ]

    def add_commit(self, job_id: str, commit: Commit) -> None:
        """Add a governor's decision; those of its step and later ones go."""
        table = JOB_COMMITS
        with self._database.writing() as connection:
            connection.execute(delete(table).where(table.c.job_id == job_id, table.c.step >= commit.step))
            connection.execute(insert(table).values(job_id=job_id, step=commit.step, record=_document(commit)))

    def commits(self, job_id: str, *, after_step: int = -1, limit: int | None = None) -> list[Commit]:
        """Return the governor's decisions for steps after `after_step`, in order."""
        return [_read(Commit, record) for record in self._by_step(JOB_COMMITS.c.record, job_id, after_step, limit)]

    def _by_step(self, column: Column[Any], job_id: str, after_step: int, limit: int | None) -> list[Any]:
        """Return a column of a job's rows of the steps after `after_step`, in order."""
        table: Table = column.table
        query = select(column).where(table.c.job_id == job_id, table.c.step > after_step)
        with self._database.reading() as connection:
            return list(connection.execute(query.order_by(table.c.step).limit(limit)).scalars())

    def add_checkpoint(self, job_id: str, checkpoint: Checkpoint) -> None:
        """Add a saved state, in the place of one of the same step; if it is the best, no other is."""
        table = JOB_CHECKPOINTS
        with self._database.writing() as connection:
            connection.execute(delete(table).where(table.c.job_id == job_id, table.c.step == checkpoint.step))
            if checkpoint.best:
                connection.execute(update(table).where(table.c.job_id == job_id).values(best=False))
            connection.execute(insert(table).values(job_id=job_id, **_columns(checkpoint)))

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Return the saved states, by step."""
        table = JOB_CHECKPOINTS
        with self._database.reading() as connection:
            rows = connection.execute(select(table).where(table.c.job_id == job_id).order_by(table.c.step))
            return [_read(Checkpoint, {**row._mapping, "path": Path(row.path)}) for row in rows]

    def drop_checkpoint(self, job_id: str, step: int) -> None:
        """Forget a saved state; one that is not there is no error."""
        table = JOB_CHECKPOINTS
        with self._database.writing() as connection:
            connection.execute(delete(table).where(table.c.job_id == job_id, table.c.step == step))

    # ---- datasets ----------------------------------------------------------------------------------------------------

    def add_dataset(self, dataset: Dataset) -> None:
        """Add a dataset.

        Raises:
            Conflict: its id or name is taken.
        """
        try:
            with self._database.writing() as connection:
                connection.execute(insert(DATASETS).values(**_columns(dataset)))
        except IntegrityError:
            raise Conflict(f"there is a dataset {dataset.name!r} already") from None

    def dataset(self, id_or_name: str) -> Dataset:
        """Return a dataset; an id goes before a name.

        Raises:
            KeyError: there is none.
        """
        query = select(DATASETS).where((DATASETS.c.id == id_or_name) | (DATASETS.c.name == id_or_name))
        with self._database.reading() as connection:
            found = [_dataset(row) for row in connection.execute(query)]
        if not found:
            raise KeyError(id_or_name)
        return next((dataset for dataset in found if dataset.id == id_or_name), found[0])

    def datasets(self) -> list[Dataset]:
        """Return all datasets, oldest first."""
        with self._database.reading() as connection:
            return [_dataset(row) for row in connection.execute(select(DATASETS).order_by(DATASETS.c.created))]

    def delete_dataset(self, dataset_id: str) -> None:
        """Forget a dataset; its files are the caller's business.

        Raises:
            KeyError: there is none of that id.
            Conflict: a job that has not ended learns from it.
        """
        with self._database.writing() as connection:
            row = connection.execute(select(DATASETS).where(DATASETS.c.id == dataset_id)).one_or_none()
            if row is None:
                raise KeyError(dataset_id)
            for job in connection.execute(select(JOBS.c.id, JOBS.c.spec).where(JOBS.c.status.not_in(FINAL))):
                if job.spec["dataset"] in (row.id, row.name):
                    raise Conflict(f"{job.id} learns from this dataset")
            connection.execute(delete(DATASETS).where(DATASETS.c.id == dataset_id))


def _allowed(job: Job, status: JobStatus) -> JobStatus | None:
    """What a runner's status means in view of a wish that it may not have seen."""
    if job.status.final:
        return None
    if status in (JobStatus.QUEUED, JobStatus.RUNNING) and job.wanted != "run":
        return None
    if status in (JobStatus.PAUSING, JobStatus.PAUSED) and job.wanted != "pause":
        return JobStatus.QUEUED if job.wanted == "run" else None
    return status


def _add_event(connection: Connection, job_id: str, at: float, kind: str, data: Mapping[str, Any]) -> int:
    result = connection.execute(insert(JOB_EVENTS).values(job_id=job_id, at=at, kind=kind, data=dict(data)))
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def _row(connection: Connection, job_id: str, *, lock: bool = False) -> Row[Any]:
    query: Select[Any] = select(JOBS).where(JOBS.c.id == job_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise KeyError(job_id)
    return row


def _job_row(connection: Connection, job_id: str) -> Job:
    return _job(_row(connection, job_id))


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        spec=JobSpec.model_validate(row.spec),
        status=JobStatus(row.status),
        wanted=row.wanted,
        reason=row.reason,
        created=row.created,
        started=row.started,
        finished=row.finished,
        progress=_read(Progress, row.progress),
    )


def _dataset(row: Row[Any]) -> Dataset:
    return _read(Dataset, {**row._mapping, "path": None if row.path is None else Path(row.path)})


def _read(record: type[R], values: Mapping[str, Any]) -> R:
    """Make a record of what was stored, perhaps by a version that knew other fields."""
    return record(**{f.name: values[f.name] for f in fields(record) if f.name in values})  # type: ignore[arg-type]


def _document(record: Any) -> dict[str, Any]:
    """A record as JSON, which has no infinities."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(record).items()
    }


def _columns(record: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(record).items()}
