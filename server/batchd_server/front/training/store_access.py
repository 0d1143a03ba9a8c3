"""The job store as a front reaches it: opened when first needed, used in threads, its failures told to clients."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from batchd_server.errors import Conflict, NotFound, Unavailable
from batchd_server.training import store as training_store
from batchd_server.training.job_spec import JobStatus
from batchd_server.training.places import Places
from batchd_server.training.records import Job
from batchd_server.training.store import StoreError, TrainingStore
from batchd_server.training.trouble import Trouble

T = TypeVar("T")

_log = logging.getLogger(__name__)

THREADS = 4
"""Calls at a time. A database that is locked holds them for long, and nothing else may wait for a thread then."""
RETRY_AFTER_S = 5.0


class StoreAccess:
    """One front's way to the store. Without `places`, for fronts that stand alone, there is none."""

    def __init__(self, places: Places | None) -> None:
        self._given = places
        self._store: TrainingStore | None = None
        self._opening = threading.Lock()
        self._threads = anyio.CapacityLimiter(THREADS)
        self._said: str | None = None  # what fails, since the log has been told

    @property
    def places(self) -> Places:
        """Where training keeps what.

        Raises:
            Unavailable: this front has no places.
        """
        if self._given is None:
            raise Unavailable("this front has no job store", code="store_failed")
        return self._given

    async def call(self, work: Callable[[TrainingStore], T]) -> T:
        """Run `work` with the store, in a thread.

        Raises:
            Unavailable: the store cannot be opened, read or written.
            Conflict: what is asked for does not go with what is there.
        """
        return await anyio.to_thread.run_sync(self._run, work, limiter=self._threads)

    async def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: there is none of that id.
        """
        try:
            return await self.call(lambda store: store.job(job_id))
        except KeyError:
            raise _no_job(job_id) from None

    async def page(self, limit: int, after: str | None, status: JobStatus | None = None) -> tuple[list[Job], bool]:
        """Return jobs, newest first, and whether there are more.

        Raises:
            NotFound: there is no job `after`.
        """
        try:
            jobs = await self.call(lambda store: store.jobs(limit=limit + 1, after=after, status=status))
        except KeyError:
            raise _no_job(str(after), "after") from None
        return jobs[:limit], len(jobs) > limit

    async def of_job(self, job_id: str, work: Callable[[TrainingStore], T]) -> T:
        """Run `work` about a job.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended.
        """

        def checked(store: TrainingStore) -> T:
            store.job(job_id)
            return work(store)

        try:
            return await self.call(checked)
        except KeyError:
            raise _no_job(job_id) from None

    def close(self) -> None:
        """Let go of the database."""
        if self._store is not None:
            self._store.close()

    def opened(self) -> TrainingStore:
        """Return the store, for use in a thread.

        Raises:
            StoreError: it cannot be opened; the next call tries again.
            Unavailable: this front has no places.
        """
        with self._opening:
            if self._store is None:
                self._store = TrainingStore.open(self.places.database)
                if not self.places.lasting:
                    _log.info("no state directory is configured: training jobs and datasets end with the daemon")
            return self._store

    def _run(self, work: Callable[[TrainingStore], T]) -> T:
        try:
            result = work(self.opened())
        except StoreError as error:
            raise self.failed(error) from error
        except training_store.Conflict as conflict:
            raise Conflict(str(conflict)) from conflict
        if self._said is not None:
            self._said = None
            _log.info("the job store works again")
        return result

    def failed(self, error: StoreError) -> Unavailable:
        """Return what clients are told, after the log has been told once; the store is opened anew next time."""
        if self._said != str(error):
            self._said = str(error)
            _log.error("training cannot be asked for: %s", error)
        with self._opening:
            if self._store is not None and error.trouble is Trouble.STORE_DAMAGED:
                self._store.close()
                self._store = None
        return Unavailable(str(error), code=error.trouble.value, retry_after_s=RETRY_AFTER_S)


def _no_job(job_id: str, field: str = "job") -> NotFound:
    return NotFound(f"there is no training job {job_id[:80]!r}", field=field)
