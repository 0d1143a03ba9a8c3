"""A process that the supervisor did not start itself but is the parent of: a fork of its spare process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Protocol


class Process(Protocol):
    """What is needed of a running process; asyncio's own subprocesses are such."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    @property
    def returncode(self) -> int | None:
        """Its exit code (negative: the signal); None while it runs."""
        ...

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        ...

    def send_signal(self, signal: int) -> None:
        """Send it a signal."""
        ...


class AdoptedProcess:
    """Made in the event loop that is to watch over it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._descriptor, self._reap)

    async def wait(self) -> int:
        """Wait for its end and return the exit code (negative: the signal)."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, signal: int) -> None:
        """Send it a signal, if it still runs."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal)

    def _reap(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._ended.set()


def kill(process: Process | None) -> None:
    """End a process at once, if there is one and it still runs."""
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
