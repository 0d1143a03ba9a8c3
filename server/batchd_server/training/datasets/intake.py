"""Takes datasets in: an upload as a stream, or what lies below the data root. Nothing is kept that was not checked.

An upload goes to a hidden folder, is hashed on the way and checked in a process of its own (`inspection.py`). Only then
does it get the name that it is found by.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from batchd_server.training.datasets.builtin import builtin
from batchd_server.training.datasets.folders import below, digest
from batchd_server.training.datasets.formats import FORMATS, Limits
from batchd_server.training.datasets.inspection import Found, inspect_in_child
from batchd_server.training.datasets.problems import DatasetError
from batchd_server.training.datasets.upload import INCOMING, Upload
from batchd_server.training.records import Dataset
from batchd_server.training.store import Conflict, TrainingStore

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"ds-[0-9a-f]{16}")
_CHECKS_AT_ONCE = 2  # each may take much memory; they wait in threads of their own, where nothing else has to
_CHECKS: RunVar[CapacityLimiter] = RunVar("dataset checks")


class StoreCalls(Protocol):
    """Runs short work with the store in a thread."""

    def __call__(self, work: Callable[[TrainingStore], T]) -> Awaitable[T]:
        """Return what `work` returns."""
        ...


async def receive(
    stream: AsyncIterator[bytes],
    *,
    name: str,
    format: str | None,  # noqa: A002 - the name that the API gives it
    store: TrainingStore,
    root: Path,
    max_bytes: int,
) -> Dataset:
    """Take in an upload, and return it as it was added to the store. `format` None: whatever it turns out to be.

    Files are written and checked in threads, so that an event loop goes on meanwhile. A stream that raises, or a caller
    that gives up, leaves nothing behind.

    Raises:
        Conflict: the name is taken.
        DatasetTooLargeError: longer than `max_bytes`, or what it unpacks to is too large.
        DatasetError: name, format or content is not acceptable.
        DatasetStorageError: the disk is full or cannot be written.
    """
    await to_thread.run_sync(_check_name, name, format, store)
    dataset_id = f"ds-{secrets.token_hex(8)}"
    upload = await to_thread.run_sync(Upload, root / f"{INCOMING}{dataset_id}", max_bytes)
    try:
        async for chunk in stream:
            if upload.add(chunk):
                await to_thread.run_sync(upload.write)
        await to_thread.run_sync(upload.finish)
        limits = Limits.for_upload(max_bytes)
        found = await to_thread.run_sync(inspect_in_child, upload.path, format, limits, limiter=_checks())

        def keep() -> Dataset:
            path = upload.publish(root / dataset_id, f"data.{FORMATS[found.format]}")
            try:
                return _add(store, dataset_id, name, found, path, upload.size, upload.sha256)
            except BaseException:
                shutil.rmtree(root / dataset_id, ignore_errors=True)
                raise

        return await to_thread.run_sync(keep)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(upload.close)


async def adopt(
    path: str,
    *,
    name: str,
    format: str | None,  # noqa: A002 - the name that the API gives it
    call: StoreCalls,
    data_root: Path | None,
) -> Dataset:
    """Take in a file or a folder of images that lies below `data_root`, where it stays.

    It is checked and hashed in a thread, and takes its turn among the checks: the store is free for others meanwhile.

    Raises:
        Conflict: the name is taken.
        DatasetNotFoundError: there is nothing at `path`.
        DatasetError: name, path, format or content is not acceptable, or no data root is configured.
    """
    await call(lambda store: _check_name(name, format, store))
    if data_root is None:
        raise DatasetError("datasets by path need a data root: set `data_root` in [training]", "path")
    place = await to_thread.run_sync(below, data_root, path)

    def checked() -> tuple[Found, int, str]:
        return inspect_in_child(place, format, Limits()), *digest(place)

    found, size, sha256 = await to_thread.run_sync(checked, limiter=_checks())
    return await call(lambda store: _add(store, f"ds-{secrets.token_hex(8)}", name, found, place, size, sha256))


def remove(dataset_id: str, *, store: TrainingStore, root: Path) -> None:
    """Forget a dataset, and delete its files where it was uploaded. Belongs in a thread.

    Raises:
        KeyError: there is none.
        Conflict: it is built in, or a job that has not ended learns from it.
    """
    if builtin(dataset_id):
        raise Conflict(f"{dataset_id!r} comes along and cannot be deleted")
    store.delete_dataset(dataset_id)
    if _ID.fullmatch(dataset_id):
        shutil.rmtree(root / dataset_id, ignore_errors=True)


def _checks() -> CapacityLimiter:
    """Return the running event loop's own."""
    try:
        return _CHECKS.get()
    except LookupError:
        limiter = CapacityLimiter(_CHECKS_AT_ONCE)
        _CHECKS.set(limiter)
        return limiter


def _add(store: TrainingStore, dataset_id: str, name: str, found: Found, path: Path, size: int, sha256: str) -> Dataset:
    dataset = Dataset(
        id=dataset_id,
        name=name,
        format=found.format,
        path=path,
        bytes=size,
        examples=found.examples,
        created=time.time(),
        sha256=sha256,
    )
    store.add_dataset(dataset)
    return dataset


def _check_name(name: str, format: str | None, store: TrainingStore) -> None:  # noqa: A002
    if not _NAME.fullmatch(name) or _ID.fullmatch(name):
        raise DatasetError(
            "a dataset's name is 1 to 64 letters, digits, dots, dashes or underscores, begins with a letter or digit, "
            "and is not of the form of an id",
            "name",
        )
    if format is not None and format not in FORMATS:
        raise DatasetError(f"unknown format {format[:40]!r}; the formats are {', '.join(FORMATS)}", "format")
    if builtin(name):
        raise Conflict(f"there is a dataset {name!r} already")
    with contextlib.suppress(KeyError):
        store.dataset(name)
        raise Conflict(f"there is a dataset {name!r} already")
