"""The one thread of the device process that touches the job store and writes checkpoints: no other waits for a disk."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from batchd.governor import Commit
from batchd_server.device.training.checkpoints import JobFolder, superseded
from batchd_server.device.training.journal import Entry, JobsSeen, SnapshotSaved
from batchd_server.device.training.train_report import Snapshot
from batchd_server.training.places import Places
from batchd_server.training.records import Checkpoint
from batchd_server.training.store import StoreError, TrainingStore

log = logging.getLogger(__name__)

POLL_S = 1.0
GATHER_S = 0.25
"""How long figures are gathered before they are written together."""


@dataclass(frozen=True, slots=True)
class _Save:
    """Write a checkpoint, then delete all but the last `keep` and the best."""

    job: str
    snapshot: Snapshot
    keep: int


class _Poll:
    """Look into the store now."""


class _Stop:
    """Write what is left, then end."""


_Order: TypeAlias = Entry | _Save | _Poll | _Stop


class Bookkeeper:
    """`deliver` is called on this thread."""

    def __init__(self, places: Places, deliver: Callable[[JobsSeen | SnapshotSaved], None]) -> None:
        self._places = places
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._store: TrainingStore | None = None
        self._unwritten: list[Entry] = []
        self._written = 0
        self._noted: dict[str, Commit] = {}  # the last decision in each job's journal
        self._thread = threading.Thread(target=self._main, name="bookkeeper", daemon=True)

    def start(self) -> None:
        """Begin to look for jobs."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Write what was said, then end; False where that takes longer."""
        self._inbox.put(_Stop())
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def poll(self) -> None:
        """Look for news now rather than within the second."""
        self._inbox.put(_Poll())

    def write(self, entry: Entry) -> None:
        """Write news of a job soon."""
        self._inbox.put(entry)

    def save(self, job: str, snapshot: Snapshot, keep: int) -> None:
        """Write a checkpoint; `SnapshotSaved` follows."""
        self._inbox.put(_Save(job, snapshot, keep))

    # ---- this thread -------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        going = True
        poll_at = 0.0
        while going:
            orders = self._gather(poll_at)
            going = not any(isinstance(order, _Stop) for order in orders)
            self._unwritten += [order for order in orders if isinstance(order, Entry)]
            try:
                store = self._opened()
                self._write_entries(store)
                for order in orders:
                    if isinstance(order, _Save):
                        self._deliver(self._saved(store, order))
                if time.monotonic() >= poll_at or any(isinstance(order, _Poll) for order in orders):
                    poll_at = time.monotonic() + POLL_S
                    self._deliver(JobsSeen(tuple(store.unfinished()), self._written))
            except (StoreError, OSError) as error:
                log.error("the job store fails, and is tried again: %s", error)
                for order in orders:
                    if isinstance(order, _Save):
                        self._deliver(SnapshotSaved(order.job, order.snapshot, str(error)))
                poll_at = time.monotonic() + POLL_S
        if self._store is not None:
            self._store.close()

    def _gather(self, poll_at: float) -> list[_Order]:
        """Wait for orders, or until it is time to poll; figures alone can wait a little for more of them."""
        orders: list[_Order] = []
        due = poll_at
        while True:
            try:
                orders.append(self._inbox.get(timeout=max(0.0, due - time.monotonic())))
            except queue.Empty:
                return orders
            latest = orders[-1]
            if not isinstance(latest, Entry) or latest.status is not None:
                return orders
            due = min(due, time.monotonic() + GATHER_S)

    def _opened(self) -> TrainingStore:
        if self._store is None:
            self._places.directory.mkdir(parents=True, exist_ok=True)
            self._store = TrainingStore.open(self._places.database)
        return self._store

    def _write_entries(self, store: TrainingStore) -> None:
        """Write in order, news of a job that follow each other as one."""
        while self._unwritten:
            entry = self._unwritten[0]
            count = 1
            merged = Entry(job=entry.job)
            merged.append(entry)
            while count < len(self._unwritten) and self._unwritten[count].job == entry.job and merged.status is None:
                merged.append(self._unwritten[count])
                count += 1
            try:
                self._write_entry(store, merged)
            except KeyError:
                log.warning("job %s is gone from the store", entry.job)
            except StoreError:
                raise
            except Exception:  # what cannot be written must not keep all else from being written
                log.exception("news of job %s are lost", entry.job)
            del self._unwritten[:count]
            self._written += count

    def _write_entry(self, store: TrainingStore, entry: Entry) -> None:
        if entry.steps:
            latest = {step.step: step for step in entry.steps}  # a step may come again
            store.add_metrics(entry.job, list(latest.values()))
        for commit in entry.commits:
            before = self._noted.get(entry.job)
            if commit.changed or before is None or before.reason != commit.reason or commit.step <= before.step:
                store.add_commit(entry.job, commit)
                self._noted[entry.job] = commit
        for kind, data in entry.events:
            store.add_event(entry.job, kind, data)
        if entry.progress is not None or entry.status is not None:
            store.update(entry.job, status=entry.status, reason=entry.reason, progress=entry.progress)
        if entry.status is not None and entry.status.final:
            self._noted.pop(entry.job, None)

    def _saved(self, store: TrainingStore, order: _Save) -> SnapshotSaved:
        folder = JobFolder(self._places.checkpoints / order.job)
        snapshot = order.snapshot
        try:
            path, num_bytes = folder.write(snapshot)
        except OSError as error:
            log.error("job %s: the checkpoint of step %d cannot be written: %s", order.job, snapshot.step, error)
            return SnapshotSaved(order.job, snapshot, error.strerror or str(error))
        best = folder.best()
        store.add_checkpoint(
            order.job,
            Checkpoint(
                step=snapshot.step,
                path=path,
                created=time.time(),
                bytes=num_bytes,
                validation_accuracy=snapshot.validation_accuracy,
                best=best == snapshot.step,
            ),
        )
        store.add_event(order.job, "checkpoint", {"step": snapshot.step})
        there = folder.steps()
        dropped = superseded(there, order.keep, best)
        for step in {*dropped, *(saved.step for saved in store.checkpoints(order.job) if saved.step not in there)}:
            store.drop_checkpoint(order.job, step)
            folder.remove(step)
        return SnapshotSaved(order.job, snapshot, None)
