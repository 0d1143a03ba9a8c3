"""One supervised process: started, watched, started again, and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from batchd_server.device.failures import EXIT_DEVICE_LOST, EXIT_HUNG
from batchd_server.supervisor.adopted import Process
from batchd_server.supervisor.child import SUPERVISOR_VARIABLE
from batchd_server.supervisor.restarts import Death, Restarts

log = logging.getLogger(__name__)

_SENT_BY_OTHERS = frozenset(-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
"""Exit codes; a memory that ran full also ends in SIGKILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run: `python -m module arguments`, with these descriptors kept open and these variables added."""

    module: str
    arguments: Sequence[str]
    pass_fds: Sequence[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


async def start(command: Command) -> asyncio.subprocess.Process:
    """Start a process whose life is tied to this one's."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "batchd_server.supervisor.child",
        command.module,
        *command.arguments,
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=tuple(command.pass_fds),
        process_group=0,  # Ctrl-C reaches a whole group; the supervisor alone decides what it means
        env={**os.environ, **command.environment, SUPERVISOR_VARIABLE: str(os.getpid())},
    )


class Child:
    """Keeps one process running until it is stopped.

    `on_exit` is told each unwanted death's exit code (negative: the signal) and says whether another start can help.
    """

    MEANWHILE = "nobody does its work"
    """While it does not come up, for the log."""

    def __init__(self, name: str, command: Command, *, on_exit: Callable[[int], bool]) -> None:
        self.name = name
        self._command = command
        self._on_exit = on_exit
        self._restarts = Restarts()
        self._process: Process | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start, and start again with growing delays, until `stop` or `kill` has taken effect."""
        while not self._stopping.is_set():
            try:
                self._process = await self._spawn()
            except OSError as error:  # no more processes or descriptors just now
                await self._pause(self._not_started(error))
                continue
            if self._stopping.is_set():  # asked to stop between the two
                self._signal(signal.SIGKILL)
            log.debug("%s runs as process %d", self.name, self._process.pid)
            code = await self._process.wait()
            if self._stopping.is_set():
                return
            if not self._on_exit(code):
                log.error("%s %s", self.name, describe(code))
                return
            await self._pause(self._died(code))

    def send(self, number: signal.Signals) -> None:
        """Tell the process something; nobody hears it while there is none."""
        self._signal(number)

    async def stop(self, grace_s: float, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the process to end, and kill it if it has not within `grace_s`."""
        self._stopping.set()
        if self._process is None:
            return
        self._signal(number)
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            log.error("%s did not end within %g s: killed", self.name, grace_s)
            self._signal(signal.SIGKILL)
            await self._process.wait()

    def kill(self) -> None:
        """End the process at once."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    async def _spawn(self) -> Process:
        return await start(self._command)

    def _not_started(self, error: OSError) -> float:
        """Count a start that failed and return how long to wait before the next."""
        delay_s = self._restarts.died(Death.OWN, time.monotonic())
        self._tell_of_death(not_started(error), delay_s)
        return delay_s

    def _died(self, code: int) -> float:
        """Count an unwanted death and return how long to wait before the next start."""
        delay_s = self._restarts.died(death_of(code), time.monotonic())
        self._tell_of_death(describe(code), delay_s)
        return delay_s

    def _tell_of_death(self, words: str, delay_s: float) -> None:
        again = f"in {delay_s:.1f} s" if delay_s else "at once"
        log.error("%s %s; starting it again %s", self.name, words, again)
        if self._restarts.is_crash_loop:
            log.error("%s is in a crash loop: %s until it comes up", self.name, self.MEANWHILE)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _pause(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            return


def not_started(error: OSError) -> str:
    """Return in words why a process could not be started."""
    return f"could not be started ({error.strerror or error})"


def describe(code: int) -> str:
    """Return an exit code in words."""
    if code == EXIT_DEVICE_LOST:
        return f"lost its device (exit code {code})"
    if code == EXIT_HUNG:
        return f"hung: what it ran did not end (exit code {code})"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def death_of(code: int) -> Death:
    """Return what an exit code says about who is to blame."""
    if code == EXIT_HUNG:
        return Death.HUNG
    return Death.KILLED if code in _SENT_BY_OTHERS else Death.OWN
