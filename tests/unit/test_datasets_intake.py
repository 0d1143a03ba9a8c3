"""Datasets come in whole and checked, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import numpy as np
import pytest
from dataset_files import npy, picture, zipped

from batchd_server.training.datasets import inspection, upload
from batchd_server.training.datasets.builtin import BUILTIN, builtin, dataset_files
from batchd_server.training.datasets.formats import Limits
from batchd_server.training.datasets.inspection import inspect_in_child
from batchd_server.training.datasets.intake import adopt, receive, remove
from batchd_server.training.datasets.opening import open_dataset
from batchd_server.training.datasets.problems import (
    DatasetError,
    DatasetNotFoundError,
    DatasetStorageError,
    DatasetTooLargeError,
)
from batchd_server.training.records import Dataset
from batchd_server.training.store import Conflict, TrainingStore

T = TypeVar("T")

MAX_BYTES = 1 << 20
ROWS = b'{"x": [1, 2], "y": 0}\n{"x": [3], "y": 1}\n'


@pytest.fixture
def store(tmp_path: Path) -> TrainingStore:
    return TrainingStore.open(f"sqlite:///{tmp_path}/jobs.sqlite3")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "datasets"


Take = Callable[..., Dataset]


@pytest.fixture
def take(store: TrainingStore, root: Path) -> Take:
    """Uploads bytes, in pieces."""

    def taken(content: bytes, name: str = "mine", said: str | None = None, max_bytes: int = MAX_BYTES) -> Dataset:
        async def pieces() -> AsyncIterator[bytes]:
            for begin in range(0, len(content), 1000):
                yield content[begin : begin + 1000]

        return run(receive(pieces(), name=name, format=said, store=store, root=root, max_bytes=max_bytes))

    return taken


def run(coroutine: Coroutine[Any, Any, Dataset]) -> Dataset:
    async def main() -> Dataset:
        return await coroutine

    return anyio.run(main)


def test_an_upload_is_kept_as_it_came_and_opens(take: Take, store: TrainingStore, root: Path) -> None:
    dataset = take(ROWS, said="jsonl")
    assert store.dataset("mine") == store.dataset(dataset.id) == dataset
    assert dataset.path is not None
    assert dataset.path.read_bytes() == ROWS
    assert (dataset.bytes, dataset.examples, dataset.format) == (len(ROWS), 2, "jsonl")
    assert dataset.sha256 == hashlib.sha256(ROWS).hexdigest()
    assert dataset.path == root / dataset.id / "data.jsonl"
    assert open_dataset(dataset_files(dataset)).columns["x"][1].tolist() == [3]


def test_the_format_is_found_where_it_is_not_said(take: Take, tmp_path: Path) -> None:
    arrays = zipped(tmp_path / "npz", {"x.npy": npy(np.arange(300_000))}).read_bytes()
    images = zipped(tmp_path / "zip", {"a/1.png": picture()}).read_bytes()
    assert take(arrays, "arrays", max_bytes=4 << 20).format == "npz"
    assert take(images, "images").format == "images"


@pytest.mark.parametrize(
    ("content", "said", "message"),
    [(b"", None, "empty"), (ROWS, "npz", "said to be npz"), (ROWS + b"{", "jsonl", "line 3"), (ROWS, "csv", "unknown")],
)
def test_what_is_wrong_leaves_nothing(
    take: Take, store: TrainingStore, root: Path, content: bytes, said: str, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        take(content, said=said)
    assert store.datasets() == []
    assert not root.exists() or list(root.iterdir()) == []


def test_an_upload_ends_at_the_limit_and_not_behind_it(store: TrainingStore, root: Path) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1000
            yield b"x" * 1000

    with pytest.raises(DatasetTooLargeError, match="larger than 1048576 bytes"):
        run(receive(endless(), name="mine", format=None, store=store, root=root, max_bytes=MAX_BYTES))
    assert MAX_BYTES < taken <= MAX_BYTES + 1000
    assert list(root.iterdir()) == []


def test_a_stream_that_breaks_leaves_nothing(store: TrainingStore, root: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield ROWS
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        run(receive(broken(), name="mine", format=None, store=store, root=root, max_bytes=MAX_BYTES))
    assert list(root.iterdir()) == []
    assert store.datasets() == []


def test_a_caller_that_gives_up_leaves_nothing(store: TrainingStore, root: Path) -> None:
    async def main() -> None:
        async def stalled() -> AsyncIterator[bytes]:
            yield ROWS
            scope.cancel()
            await anyio.sleep_forever()

        with anyio.CancelScope() as scope:
            await receive(stalled(), name="mine", format=None, store=store, root=root, max_bytes=MAX_BYTES)
        assert scope.cancelled_caught

    anyio.run(main)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "a b", "-a", "a" * 65, "ds-0123456789abcdef", "\u00e9"]
)
def test_names_are_plain(take: Take, name: str) -> None:
    with pytest.raises(DatasetError, match="name"):
        take(ROWS, name)


def test_a_name_is_taken_once(take: Take, store: TrainingStore, root: Path) -> None:
    first = take(ROWS)
    for name in ("mine", "digit-lines"):
        with pytest.raises(Conflict, match=name):
            take(ROWS, name)
    assert store.datasets() == [first]
    assert [path.name for path in root.iterdir()] == [first.id]


def test_of_two_uploads_by_one_name_one_is_kept(store: TrainingStore, root: Path) -> None:
    kept: list[Dataset] = []
    refused: list[Conflict] = []

    async def one(both_there: anyio.Event, here: anyio.Event) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            here.set()
            await both_there.wait()
            yield ROWS

        try:
            kept.append(await receive(pieces(), name="mine", format=None, store=store, root=root, max_bytes=MAX_BYTES))
        except Conflict as error:
            refused.append(error)

    async def main() -> None:
        first, second = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, second, first)
            tasks.start_soon(one, first, second)

    anyio.run(main)
    assert len(kept) == len(refused) == 1
    assert [path.name for path in root.iterdir()] == [kept[0].id]


def test_a_full_disk_is_told_and_leaves_nothing(
    take: Take, store: TrainingStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(upload.os, "fsync", full)
    with pytest.raises(DatasetStorageError, match="the disk is full"):
        take(ROWS)
    assert store.datasets() == []
    assert list(root.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(store: TrainingStore, tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield ROWS

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetStorageError, match="cannot be stored"):
        run(receive(pieces(), name="a", format=None, store=store, root=tmp_path / "file" / "d", max_bytes=MAX_BYTES))


def test_what_killed_uploads_left_is_removed_after_a_day(take: Take, root: Path) -> None:
    for name, age in ((".incoming-old", 90_000), (".incoming-new", 60)):
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "data").write_bytes(b"half")
        then = folder.stat().st_mtime - age
        os.utime(folder, (then, then))
    dataset = take(ROWS)
    assert {path.name for path in root.iterdir()} == {".incoming-new", dataset.id}


def test_a_deleted_dataset_is_gone(take: Take, store: TrainingStore, root: Path) -> None:
    dataset = take(ROWS)
    remove(dataset.id, store=store, root=root)
    assert store.datasets() == []
    assert list(root.iterdir()) == []
    with pytest.raises(KeyError):
        remove(dataset.id, store=store, root=root)
    with pytest.raises(DatasetError, match="no longer"):
        open_dataset(dataset_files(dataset))


def test_what_comes_along_cannot_be_deleted(store: TrainingStore, root: Path) -> None:
    with pytest.raises(Conflict, match="comes along"):
        remove("digit-lines", store=store, root=root)
    assert [entry.name for entry in BUILTIN] == ["digit-lines"]
    assert builtin("digit-lines") is BUILTIN[0]
    assert builtin("faces") is None
    with pytest.raises(DatasetError, match="built in"):
        open_dataset(dataset_files(BUILTIN[0]))


# ---- by path ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Has a dataset, a folder of images, and traps."""
    top = tmp_path / "data"
    (top / "sub").mkdir(parents=True)
    (top / "sub" / "rows.jsonl").write_bytes(ROWS)
    (top / "good").symlink_to(top / "sub" / "rows.jsonl")
    for name in ("cat/1.png", "dog/2.png"):
        (top / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (top / "photos" / name).write_bytes(picture())
    (tmp_path / "secret.jsonl").write_bytes(ROWS)
    (top / "link").symlink_to(tmp_path / "secret.jsonl")
    (top / "up").symlink_to(tmp_path)
    (top / "loop").symlink_to(top / "loop")
    os.mkfifo(top / "pipe")
    return top


@pytest.fixture
def take_path(store: TrainingStore, data_root: Path) -> Callable[[str], Dataset]:
    return partial(taken_from, store, data_root)


def taken_from(store: TrainingStore, data_root: Path | None, path: str) -> Dataset:
    async def call(work: Callable[[TrainingStore], T]) -> T:
        return await anyio.to_thread.run_sync(work, store)

    return run(adopt(path, name="mine", format=None, call=call, data_root=data_root))


@pytest.mark.parametrize("path", ["sub/rows.jsonl", "./sub/../sub/rows.jsonl", "good"])
def test_a_file_below_the_data_root_stays_where_it_is(
    take_path: Callable[[str], Dataset], store: TrainingStore, root: Path, data_root: Path, path: str
) -> None:
    dataset = take_path(path)
    assert dataset.path == data_root / "sub" / "rows.jsonl"
    assert dataset.sha256 == hashlib.sha256(ROWS).hexdigest()
    assert (dataset.bytes, dataset.examples) == (len(ROWS), 2)
    remove(dataset.id, store=store, root=root)
    assert (data_root / "sub" / "rows.jsonl").read_bytes() == ROWS


def test_a_folder_of_images_below_the_data_root(take_path: Callable[[str], Dataset], data_root: Path) -> None:
    dataset = take_path("photos")
    assert (dataset.format, dataset.examples, dataset.bytes) == ("images", 2, 2 * len(picture()))
    assert open_dataset(dataset_files(dataset)).columns["label"].values.tolist() == [0, 1]
    (data_root / "photos" / "cat" / "3.png").symlink_to(data_root.parent / "secret.jsonl")
    with pytest.raises(DatasetError, match="no file of this folder"):
        open_dataset(dataset_files(dataset))


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jsonl",
        "sub/../../secret.jsonl",
        "link",
        "up/secret.jsonl",
        "/etc/passwd",
        ".",
        "",
        "up",
        "pipe",
        "loop",
    ],
)
def test_no_path_leads_out_of_the_data_root(
    take_path: Callable[[str], Dataset], store: TrainingStore, path: str
) -> None:
    with pytest.raises(DatasetError, match=r"leads out|neither|no path") as raised:
        take_path(path)
    assert str(raised.value).count("/") <= path.count("/"), "the message tells nothing about the server's folders"
    assert store.datasets() == []


@pytest.mark.parametrize("path", ["\0", "a" * 5000, "sub/rows.jsonl/x"])
def test_what_is_no_path_is_refused(take_path: Callable[[str], Dataset], path: str) -> None:
    with pytest.raises(DatasetError):
        take_path(path)


def test_a_path_needs_something_there_and_a_data_root(
    take_path: Callable[[str], Dataset], store: TrainingStore
) -> None:
    with pytest.raises(DatasetNotFoundError, match="nothing at 'nowhere'"):
        take_path("nowhere")
    with pytest.raises(DatasetError, match="data_root"):
        taken_from(store, None, "sub/rows.jsonl")


@pytest.mark.parametrize("way", ["{}", "up/{}", "../{}", "dangling/../{}"])
def test_whether_something_is_outside_the_data_root_is_not_told(
    store: TrainingStore, data_root: Path, way: str
) -> None:
    outside = data_root.parent
    (data_root / "dangling").symlink_to(outside / "absent" / "folder")
    (outside / "itself").symlink_to(outside / "itself")
    messages = set()
    for name in ("secret.jsonl", "absent", "absent/of/that", "secret.jsonl/x", "itself"):
        path = way.format(outside / name if way == "{}" else name)
        with pytest.raises(DatasetError) as raised:
            taken_from(store, data_root, path)
        assert raised.value.field == "path"
        messages.add((type(raised.value), str(raised.value).replace(repr(path), "...")))
    assert messages == {(DatasetError, "... leads out of the data root")}


# ---- in a process of its own -----------------------------------------------------------------------------------------


def test_a_check_that_takes_too_long_ends(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"x": [0]}\n' * 2_000_000)
    with pytest.raises(DatasetError, match="took too much memory or time"):
        inspect_in_child(path, None, Limits(check_seconds=1))


def test_a_check_that_takes_too_much_memory_ends(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.npz", {"x.npy": npy(np.zeros(10_000_000))})
    with pytest.raises(DatasetError, match="too much memory"):
        inspect_in_child(path, None, Limits(check_bytes=100 << 20))
    assert inspect_in_child(path, None, Limits()).examples == 10_000_000


def test_a_check_finds_none_of_our_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that a hostile file has taken over could read them: keys, and the password of a database."""
    environments: list[dict[str, str]] = []
    run = subprocess.run

    def seen(*arguments: Any, env: dict[str, str], **options: Any) -> Any:
        environments.append(env)
        return run(*arguments, env=env, **options)

    monkeypatch.setattr(inspection.subprocess, "run", seen)
    monkeypatch.setenv("BATCHD_API_KEY", "batchd_secret")
    monkeypatch.setenv("BATCHD_TRAINING__DATABASE", "postgresql://u:secret@host/jobs")
    path = zipped(tmp_path / "data.npz", {"x.npy": npy(np.zeros(3))})
    assert inspect_in_child(path, None, Limits()).examples == 3
    (environment,) = environments
    assert "PATH" in environment
    assert "secret" not in "".join(environment.values())
