"""The supervisor's own course: check, bind, start, watch, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from importlib.metadata import version
from pathlib import Path

from batchd_server.bootstrap import Bootstrap
from batchd_server.config.settings import Settings
from batchd_server.supervisor import readiness
from batchd_server.supervisor.children import Child, Command, describe, start
from batchd_server.supervisor.device_child import device_child
from batchd_server.supervisor.front_child import FrontChild
from batchd_server.supervisor.fronts import Fronts
from batchd_server.supervisor.listening import ListenError, is_loopback, listen, url
from batchd_server.supervisor.own_key import with_own_key
from batchd_server.supervisor.runtime_directory import runtime_directory
from batchd_server.supervisor.stopping import ARRIVALS_S, END_GRACE_S, LEAVE, note_stop, save_limit_s

log = logging.getLogger(__name__)

CONFIG_EXIT_CODE = 2
"""Of any process that finds the configuration unusable; no restart cures that."""
FRONTS_NOTICE_S = 0.5
"""After the death of the device process, so that a front's last good news is not taken for new."""


class Daemon:
    """One run of `batchd serve`. `config_source` names where the settings come from, for messages."""

    def __init__(self, settings: Settings, config_source: str) -> None:
        self._settings, self._key = with_own_key(settings)
        self._config_source = config_source
        self._ended = asyncio.Event()
        self._signals = 0
        self._exit_code = 0
        self._was_ready = False
        self._killed = asyncio.Event()
        self._fronts: Fronts | None = None
        self._device: Child | None = None
        self._lost_device = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup, os.isatty(0))
        with runtime_directory() as directory:
            try:
                server = self._settings.server
                open_to_all = server.insecure or bool(self._settings.security.keys)
                listener = listen(server.host, server.port, loopback_only=not open_to_all)
            except ListenError as error:
                sys.stderr.write(f"{error}\n")
                return error.exit_code
            with listener:
                code = await self._check_models(directory)
                if code != 0 or self._signals:
                    return code
                return await self._serve(listener, directory)

    async def _check_models(self, directory: Path) -> int:
        """Return 0, or the exit code after the problems have been printed."""
        arguments = self._bootstrap(directory, "check")
        check = await start(Command(module="batchd_server.config.model_check", arguments=arguments))
        exited = asyncio.create_task(check.wait())
        stopped = asyncio.create_task(self._ended.wait())
        await asyncio.wait((exited, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                check.kill()
            await exited
            return self._exit_code
        code = await exited
        if code not in (0, CONFIG_EXIT_CODE):
            log.error("the check of the models %s", describe(code))
            return 1
        return code

    async def _serve(self, listener: socket.socket, directory: Path) -> int:
        base_url = url(listener)
        if not is_loopback(listener):
            keys = "" if self._settings.security.keys else " or keys"
            log.warning("%s can be reached from other machines, without encryption%s", base_url, keys)
        log.info(
            "starting at %s: device %s, loading %s",
            base_url,
            self._settings.device.name,
            ", ".join(name for name, model in self._settings.models.items() if model.load) or "no model yet",
        )
        self._device = device_child(
            self._settings, self._bootstrap(directory, "device"), directory, on_exit=self._on_device_exit
        )
        device_run = asyncio.create_task(self._device.run())
        device_run.add_done_callback(self._on_run_done)
        self._fronts = Fronts(
            self._settings.server.fronts,
            drain_timeout_s=self._settings.server.drain_timeout_s,
            directory=directory,
            make=lambda index, serves: self._front(index, listener, directory, serves),
            on_done=self._on_run_done,
        )
        watch = asyncio.create_task(self._watch_readiness(base_url))
        watch.add_done_callback(self._on_run_done)
        await self._ended.wait()
        watch.cancel()
        await self._stop(self._fronts, self._device, listener, directory)
        await asyncio.gather(device_run, return_exceptions=True)
        return self._exit_code

    async def _stop(self, fronts: Fronts, device: Child, listener: socket.socket, directory: Path) -> None:
        """End in order: whoever asks before whoever answers. The device process saves training meanwhile."""
        server = self._settings.server
        end_by = asyncio.get_running_loop().time() + save_limit_s(server.drain_delay_s, server.drain_timeout_s)
        note_stop(directory)
        fronts.leave()
        device.send(LEAVE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ARRIVALS_S + (server.drain_delay_s if self._was_ready else 0.0)):
                await self._killed.wait()
        ended = asyncio.create_task(fronts.stop())
        await asyncio.sleep(0)  # none is started any more
        # the fronts still accept; when the last of them has ended, connections are refused
        listener.close()
        await ended
        await device.stop(max(0.0, end_by - asyncio.get_running_loop().time()) + END_GRACE_S)

    def _front(self, index: int, listener: socket.socket, directory: Path, serves: Path) -> FrontChild:
        arguments = self._bootstrap(
            directory, serves.stem, front_index=index, listen_fd=listener.fileno(), serves_file=serves
        )
        # fronts run no model: one thread each, and no context on the GPU
        environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = Command(
            module="batchd_server.front.process",
            arguments=arguments,
            pass_fds=(listener.fileno(),),
            environment=environment,
        )
        return FrontChild(f"front process {index}", command, serves, on_exit=self._on_front_exit)

    def _bootstrap(
        self,
        directory: Path,
        name: str,
        *,
        front_index: int | None = None,
        listen_fd: int | None = None,
        serves_file: Path | None = None,
    ) -> tuple[str, str]:
        path = directory / f"{name}.json"
        Bootstrap(
            settings=self._settings,
            link_address=f"ipc://{directory}/link",
            front_index=front_index,
            listen_fd=listen_fd,
            serves_file=serves_file,
            config_source=self._config_source,
        ).write(path)
        return "--bootstrap", str(path)

    async def _watch_readiness(self, base_url: str) -> None:
        while True:
            await readiness.ready(base_url)
            if self._was_ready:
                log.info("ready again")
            else:
                self._was_ready = True
                await self._print_ready(base_url)
            await self._lost_device.wait()
            self._lost_device.clear()
            await asyncio.sleep(FRONTS_NOTICE_S)

    async def _print_ready(self, base_url: str) -> None:
        device = await readiness.device_name(base_url, self._key) or self._settings.device.name
        models = ", ".join(self._settings.models)
        # the one line that scripts wait for
        line = f"batchd {version('batchd')} ready at {base_url} (device {device}, models: {models})"
        try:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        except OSError as error:  # a closed pipe or a full disk is no reason not to serve
            log.warning("%s (standard output: %s)", line, error.strerror)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals == 1:
            log.info(
                "%s: finishing what is in flight, for up to %g s; once more to stop at once",
                number.name,
                self._settings.server.drain_timeout_s,
            )
        else:
            log.warning("%s: stopping at once", number.name)
            self._exit_code = 128 + number
            for child in self._children():
                child.kill()
            self._killed.set()
        self._ended.set()

    def _on_hangup(self, had_terminal: bool) -> None:
        if had_terminal and not os.isatty(0):  # not an order: the terminal has been closed
            self._on_signal(signal.SIGHUP)
        elif self._fronts is None or not self._was_ready:
            log.warning("SIGHUP: nothing to replace before the start is over")
        else:
            self._fronts.roll()

    def _on_device_exit(self, code: int) -> bool:
        self._lost_device.set()
        return self._on_front_exit(code)

    def _on_front_exit(self, code: int) -> bool:
        if code == CONFIG_EXIT_CODE and not self._was_ready:
            self._end(code)
            return False
        return True

    def _on_run_done(self, run: asyncio.Task[None]) -> None:
        if not run.cancelled() and run.exception() is not None:
            log.error("supervision failed", exc_info=run.exception())
            self._end(1)

    def _children(self) -> tuple[Child, ...]:
        fronts = () if self._fronts is None else tuple(self._fronts)
        return (*fronts, *(() if self._device is None else (self._device,)))

    def _end(self, code: int) -> None:
        self._exit_code = code
        self._ended.set()
