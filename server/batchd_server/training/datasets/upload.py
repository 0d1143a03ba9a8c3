"""An upload on its way to the disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from batchd_server.training.datasets.problems import DatasetStorageError, DatasetTooLargeError
from batchd_server.training.trouble import of_disk

INCOMING = ".incoming-"
"""What the name of a folder begins with whose upload is not finished."""
_WRITE_BYTES = 1 << 20
_ABANDONED_AFTER_S = 24 * 3600.0


class Upload:
    """A file that grows, hashed on its way. All but `add` wait for the disk, and belong in a thread."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Make the folder, and an empty file in it; what killed processes left beside it long ago is removed.

        Raises:
            DatasetStorageError: it cannot be written.
        """
        self.size = 0
        self.path = folder / "data"
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        with storing():
            _remove_abandoned(folder.parent)
            folder.mkdir(parents=True)
            try:
                self._file: BinaryIO = self.path.open("xb")
            except OSError:
                folder.rmdir()
                raise

    @property
    def sha256(self) -> str:
        """Of what was written."""
        return self._hash.hexdigest()

    def add(self, chunk: bytes) -> bool:
        """Take a part, and return whether it is time to write.

        Raises:
            DatasetTooLargeError: it is too much.
        """
        self.size += len(chunk)
        if self.size > self._max_bytes:
            raise DatasetTooLargeError(f"the dataset is larger than {self._max_bytes} bytes")
        self._pending += chunk
        return len(self._pending) >= _WRITE_BYTES

    def write(self) -> None:
        """Write what is pending.

        Raises:
            DatasetStorageError: the disk is full, or cannot be written.
        """
        self._hash.update(self._pending)
        with storing():
            self._file.write(self._pending)
        self._pending.clear()

    def finish(self) -> None:
        """Write the rest, and wait until it is on the disk.

        Raises:
            DatasetStorageError: the disk is full, or cannot be written.
        """
        self.write()
        with storing():
            self._file.flush()
            os.fsync(self._file.fileno())

    def publish(self, folder: Path, file_name: str) -> Path:
        """Give file and folder the names that they keep, and return the file's path.

        Raises:
            DatasetStorageError: the disk cannot be written.
        """
        with storing():
            self.path.rename(self.path.with_name(file_name))
            self.path.parent.rename(folder)
            parent = os.open(folder.parent, os.O_RDONLY)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        return folder / file_name

    def close(self) -> None:
        """Close the file, and delete what was not published."""
        with contextlib.suppress(OSError):  # what could not be written is known already
            self._file.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """Tell what the disk has against it.

    Raises:
        DatasetStorageError: for any OSError within.
    """
    try:
        yield
    except OSError as error:
        trouble = of_disk(error)
        if trouble is None:
            raise DatasetStorageError(f"the dataset cannot be stored: {error.strerror}") from error
        raise DatasetStorageError(f"the dataset cannot be stored: {trouble.reason}", trouble.value) from error


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{INCOMING}*"):
        with contextlib.suppress(FileNotFoundError):  # another front is at it
            if folder.stat().st_mtime < time.time() - _ABANDONED_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
