"""The one thread of the device process that touches the job store and writes checkpoints: no other waits for a disk.

What the disk or the store does not take is kept, and tried again every second: nothing that was said is lost.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, assert_never

from batchd.governor import Commit
from batchd_server.device.training.checkpoints import JobFolder, superseded
from batchd_server.device.training.journal import Entry, JobsSeen, SnapshotSaved, TroubleSeen
from batchd_server.device.training.strikes import note_death
from batchd_server.device.training.train_report import Snapshot
from batchd_server.link.messages import Fallen
from batchd_server.training.places import Places
from batchd_server.training.records import Checkpoint
from batchd_server.training.store import StoreError, TrainingStore
from batchd_server.training.trouble import Trouble, of_disk

log = logging.getLogger(__name__)

POLL_S = 1.0
GATHER_S = 0.25
"""How long figures are gathered before they are written together."""


@dataclass(slots=True)
class _Save:
    """Write a checkpoint, then delete all but the last `keep` and the best."""

    job: str
    snapshot: Snapshot
    keep: int
    written: tuple[Path, int] | None = None
    """Where it lies and how many bytes it has, once it is on the disk: the store may not know yet."""


@dataclass(frozen=True, slots=True)
class _Discard:
    """Write no checkpoint of this job any more."""

    job: str


class _Poll:
    """Look into the store now."""


class _Stop:
    """Write what is left, then end."""


_Order: TypeAlias = Entry | _Save | _Discard | _Poll | _Stop


class Bookkeeper:
    """`deliver` is called on this thread."""

    def __init__(
        self,
        places: Places,
        deliver: Callable[[JobsSeen | SnapshotSaved | TroubleSeen], None],
        fallen: Fallen | None = None,
    ) -> None:
        self._places = places
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._fallen = fallen  # the device process before this one, until its end is noted
        self._store: TrainingStore | None = None
        self._unwritten: list[Entry] = []
        self._written = 0
        self._saves: dict[str, _Save] = {}  # that are not done, by job
        self._trouble: Trouble | None = None
        self._said = ""  # of it to the log
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

    def discard(self, job: str) -> None:
        """Give up a checkpoint that is not written yet."""
        self._inbox.put(_Discard(job))

    # ---- this thread -------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        going = True
        poll_at = 0.0
        while going:
            orders = self._gather(poll_at)
            going = not any(isinstance(order, _Stop) for order in orders)
            for order in orders:
                self._note(order)
            due = time.monotonic() >= poll_at or any(isinstance(order, _Poll) for order in orders)
            if due:
                poll_at = time.monotonic() + POLL_S
            if due or self._trouble is None or not going:
                self._work(look=due)
        if self._unwritten or self._saves:
            log.error("%d news and %d checkpoints of jobs are lost", len(self._unwritten), len(self._saves))
        if self._store is not None:
            self._store.close()

    def _note(self, order: _Order) -> None:
        match order:
            case Entry():
                self._unwritten.append(order)
            case _Save():
                self._saves[order.job] = order
            case _Discard(job=job):
                self._saves.pop(job, None)
            case _Poll() | _Stop():
                pass
            case never:
                assert_never(never)

    def _work(self, *, look: bool) -> None:
        """Bring everything to the store and the disk that waits for it, and look for jobs."""
        trouble: Trouble | None = None
        said = ""
        try:
            store = self._opened()
            if self._fallen is not None:
                note_death(store, self._places.checkpoints, self._fallen)
                self._fallen = None
            self._write_entries(store)
            for save in tuple(self._saves.values()):
                failed = self._save(store, save)
                if failed is not None:
                    trouble, said = failed, f"the checkpoint of step {save.snapshot.step} waits: {failed.reason}"
            if look:
                self._deliver(JobsSeen(tuple(store.unfinished()), self._written))
        except StoreError as error:
            trouble, said = error.trouble, str(error)
        except OSError as error:
            trouble, said = of_disk(error) or Trouble.STORE_FAILED, f"the job store fails: {error.strerror}"
        except Exception as error:  # noqa: BLE001 - this thread must not end: all of training hangs on it
            trouble, said = Trouble.STORE_FAILED, f"the job store fails: {error!r}"
        self._tell(trouble, said)

    def _tell(self, trouble: Trouble | None, said: str) -> None:
        """Let training rest or go on, and the log know once."""
        if said != self._said:
            self._said = said
            if trouble is None:
                log.info("training goes on: what it learns can be kept again")
            else:
                log.error("training rests until it can be kept; this is tried again every second: %s", said)
        if trouble is not self._trouble:
            self._trouble = trouble
            self._deliver(TroubleSeen(trouble))
        if trouble is Trouble.STORE_DAMAGED and self._store is not None:
            self._store.close()  # the file may be another one by now
            self._store = None

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
                with store.together():
                    noted = self._write_entry(store, merged)
                if noted is not None:
                    self._noted[entry.job] = noted
                if merged.status is not None and merged.status.final:
                    self._noted.pop(entry.job, None)
            except KeyError:
                log.warning("job %s is gone from the store", entry.job)
            except StoreError:
                raise
            except Exception:  # what cannot be written must not keep all else from being written
                log.exception("news of job %s are lost", entry.job)
            del self._unwritten[:count]
            self._written += count

    def _write_entry(self, store: TrainingStore, entry: Entry) -> Commit | None:
        """Write news of a job; return the last decision in its journal."""
        if entry.steps:
            latest = {step.step: step for step in entry.steps}  # a step may come again
            store.add_metrics(entry.job, list(latest.values()))
        before = self._noted.get(entry.job)
        for commit in entry.commits:
            if commit.changed or before is None or before.reason != commit.reason or commit.step <= before.step:
                store.add_commit(entry.job, commit)
                before = commit
        for kind, data in entry.events:
            store.add_event(entry.job, kind, data)
        if entry.progress is not None or entry.status is not None:
            store.update(entry.job, status=entry.status, reason=entry.reason, progress=entry.progress)
        return before

    def _save(self, store: TrainingStore, save: _Save) -> Trouble | None:
        """Write a checkpoint and note it; return what is in the way where that will pass."""
        folder = JobFolder(self._places.checkpoints / save.job)
        snapshot = save.snapshot
        if save.written is None:
            try:
                save.written = folder.write(snapshot)
            except OSError as error:
                trouble = of_disk(error)
                if trouble is None:
                    log.error("job %s: the checkpoint of step %d cannot be written: %s", save.job, snapshot.step, error)
                    del self._saves[save.job]
                    self._deliver(SnapshotSaved(save.job, snapshot, error.strerror or str(error)))
                return trouble
        self._note_checkpoint(store, save, folder, save.written)
        del self._saves[save.job]
        self._deliver(SnapshotSaved(save.job, snapshot, None))
        return None

    def _note_checkpoint(self, store: TrainingStore, save: _Save, folder: JobFolder, written: tuple[Path, int]) -> None:
        snapshot = save.snapshot
        path, num_bytes = written
        folder.give_up_after(snapshot.step)
        best = folder.best()
        checkpoint = Checkpoint(
            step=snapshot.step,
            path=path,
            created=time.time(),
            bytes=num_bytes,
            validation_accuracy=snapshot.validation_accuracy,
            best=best == snapshot.step,
        )
        there = folder.steps()
        dropped = superseded(there, save.keep, best)
        with store.together():
            store.add_checkpoint(save.job, checkpoint)
            store.add_event(save.job, "checkpoint", {"step": snapshot.step})
            known = {saved.step for saved in store.checkpoints(save.job)}
            for step in sorted({*there} - {*dropped} - known):  # a process was killed before it noted them
                store.add_checkpoint(save.job, folder.checkpoint(step, best=best == step))
            for step in {*dropped, *(known - {*there})}:
                store.drop_checkpoint(save.job, step)
        for step in dropped:
            folder.remove(step)
