"""What the device process was doing when it died: a file that outlives it, read by the next one.

Before anything runs it is noted here, and the note is replaced when it is over. The file is mapped, so that a note
costs microseconds and is in the kernel's hands at once: no way to die takes it along. Every subject has two places that
are written in turn, each under a number and a checksum, so that a note that was cut short is recognised and the one
before it holds. Must not know what a batch or a job is, beyond their names.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec

from batchd_server.link.messages import Fallen, RunningItem
from batchd_server.supervisor.standing import DeviceStanding

log = logging.getLogger(__name__)

FILE = "black-box"
PLACE_BYTES = 65536
"""For one note: some three thousand items."""
MOST_EARLIER = 8
"""Deaths that are told of: a front may have missed some processes, not many."""

_HEAD = struct.Struct("<QII")  # number of the note, length, checksum of both and the note


class _Subject(IntEnum):
    """What notes are about. Each is written by one thread at a time."""

    ORIGIN = 0
    BATCH = 1
    JOB = 2
    BESIDE = 3


class _Origin(msgspec.Struct, frozen=True):
    """Whose file it is, and what that process knew of those before it."""

    incarnation: str
    pid: int
    earlier: tuple[Fallen, ...]


_SIZE = 2 * len(_Subject) * PLACE_BYTES


class BlackBox:
    """The notes of one device process. The default one is kept nowhere: for tests, and where there is no room."""

    def __init__(self, memory: mmap.mmap | None = None, fallen: tuple[Fallen, ...] = ()) -> None:
        self.incarnation = secrets.token_hex(8)
        self.fallen = fallen
        """How the processes before this one ended, the latest last."""
        self._memory = mmap.mmap(-1, _SIZE) if memory is None else memory
        self._numbers = dict.fromkeys(_Subject, 0)
        self._batch: tuple[RunningItem, ...] = ()
        self._beside: list[str] = []
        self._besides = threading.Lock()
        while not self._note(_Subject.ORIGIN, _Origin(self.incarnation, os.getpid(), fallen)):
            fallen = fallen[1:]
        self._note(_Subject.BATCH, ())
        self._note(_Subject.JOB, "")
        self._note(_Subject.BESIDE, ())

    @classmethod
    def open(cls, directory: Path) -> BlackBox:
        """Read the box of the process before this one, if there was one, and put a new one in its place."""
        path = directory / FILE
        fallen = fallen_before(path, DeviceStanding.read(directory))
        part = path.with_name(f"{FILE}.part")
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _SIZE)  # a disk that is full must not end us later, by SIGBUS
                memory = mmap.mmap(descriptor, _SIZE)
            finally:
                os.close(descriptor)
            box = cls(memory, fallen)
            part.replace(path)
        except OSError as error:
            log.warning("what kills the device process cannot be found out: no black box, %s", error.strerror)
            return cls(None, fallen)
        return box

    # ---- notes -------------------------------------------------------------------------------------------------------

    def batch(self, items: Iterable[RunningItem]) -> None:
        """These items are about to run as one batch."""
        self._batch = tuple(items)
        self._note(_Subject.BATCH, self._batch)

    def rerun(self, position: int) -> None:
        """Of the batch that failed, the item at `position` is about to run again, alone. From the executor's thread."""
        self._note(_Subject.BATCH, self._batch[position : position + 1])

    def batch_over(self) -> None:
        """No batch runs any more."""
        self._batch = ()
        self._note(_Subject.BATCH, ())

    def job(self, job: str) -> None:
        """A quantum of this training job is about to run."""
        self._note(_Subject.JOB, job)

    def job_over(self) -> None:
        """No quantum runs any more."""
        self._note(_Subject.JOB, "")

    @contextmanager
    def beside(self, what: str) -> Iterator[None]:
        """While in here, a user's code runs on this other thread: it may end the process as well as any batch."""
        with self._besides:
            self._beside.append(what)
            self._note(_Subject.BESIDE, tuple(self._beside))
        try:
            yield
        finally:
            with self._besides:
                self._beside.remove(what)
                self._note(_Subject.BESIDE, tuple(self._beside))

    def _note(self, subject: _Subject, what: Any) -> bool:
        """Write a note in the place of the one before the last; False where it is too long and says so instead."""
        data = msgspec.msgpack.encode(what)
        fits = len(data) <= PLACE_BYTES - _HEAD.size
        if not fits:
            data = msgspec.msgpack.encode(None)
        number = self._numbers[subject] = self._numbers[subject] + 1
        place = (2 * subject + number % 2) * PLACE_BYTES
        self._memory[place + _HEAD.size : place + _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, place, number, len(data), _checksum(number, data))
        return fits


def fallen_before(path: Path, standing: DeviceStanding | None) -> tuple[Fallen, ...]:
    """Return how the process whose box is at `path` ended, after those that it knew of; empty where there is none."""
    try:
        content = path.read_bytes()
    except OSError:
        return ()
    origin = _read(content, _Subject.ORIGIN, _Origin)
    if origin is None:
        return ()
    last_exit = None
    if standing is not None and standing.last_pid in (None, origin.pid):
        last_exit = standing.last_exit
    beside = _read(content, _Subject.BESIDE, tuple[str, ...])
    fallen = Fallen(
        incarnation=origin.incarnation,
        exit=last_exit,
        running=_read(content, _Subject.BATCH, tuple[RunningItem, ...]),
        job=_read(content, _Subject.JOB, str) or "",
        beside=("what cannot be told",) if beside is None else beside,
    )
    return (*origin.earlier, fallen)[-MOST_EARLIER:]


def _read(content: bytes, subject: _Subject, kind: Any) -> Any:
    """Return the latest whole note about `subject`; None where there is none, or where it was too long."""
    notes: list[tuple[int, bytes]] = []
    for place in (2 * subject * PLACE_BYTES, (2 * subject + 1) * PLACE_BYTES):
        head = content[place : place + _HEAD.size]
        if len(head) < _HEAD.size:
            continue
        number, length, checksum = _HEAD.unpack(head)
        data = content[place + _HEAD.size : place + _HEAD.size + length]
        if number > 0 and length <= PLACE_BYTES and len(data) == length and _checksum(number, data) == checksum:
            notes.append((number, data))
    if not notes:
        return None
    try:
        return msgspec.msgpack.decode(max(notes)[1], type=kind | None)
    except msgspec.MsgspecError:
        return None


def _checksum(number: int, data: bytes) -> int:
    return zlib.crc32(data, number & 0xFFFFFFFF)
