"""Reads zip archives that nobody vouches for. Nothing is unpacked to the disk, so no name can lead anywhere."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from batchd_server.training.datasets.formats import ZIP_ERRORS, Limits
from batchd_server.training.datasets.problems import DatasetError, DatasetTooLargeError

_ENCRYPTED = 0x1
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


@contextmanager
def opened_archive(path: Path, limits: Limits) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """Open an archive, and give its files, once their names and declared sizes are found to be acceptable.

    What a file unpacks to is never more than what it declares: zipfile stops there and compares the checksum.

    Raises:
        DatasetTooLargeError: it would unpack to too much, or holds too many files.
        DatasetError: it is damaged, or holds what no archive of data holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > limits.files:
                raise DatasetTooLargeError(f"the archive holds {len(entries)} files, more than {limits.files}")
            for entry in entries:
                _check_entry(entry)
            files = [entry for entry in entries if not entry.is_dir()]
            if (total := sum(entry.file_size for entry in files)) > limits.unpacked_bytes:
                raise DatasetTooLargeError(
                    f"the archive unpacks to {total} bytes, more than {limits.unpacked_bytes} allowed"
                )
            names = [entry.filename for entry in files]
            if len(set(names)) < len(names):
                raise DatasetError("the archive holds two files of the same name")
            yield archive, files
    except DatasetError:
        raise
    except ZIP_ERRORS as error:
        raise DatasetError(f"the archive is damaged: {error}") from error


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return a file's content."""
    with archive.open(entry) as file:
        return file.read()


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    parts = PurePosixPath(name).parts
    if not parts:
        raise DatasetError("the archive holds a file without a name")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or ":" in parts[0]:
        raise DatasetError(f"the archive holds a path that leads out of it: {name[:100]!r}")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DatasetError(f"the archive holds a symbolic link: {name[:100]!r}")
    if entry.flag_bits & _ENCRYPTED:
        raise DatasetError(f"the archive holds an encrypted file: {name[:100]!r}")
    if entry.compress_type not in _METHODS:
        raise DatasetError(f"{name[:100]!r} is compressed by another method than deflate")
