"""The job store: what is done together is one transaction, and a file that cannot be looked at is still there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchd_server.training.job_spec import JobSpec, JobStatus
from batchd_server.training.store import StoreError, TrainingStore
from batchd_server.training.trouble import Trouble


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[TrainingStore]:
    made = TrainingStore.open(url_of(path))
    yield made
    made.close()


def test_what_is_done_together_is_written_whole_or_not_at_all(store: TrainingStore, path: Path) -> None:
    job = store.create_job(JobSpec(model="m", dataset="d", max_steps=100)).id
    other = TrainingStore.open(url_of(path))

    def half() -> None:
        with store.together():
            store.add_event(job, "one", {})
            store.update("job-none", status=JobStatus.RUNNING)

    with pytest.raises(KeyError):
        half()
    assert [event.kind for event in store.events(job, limit=10)] == ["created"]
    with store.together():
        store.add_event(job, "one", {})
        assert store.job(job).status is JobStatus.QUEUED
        store.update(job, status=JobStatus.RUNNING)
        assert store.job(job).status is JobStatus.RUNNING
        assert [event.kind for event in other.events(job, limit=10)] == ["created"]
    assert [event.kind for event in other.events(job, limit=10)] == ["created", "one"]
    store.add_event(job, "two", {})
    assert [event.kind for event in other.events(job, limit=10)] == ["created", "one", "two"]
    other.close()


@pytest.mark.parametrize(
    ("number", "trouble"),
    [
        (errno.EIO, Trouble.DISK_FAILED),
        (errno.ESTALE, Trouble.STORE_FAILED),
        (errno.EACCES, Trouble.STORE_FAILED),
        (errno.ENOENT, Trouble.STORE_DAMAGED),
    ],
)
def test_a_file_that_cannot_be_looked_at_has_not_been_deleted(
    store: TrainingStore, path: Path, monkeypatch: pytest.MonkeyPatch, number: int, trouble: Trouble
) -> None:
    job = store.create_job(JobSpec(model="m", dataset="d", max_steps=100)).id
    wal = Path(f"{path}-wal")
    assert wal.exists()
    look = Path.stat

    def failing(looked_at: Path, **named: Any) -> os.stat_result:
        if looked_at == path:
            raise OSError(number, os.strerror(number))
        return look(looked_at, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", failing)
        with pytest.raises(StoreError) as failed:
            store.job(job)
    assert failed.value.trouble is trouble
    assert str(path) not in str(failed.value)
    assert wal.exists() == (number != errno.ENOENT), "of a file that is there, it is a part"
    if number != errno.ENOENT:
        assert store.job(job).id == job
