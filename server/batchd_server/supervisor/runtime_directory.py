"""The private directory that holds the link's socket and the hand-over files; gone when the supervisor is.

A supervisor that was killed leaves its directory behind, so every start removes those whose lock nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "batchd-"
_LOCK = "lock"
_LONGEST_SOCKET_PATH = 100
"""The kernel takes 107 bytes for a Unix socket's path."""


@contextmanager
def runtime_directory() -> Iterator[Path]:
    """Make a directory that only this user can enter, hold it, and remove it at the end."""
    parent = _parent()
    _remove_abandoned(parent)
    directory = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))  # mode 0700
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # what clears out /tmp by age (tmpfiles.d) leaves alone a directory that is itself locked
    whole = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.flock(whole, fcntl.LOCK_SH)
        # only now does it get a name that other starts look at
        directory = directory.rename(directory.with_name(directory.name.removeprefix(".")))
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(whole)
        os.close(lock)


def _parent() -> Path:
    candidate = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    usable = candidate.is_dir() and os.access(candidate, os.W_OK) and len(str(candidate)) + 32 <= _LONGEST_SOCKET_PATH
    return candidate if usable else Path("/tmp")  # noqa: S108 - mkdtemp makes the name unguessable


def _remove_abandoned(parent: Path) -> None:
    for directory in parent.glob(f"{PREFIX}*"):
        try:
            if directory.is_symlink() or directory.stat().st_uid != os.getuid():
                continue
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # not a runtime directory, or just now removed by another start
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except BlockingIOError:
            continue  # in use
        finally:
            os.close(lock)
