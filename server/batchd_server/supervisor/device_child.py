"""The device process under supervision: its spare, its pulse, and its standing, which everybody can read."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from batchd_server.config.settings import Settings
from batchd_server.device.black_box import FILE as BLACK_BOX
from batchd_server.device.black_box import fallen_before
from batchd_server.supervisor.adopted import Process, kill
from batchd_server.supervisor.children import Child, Command, death_of, describe, not_started, start
from batchd_server.supervisor.pulse import Beat, Silence
from batchd_server.supervisor.restarts import Death
from batchd_server.supervisor.spare import Spare
from batchd_server.supervisor.standing import DeviceStanding

log = logging.getLogger(__name__)

MODULE = "batchd_server.device.process"
COMPILER = "torch._dynamo"
"""Imported by torch itself when the first tensor goes to a device, which takes over a second."""
LOOK_S = 0.25
LOADING_FACTOR = 6.0
"""A process that loads models may be silent for so many times as long: unpickling holds Python's lock."""
DOUBTS = 4
"""From so many deaths in a row on, every other process imports everything anew: what the spare one has imported may be
what is wrong."""


class DeviceChild(Child):
    """A `Child` whose standing is written down at every change, before the next start."""

    MEANWHILE = "requests are answered with 503"

    def __init__(
        self,
        command: Command,
        *,
        directory: Path,
        hang_timeout_s: float,
        spare: Spare | None,
        on_exit: Callable[[int], bool],
    ) -> None:
        super().__init__("the device process", command, on_exit=on_exit)
        self._directory = directory
        self._hang_timeout_s = hang_timeout_s
        self._spare = spare
        self._standing = DeviceStanding(state="starting")
        self._watch: asyncio.Task[None] | None = None
        self._reading: int | None = None  # the end of the pipe that the present process beats into
        self._silent = False
        self._write(self._standing)

    async def stop(self, grace_s: float, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the process to end, and kill it if it has not within `grace_s`. Its spare ends at once."""
        if self._spare is not None:
            self._spare.close()
        await super().stop(grace_s, number)
        if self._spare is not None:
            await self._spare.ended()

    def kill(self) -> None:
        """End the process and its spare at once."""
        if self._spare is not None:
            self._spare.close()
        super().kill()

    async def _spawn(self) -> Process:
        self._silent = False
        self._write(msgspec.structs.replace(self._standing, next_start_s=None))
        self._close_pipe()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._reading = reading
        arguments = (*self._command.arguments, "--pulse")
        try:
            process = await self._take_spare(arguments, writing) or await start(
                Command(
                    module=self._command.module,
                    arguments=(*arguments, str(writing)),
                    pass_fds=(*self._command.pass_fds, writing),
                    environment=self._command.environment,
                )
            )
        finally:
            os.close(writing)
        self._watch = asyncio.create_task(self._listen(process, reading))
        return process

    async def _take_spare(self, arguments: Sequence[str], descriptor: int) -> Process | None:
        in_a_row = self._restarts.deaths_in_a_row
        if self._spare is None or (in_a_row >= DOUBTS and in_a_row % 2 == 0):
            return None
        self._spare.keep()  # the first device process comes from it, too, and shares its memory
        return await self._spare.take(arguments, descriptor)

    def _not_started(self, error: OSError) -> float:
        delay_s = super()._not_started(error)
        self._note_death(delay_s, self._standing.last_exit, self._standing.last_pid, not_started(error))
        return delay_s

    def _died(self, code: int) -> float:
        now = time.monotonic()
        if self._reading is not None:  # what it told in its last moments
            self._on_beat(_latest(self._reading))
        words = describe(code)
        if self._silent:
            words = f"gave no sign of life for {self._hang_timeout_s:g} s and was killed"
        delay_s = self._restarts.died(self._blame(code), now)
        self._note_death(delay_s, code, None if self._process is None else self._process.pid, words)
        self._tell_of_death(words, delay_s)
        return delay_s

    def _note_death(self, delay_s: float, code: int | None, pid: int | None, words: str) -> None:
        self._write(
            DeviceStanding(
                state="crash_loop" if self._restarts.is_crash_loop else "restarting",
                deaths=self._standing.deaths + 1,
                deaths_in_a_row=self._restarts.deaths_in_a_row,
                last_exit=code,
                last_pid=pid,
                last_death=words,
                next_start_s=time.time() + delay_s,
            )
        )

    def _blame(self, code: int) -> Death:
        if self._silent:
            return Death.HUNG
        death = death_of(code)
        return Death.AT_WORK if death is Death.OWN and ran_at_its_end(self._directory) else death

    async def _listen(self, process: Process, descriptor: int) -> None:
        """Follow the pulse of one process until it ends, or until it has to be ended."""
        silence: Silence | None = None  # from the first sign of life on: importing may take as long as it takes
        heard = Beat(0)
        while process.returncode is None and not self._stopping.is_set():
            now = time.monotonic()
            beat = _latest(descriptor)
            if beat:
                heard |= beat
                self._on_beat(beat)
                silence = silence or Silence(now)
                silence.heard(now)
            elif silence is not None and self._is_hung(process, heard, silence.look(now)):
                self._silent = True
                kill(process)
                return
            await asyncio.sleep(LOOK_S)

    def _close_pipe(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._reading is not None:
            os.close(self._reading)
            self._reading = None

    def _is_hung(self, process: Process, heard: Beat, silent_s: float) -> bool:
        if silent_s <= self._hang_timeout_s:
            return False
        loads = not heard & Beat.READY or loads_something(self._directory)
        return not loads or is_stopped(process.pid) or silent_s > LOADING_FACTOR * self._hang_timeout_s

    def _on_beat(self, beat: Beat) -> None:
        if beat & Beat.ANSWERED:
            self._restarts.answered()
        if not beat & Beat.READY:
            return
        now = time.monotonic()
        self._restarts.ready(now)
        in_a_row = 0 if self._restarts.lasts(now) else self._standing.deaths_in_a_row
        if self._standing.state != "running" or in_a_row != self._standing.deaths_in_a_row:
            self._write(msgspec.structs.replace(self._standing, state="running", deaths_in_a_row=in_a_row))
        if self._spare is not None:
            self._spare.keep()  # not before, so as not to compete with what everybody waits for

    def _write(self, standing: DeviceStanding) -> None:
        self._standing = standing
        try:
            standing.write(self._directory)
        except OSError as error:  # a full disk must not end supervision
            log.warning("how the device process stands cannot be written down: %s", error)


def device_child(
    settings: Settings, arguments: Sequence[str], directory: Path, *, on_exit: Callable[[int], bool]
) -> DeviceChild:
    """Return the device process of a daemon, not yet started; `directory` is the daemon's runtime directory."""
    entrypoints = {model.entrypoint.partition(":")[0]: None for model in settings.models.values()}
    return DeviceChild(
        Command(module=MODULE, arguments=arguments),
        directory=directory,
        hang_timeout_s=settings.device.hang_timeout_s,
        spare=Spare((MODULE, COMPILER, *entrypoints)) if settings.server.spare else None,
        on_exit=on_exit,
    )


def ran_at_its_end(directory: Path) -> bool:
    """Return whether the last device process had a batch on the device when it ended, as its black box tells."""
    fallen = fallen_before(directory / BLACK_BOX, None)
    return bool(fallen and fallen[-1].running)


def loads_something(directory: Path) -> bool:
    """Return whether the device process loads a model or builds a job, beside serving, as its black box tells."""
    fallen = fallen_before(directory / BLACK_BOX, None)
    return bool(fallen and fallen[-1].beside)


def is_stopped(pid: int) -> bool:
    """Return whether a process was told to stop (SIGSTOP) or is held by a debugger."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")


def _latest(descriptor: int) -> Beat:
    """Return what the bytes that have come since the last look tell together; nothing where none have."""
    heard = Beat(0)
    try:
        while part := os.read(descriptor, 4096):
            for byte in part:
                heard |= Beat(byte)
    except BlockingIOError:
        pass  # all has been read
    return heard
