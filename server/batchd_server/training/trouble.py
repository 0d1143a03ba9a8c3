"""Why nothing can be kept: what an error of the disk or of the database means to people and to programs."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
from enum import StrEnum
from pathlib import Path

PROBE_BYTES = 4096
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DISK_ERRORS = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
_OS_ERROR = re.compile(r"\(os error (\d+)\)|\bcode: (\d+)")


class Trouble(StrEnum):
    """A state that ends by itself, or once somebody does something about it: whoever waits can go on then."""

    DISK_FULL = "disk_full"
    DISK_READ_ONLY = "disk_read_only"
    DISK_FAILED = "disk_failed"
    STORE_LOCKED = "store_locked"
    STORE_DAMAGED = "store_damaged"
    STORE_FAILED = "store_failed"

    @property
    def reason(self) -> str:
        """The same for people."""
        return _REASONS[self]


_REASONS = {
    Trouble.DISK_FULL: "the disk is full",
    Trouble.DISK_READ_ONLY: "the disk is read-only",
    Trouble.DISK_FAILED: "the disk fails",
    Trouble.STORE_LOCKED: "another process has locked the job store",
    Trouble.STORE_DAMAGED: "the job store is damaged",
    Trouble.STORE_FAILED: "the job store fails",
}


def of_disk(error: OSError) -> Trouble | None:
    """Return what ails the disk; None where something else is wrong, which does not pass by itself."""
    if error.errno in _FULL:
        return Trouble.DISK_FULL
    if error.errno == errno.EROFS:
        return Trouble.DISK_READ_ONLY
    return Trouble.DISK_FAILED if error.errno == errno.EIO else None


def os_error(message: str) -> OSError:
    """Return the error that safetensors, which is not written in Python, has put into words."""
    found = _OS_ERROR.search(message)
    if found is None:
        return OSError(message)
    number = int(found[1] or found[2])
    return OSError(number, os.strerror(number))


def of_sqlite(error: BaseException | None, directory: Path) -> Trouble:
    """Return what an error of SQLite means; what it does not say itself the disk below `directory` is asked for."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Trouble.STORE_LOCKED
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Trouble.STORE_DAMAGED
    if primary == sqlite3.SQLITE_FULL:
        return Trouble.DISK_FULL
    if primary in _DISK_ERRORS:
        return probe(directory) or (Trouble.DISK_FAILED if primary == sqlite3.SQLITE_IOERR else Trouble.STORE_FAILED)
    return Trouble.STORE_FAILED


def probe(directory: Path) -> Trouble | None:
    """Find out by writing whether a directory's disk takes anything."""
    path = directory / f".probe.{os.getpid()}"
    try:
        with path.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()  # goes on after a part, where a bare write would call that a success
            os.fsync(file.fileno())
    except OSError as error:
        return of_disk(error)
    finally:
        with contextlib.suppress(OSError):  # on a disk that cannot be written there is nothing to remove
            path.unlink(missing_ok=True)
    return None
