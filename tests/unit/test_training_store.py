"""The job store's laws, with a real SQLite file, several threads and several processes."""

from __future__ import annotations

import itertools
import math
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchd.governor import Commit
from batchd_server.training.job_spec import JobSpec, JobStatus
from batchd_server.training.records import Checkpoint, Dataset, Progress, StepMetrics, Wanted
from batchd_server.training.store import Conflict, IdempotencyConflict, StoreError, TrainingStore

WISHES: tuple[Wanted, ...] = ("run", "pause", "cancel")
SPEC = JobSpec.model_validate(
    {
        "model": "digit-lines",
        "dataset": "lines",
        "epochs": 2,
        "batching": {"schedule": {"name": "linear", "end_epoch": 3}, "lr_rule": {"name": "sqrt", "warmup_epochs": 1}},
        "metadata": {"owner": "me", "try": 3},
    }
)


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "jobs.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[TrainingStore]:
    moments = itertools.count(1000)
    store = TrainingStore.open(url_of(path), clock=lambda: float(next(moments)))
    yield store
    store.close()


def metrics_of(step: int, loss: float | None = 1.0) -> StepMetrics:
    return StepMetrics(step=step, examples=32 * step, epoch=step / 10, loss=loss, batch_size=32, seconds=0.25)


def commit_of(step: int, raw: float | None = 40.0) -> Commit:
    return Commit(step=step, schedule="linear", raw=raw, smoothed=39.5, size=40, reason="grows", changed=True)


def dataset_of(name: str, number: int = 1) -> Dataset:
    return Dataset(
        id=f"ds-{number:016x}",
        name=name,
        format="npz",
        path=Path("/data") / name,
        bytes=5_000_000_000,
        examples=10,
        created=float(number),
        sha256="0" * 64,
    )


def test_a_job_comes_back_as_it_was_submitted(store: TrainingStore, path: Path) -> None:
    job = store.create_job(SPEC)
    again = TrainingStore.open(url_of(path))
    assert again.job(job.id) == job
    assert job.spec == SPEC
    assert job.spec.batching.schedule.parameters == {"end_epoch": 3}
    assert (job.status, job.wanted, job.reason, job.started, job.finished) == ("queued", "run", None, None, None)
    assert job.progress == Progress()
    assert [event.kind for event in again.events(job.id, limit=9)] == ["created"]
    again.close()


def test_what_is_not_there_is_a_key_error(store: TrainingStore) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: store.job("job-0"),
        lambda: store.wish("job-0", "pause"),
        lambda: store.update("job-0", reason="x"),
        lambda: store.jobs(limit=1, after="job-0"),
        lambda: store.dataset("none"),
        lambda: store.delete_dataset("none"),
    ]
    for call in calls:
        with pytest.raises(KeyError):
            call()
    assert store.events("job-0", limit=9) == store.checkpoints("job-0") == store.commits("job-0") == []


def test_a_key_makes_one_job_of_the_same_spec_and_none_of_another(store: TrainingStore) -> None:
    job = store.create_job(SPEC, idempotency_key="k")
    store.update(job.id, status=JobStatus.RUNNING)
    assert store.create_job(SPEC, idempotency_key="k").id == job.id
    # the same job, although one says what the other leaves to the default
    explicit = JobSpec.model_validate({**SPEC.model_dump(mode="json"), "seed": 0})
    assert store.create_job(explicit, idempotency_key="k").id == job.id
    with pytest.raises(IdempotencyConflict):
        store.create_job(SPEC.model_copy(update={"seed": 1}), idempotency_key="k")
    assert store.create_job(SPEC, idempotency_key="l").id != job.id
    assert store.create_job(SPEC).id != store.create_job(SPEC).id
    assert len(store.jobs(limit=99)) == 4


def test_pages_hold_every_job_once_newest_first(store: TrainingStore) -> None:
    made = [store.create_job(SPEC).id for _ in range(7)]
    found: list[str] = []
    while page := store.jobs(limit=3, after=found[-1] if found else None):
        found += [job.id for job in page]
    assert found == made[::-1]
    store.update(made[2], status=JobStatus.RUNNING)
    assert [job.id for job in store.jobs(limit=9, status=JobStatus.RUNNING)] == [made[2]]
    store.update(made[2], status=JobStatus.FAILED, reason="x")
    assert [job.id for job in store.unfinished()] == [made[0], made[1], *made[3:]]
    assert store.counts() == {JobStatus.QUEUED: 6, JobStatus.FAILED: 1}


@pytest.mark.parametrize("final", [status for status in JobStatus if status.final])
@pytest.mark.parametrize("wish", WISHES)
def test_a_job_that_has_ended_stays_as_it_is(store: TrainingStore, final: JobStatus, wish: Wanted) -> None:
    job = store.create_job(SPEC)
    store.update(job.id, status=final, reason="so")
    ended = store.job(job.id)
    assert ended.finished is not None
    with pytest.raises(Conflict):
        store.wish(job.id, wish)
    for status in JobStatus:
        store.update(job.id, status=status, reason="other")
    assert store.job(job.id) == ended


@pytest.mark.parametrize("status", [status for status in JobStatus if not status.final])
@pytest.mark.parametrize("wishes", list(itertools.product(WISHES, WISHES)))
def test_no_status_contradicts_the_last_wish(
    store: TrainingStore, status: JobStatus, wishes: tuple[Wanted, Wanted]
) -> None:
    """Whatever a runner that is late writes, a job looks as if it obeyed."""
    job = store.create_job(SPEC)
    wanted: Wanted = "run"
    for wish in wishes:
        try:
            wanted = store.wish(job.id, wish).wanted
        except Conflict:
            assert wanted == "cancel" != wish
            continue
        assert wanted == wish
    store.update(job.id, status=status)
    allowed = {
        "run": {JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELLING},
        "pause": {JobStatus.PAUSING, JobStatus.PAUSED, JobStatus.CANCELLING},
        "cancel": {JobStatus.CANCELLING},
    }
    assert store.job(job.id).status in allowed[wanted]
    store.update(job.id, status=JobStatus.CANCELLED)
    assert store.job(job.id).status is JobStatus.CANCELLED


def test_the_first_start_and_the_end_are_noted(store: TrainingStore) -> None:
    job = store.create_job(SPEC)
    store.update(job.id, status=JobStatus.RUNNING)
    started = store.job(job.id).started
    store.wish(job.id, "pause")
    store.update(job.id, status=JobStatus.PAUSED)
    assert store.wish(job.id, "run").status is JobStatus.QUEUED
    store.update(job.id, status=JobStatus.RUNNING, progress=Progress(step=3, loss=math.nan, accuracy=0.5))
    running = store.job(job.id)
    assert started == running.started is not None
    assert running.finished is None
    assert running.progress == Progress(step=3, loss=None, accuracy=0.5)  # JSON has no NaN
    store.update(job.id, progress=Progress(step=4))
    store.update(job.id, status=JobStatus.SUCCEEDED)
    ended = store.job(job.id)
    assert ended.progress.step == 4
    assert running.created < started < (ended.finished or 0)


def test_events_are_read_on_from_any_of_them(store: TrainingStore) -> None:
    job, other = store.create_job(SPEC), store.create_job(SPEC)
    ids = [store.add_event(each.id, "checkpoint", {"step": step}) for step in range(5) for each in (job, other)]
    assert ids == sorted(set(ids))
    everything = store.events(job.id, limit=99)
    assert [event.data for event in everything[1:]] == [{"step": step} for step in range(5)]
    for position, event in enumerate(everything):
        assert store.events(job.id, after=event.id, limit=2) == everything[position + 1 : position + 3]
        assert store.latest_events(job.id, before=event.id, limit=2) == everything[:position][::-1][:2]
    assert store.latest_events(job.id, limit=99) == everything[::-1]


def test_steps_that_are_repeated_replace_those_that_were(store: TrainingStore) -> None:
    job, other = store.create_job(SPEC).id, store.create_job(SPEC).id
    store.add_metrics(other, [metrics_of(9)])
    store.add_metrics(job, [])
    store.add_metrics(job, [metrics_of(step) for step in range(1, 8)])
    store.add_metrics(job, [metrics_of(5, loss=math.inf), metrics_of(6, loss=2.0)])
    assert [row.step for row in store.metrics(job, limit=99)] == [1, 2, 3, 4, 5, 6]
    assert [row.loss for row in store.metrics(job, after_step=4, limit=99)] == [None, 2.0]
    assert store.metrics(job, after_step=1, limit=2) == [metrics_of(2), metrics_of(3)]
    assert store.metrics(other, limit=99) == [metrics_of(9)]
    for step in (0, 4, 8):
        store.add_commit(job, commit_of(step))
    store.add_commit(job, commit_of(4, raw=None))
    assert store.commits(job) == [commit_of(0), commit_of(4, raw=None)]
    assert store.commits(other) == []


def test_one_checkpoint_at_most_is_the_best(store: TrainingStore) -> None:
    job = store.create_job(SPEC).id
    saved = [
        Checkpoint(
            step=step, path=Path(f"/x/step-{step}"), created=1.5, bytes=2**40, validation_accuracy=0.5, best=best
        )
        for step, best in ((10, True), (20, False), (30, True))
    ]
    for checkpoint in (saved[1], saved[0], saved[2]):
        store.add_checkpoint(job, checkpoint)
    store.add_checkpoint(job, saved[1])
    assert store.checkpoints(job) == [replace(saved[0], best=False), saved[1], saved[2]]
    store.drop_checkpoint(job, 10)
    store.drop_checkpoint(job, 10)
    assert store.checkpoints(job) == saved[1:]


def test_datasets_have_one_name_each_and_stay_while_they_are_used(store: TrainingStore) -> None:
    lines, others = dataset_of("lines"), dataset_of("others", 2)
    builtin = replace(dataset_of("builtin", 3), path=None, sha256=None)
    for dataset in (lines, others, builtin):
        store.add_dataset(dataset)
    assert store.datasets() == [lines, others, builtin]
    assert store.dataset("lines") == store.dataset(lines.id) == lines
    with pytest.raises(Conflict):
        store.add_dataset(dataset_of("lines", 4))
    job = store.create_job(SPEC)  # learns from "lines"
    with pytest.raises(Conflict, match=job.id):
        store.delete_dataset(lines.id)
    store.delete_dataset(others.id)
    store.update(job.id, status=JobStatus.FAILED)
    store.delete_dataset(lines.id)
    assert store.datasets() == [builtin]


def test_threads_lose_nothing(store: TrainingStore) -> None:
    job = store.create_job(SPEC)

    def write(step: int) -> int:
        store.update(job.id, progress=Progress(step=step))
        return store.add_event(job.id, "validation", {"step": step})

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(write, range(60)))
    assert len(set(ids)) == 60
    assert {event.data.get("step") for event in store.events(job.id, limit=99)} - {None} == set(range(60))


WRITER = """
import sys
from batchd_server.training.store import TrainingStore
from batchd_server.training.job_spec import JobSpec
store = TrainingStore.open(sys.argv[1])
job = store.create_job(JobSpec(model="m", dataset="d", epochs=1), idempotency_key="one")
for number in range(40):
    store.add_event(job.id, "validation", {"writer": int(sys.argv[2]), "number": number})
"""


def test_processes_write_at_once_and_lose_nothing(path: Path) -> None:
    """Even the opening of a database that is not there yet is everybody's."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url_of(path), str(number)], stderr=subprocess.PIPE)
        for number in range(3)
    ]
    for writer in writers:
        _, complaint = writer.communicate(timeout=60)
        assert writer.returncode == 0, complaint.decode()
    store = TrainingStore.open(url_of(path))
    (job,) = store.jobs(limit=9)
    told = [(event.data["writer"], event.data["number"]) for event in store.events(job.id, limit=999)[1:]]
    assert sorted(told) == sorted(itertools.product(range(3), range(40)))
    for number in range(3):
        assert [n for writer, n in told if writer == number] == list(range(40))
    store.close()


def test_a_writer_that_is_killed_leaves_whole_transactions(path: Path) -> None:
    program = WRITER.replace("range(40)", "range(10**9)")
    writer = subprocess.Popen([sys.executable, "-c", program, url_of(path), "0"])
    store = TrainingStore.open(url_of(path))
    try:
        while not (jobs := store.jobs(limit=1)) or len(store.events(jobs[0].id, limit=99)) < 20:
            assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
    told = [event.data["number"] for event in store.events(jobs[0].id, limit=10**6)[1:]]
    assert told == list(range(len(told)))
    assert store.create_job(SPEC).status is JobStatus.QUEUED  # the lock has gone with its holder
    store.close()


def test_a_full_disk_is_told_and_nothing_is_lost(store: TrainingStore) -> None:
    job = store.create_job(SPEC)

    def fill() -> None:
        for number in range(1000):
            store.add_event(job.id, "x", {"text": "y" * 10_000, "number": number})

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # writes beyond it fail, as on a full disk
    try:
        with pytest.raises(StoreError, match="job store failed"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    kept = store.events(job.id, limit=9999)
    assert [event.data["number"] for event in kept[1:]] == list(range(len(kept) - 1))
    assert store.add_event(job.id, "x", {}) > kept[-1].id


def test_a_database_that_is_read_only_is_read_and_nothing_else(store: TrainingStore, path: Path) -> None:
    job = store.create_job(SPEC)
    reader = TrainingStore.open(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert reader.jobs(limit=9) == [job]
    for write in (
        lambda: reader.create_job(SPEC),
        lambda: reader.wish(job.id, "pause"),
        lambda: reader.add_event(job.id, "x", {}),
        lambda: reader.add_dataset(dataset_of("x")),
    ):
        with pytest.raises(StoreError, match="readonly"):
            write()
    assert store.jobs(limit=9) == [job]
    reader.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError):
        TrainingStore.open(url_of(tmp_path / "jobs.sqlite3"))


def test_a_database_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    for url, message in (
        (url_of(tmp_path), "unable to open"),
        ("sqlite://", "in memory"),
        ("nosuchbase://x", "cannot be used"),
        ("no url", "cannot be used"),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            TrainingStore.open(url)
        assert str(tmp_path) not in str(caught.value)
    (tmp_path / "garbage").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StoreError, match="not a database"):
        TrainingStore.open(url_of(tmp_path / "garbage"))


def test_a_writer_that_holds_the_database_is_waited_for(store: TrainingStore, path: Path) -> None:
    job = store.create_job(SPEC)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.add_event, job.id, "x", {})
        assert store.job(job.id) == job  # readers do not wait
        assert not waiting.done()
        other.execute("COMMIT")
        assert waiting.result(timeout=30) > 0
    other.close()


def test_a_store_of_another_version_is_read(store: TrainingStore, path: Path) -> None:
    """Keys that came or went in the JSON columns do not matter."""
    job = store.create_job(SPEC)
    other = sqlite3.connect(path)
    other.execute('UPDATE jobs SET progress = \'{"step": 7, "from_the_future": 1}\'')
    other.commit()
    other.close()
    assert store.job(job.id).progress == Progress(step=7)
