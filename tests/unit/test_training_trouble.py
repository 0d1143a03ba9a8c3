"""What errors of disks and of SQLite come to, and that nothing is left half written where there is no room."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from batchd_server.device.training import checkpoints
from batchd_server.device.training.checkpoints import JobFolder
from batchd_server.device.training.promotion import PromotedWeights
from batchd_server.device.training.train_report import Snapshot
from batchd_server.training.trouble import Trouble, of_disk, of_sqlite, os_error, probe


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, which is an OSError as a full disk is."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def snapshot_of(step: int) -> Snapshot:
    weights = {"weight": torch.full((5000,), float(step))}
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return Snapshot(
        step=step,
        weights=weights,
        optimizer=optimizer,
        state={},
        validation_accuracy=None,
        validation_loss=None,
        final=False,
    )


@pytest.mark.parametrize(
    ("number", "trouble"),
    [
        (errno.ENOSPC, Trouble.DISK_FULL),
        (errno.EDQUOT, Trouble.DISK_FULL),
        (errno.EROFS, Trouble.DISK_READ_ONLY),
        (errno.EIO, Trouble.DISK_FAILED),
        (errno.EACCES, None),
        (errno.ENOTDIR, None),
    ],
)
def test_errors_of_the_disk(number: int, trouble: Trouble | None) -> None:
    assert of_disk(OSError(number, os.strerror(number))) is trouble
    words = os_error(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    assert (words.errno, of_disk(words)) == (number, trouble)


def test_words_without_a_number_are_no_trouble_that_passes() -> None:
    assert of_disk(os_error("Error while serializing: out of ideas")) is None


def test_every_trouble_has_a_reason() -> None:
    assert len({trouble.reason for trouble in Trouble}) == len(Trouble)


def test_a_locked_and_a_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    one = sqlite3.connect(path, isolation_level=None)
    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    one.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as locked:
        other.execute("BEGIN IMMEDIATE")
    assert of_sqlite(locked.value, tmp_path) is Trouble.STORE_LOCKED
    one.close()
    other.close()
    path.write_bytes(b"no database" * 1000)
    damaged = sqlite3.connect(path)
    with pytest.raises(sqlite3.DatabaseError) as found:
        damaged.execute("SELECT * FROM sqlite_master")
    assert of_sqlite(found.value, tmp_path) is Trouble.STORE_DAMAGED
    damaged.close()


def test_what_sqlite_does_not_say_the_disk_is_asked(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError) as missing:
        sqlite3.connect(tmp_path / "nowhere" / "x").execute("SELECT 1")
    assert of_sqlite(missing.value, tmp_path) is Trouble.STORE_FAILED  # the disk is well
    with files_end_at(100):
        assert probe(tmp_path) is Trouble.DISK_FULL
        assert of_sqlite(missing.value, tmp_path) is Trouble.DISK_FULL
    assert probe(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.write(snapshot_of(1))
    for limit in (100, 10_000, 20_000):
        with files_end_at(limit), pytest.raises(OSError) as refused:  # noqa: PT011 - its number is what counts
            folder.write(snapshot_of(2))
        assert of_disk(refused.value) is Trouble.DISK_FULL
        assert [path.name for path in folder.path.iterdir()] == ["step-1"]
    latest = folder.latest()
    assert latest is not None
    assert latest.step == 1


def test_a_checkpoint_does_not_take_the_last_bytes_of_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = JobFolder(tmp_path / "job")
    monkeypatch.setattr(checkpoints, "SPARE_BYTES", 1 << 60)
    with pytest.raises(OSError, match="No space left") as refused:
        folder.write(snapshot_of(1))
    assert refused.value.errno == errno.ENOSPC
    assert list(folder.path.iterdir()) == []


def test_a_promotion_that_cannot_be_kept_leaves_the_one_before(tmp_path: Path) -> None:
    saved, _ = JobFolder(tmp_path / "job").write(snapshot_of(7))
    promoted = PromotedWeights(tmp_path / "promoted")
    promoted.promoted("m", saved, "job-1", 7)
    there = sorted(path.name for path in (tmp_path / "promoted" / "m").iterdir())
    assert there == ["1.safetensors", "history.json"]
    for limit in (60, 10_000):
        with files_end_at(limit), pytest.raises(OSError, match="File too large"):
            promoted.promoted("m", saved, "job-2", 7)
        assert sorted(path.name for path in (tmp_path / "promoted" / "m").iterdir()) == there
    weights = promoted.serving("m")
    assert weights is not None
    assert torch.equal(weights["weight"], torch.full((5000,), 7.0))
