"""Keeps one spare device process: everything imported, nothing begun. It turns seconds of restart into one."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Sequence

from batchd_server.supervisor.adopted import AdoptedProcess, Process, kill
from batchd_server.supervisor.child import adopt_orphans
from batchd_server.supervisor.children import Command, describe, start

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between starts of spare processes that die of themselves. Their deaths count for nothing else."""
TAKING_S = 120.0
"""For a spare process to finish importing when it is needed; one that takes longer is given up."""


class Spare:
    """Lives in the supervisor's event loop. `modules`: the one to run first, then others to import."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._process: asyncio.subprocess.Process | None = None
        self._channel: socket.socket | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._made = asyncio.Event()
        self._pausing = False
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The number of the process; None where there is none."""
        return None if self._process is None else self._process.pid

    def keep(self) -> None:
        """See to it that there is one from now on."""
        if not self._closed and (self._keeping is None or self._keeping.done()):
            self._keeping = asyncio.create_task(self._keep())

    async def take(self, arguments: Sequence[str], descriptor: int) -> Process | None:
        """Return a process that runs `main` of the first module, with `descriptor` as the last argument.

        None where there is no spare process that could.
        """
        if self._pausing or self._keeping is None:
            return None
        await self._made.wait()
        process, channel = self._process, self._channel
        if process is None or channel is None or process.returncode is not None:
            return None
        adopt_orphans(True)
        try:
            pid = await self._answer(process, _order(channel, arguments, descriptor))
        except (OSError, ValueError) as error:
            log.warning("the spare process cannot be used: %s", error)
            kill(process)
            return None
        finally:
            adopt_orphans(False)
        if pid != process.pid:
            return _adopted(pid)
        self._let_go()
        return process

    async def ended(self) -> None:
        """Wait until what `close` has killed is gone."""
        if self._process is not None:
            await self._process.wait()

    async def _answer(self, process: asyncio.subprocess.Process, order: Coroutine[None, None, int]) -> int:
        """Wait for the answer, but not for that of a process that has ended."""
        answer = asyncio.create_task(order)
        ended = asyncio.create_task(process.wait())
        done, others = await asyncio.wait((answer, ended), timeout=TAKING_S, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        if answer in done:
            return answer.result()
        raise OSError("it has ended" if ended in done else "it does not answer")

    def close(self) -> None:
        """End it, and keep none from now on."""
        self._closed = True
        if self._keeping is not None:
            self._keeping.cancel()
        self._made.set()
        kill(self._process)

    def _let_go(self) -> None:
        """What was the spare process is none any more."""
        self._process = None
        self._made.clear()
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                ours, theirs = socket.socketpair()
            except OSError as error:  # no more descriptors just now
                log.warning("there is no spare process: %s", error)
                self._made.set()
            else:
                with ours:
                    await self._keep_one(ours, theirs)
            if asyncio.get_running_loop().time() - begun > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            self._pausing = True
            await asyncio.sleep(pause_s)
            self._pausing = False
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _keep_one(self, ours: socket.socket, theirs: socket.socket) -> None:
        """Start a spare process, and return when it has ended."""
        ours.setblocking(False)
        process: asyncio.subprocess.Process | None = None
        with theirs:
            command = Command(
                module="batchd_server.supervisor.spare_process",
                arguments=(str(theirs.fileno()), *self._modules),
                pass_fds=(theirs.fileno(),),
            )
            try:
                process = await start(command)
            except OSError as error:
                log.warning("there is no spare process: %s", error)
        self._process, self._channel = process, ours
        self._made.set()
        if process is not None:
            log.debug("process %d is the spare one", process.pid)
            if self._closed:
                kill(process)
            code = await process.wait()
            log.info("the spare process %s; another is made", describe(code))
        self._made.clear()
        self._process = self._channel = None


def _adopted(pid: int) -> AdoptedProcess:
    """Watch over a fork; one that cannot be watched over must not live.

    Raises:
        OSError: there are no descriptors.
    """
    try:
        return AdoptedProcess(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


async def _order(channel: socket.socket, arguments: Sequence[str], descriptor: int) -> int:
    socket.send_fds(channel, [json.dumps(list(arguments)).encode()], [descriptor])
    answer = b""
    while not answer.endswith(b"\n"):
        part = await asyncio.get_running_loop().sock_recv(channel, 64)
        if not part:
            raise OSError("it has ended")
        answer += part
    return int(answer)
