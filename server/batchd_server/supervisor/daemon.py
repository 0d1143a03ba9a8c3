"""The supervisor's own course: check, bind, start, watch, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from importlib.metadata import version
from pathlib import Path

from batchd_server.bootstrap import Bootstrap
from batchd_server.config.settings import Settings
from batchd_server.supervisor import readiness
from batchd_server.supervisor.children import Child, Command, describe, start
from batchd_server.supervisor.listening import ListenError, is_loopback, listen, url
from batchd_server.supervisor.runtime_directory import runtime_directory

log = logging.getLogger(__name__)

CONFIG_EXIT_CODE = 2
"""Of any process that finds the configuration unusable; no restart cures that."""
FRONTS_NOTICE_S = 0.5
"""After the death of the device process, so that a front's last good news is not taken for new."""
STOP_GRACE_S = 5.0
"""Beyond the drain timeout, for a process to clean up after itself."""


class Daemon:
    """One run of `batchd serve`. `config_source` names where the settings come from, for messages."""

    def __init__(self, settings: Settings, config_source: str) -> None:
        self._settings = settings
        self._config_source = config_source
        self._ended = asyncio.Event()
        self._signals = 0
        self._exit_code = 0
        self._was_ready = False
        self._fronts: list[Child] = []
        self._device: Child | None = None
        self._lost_device = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        with runtime_directory() as directory:
            try:
                listener = listen(self._settings.server.host, self._settings.server.port)
            except ListenError as error:
                sys.stderr.write(f"{error}\n")
                return 1
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
            log.warning("%s can be reached from other machines, without encryption or keys", base_url)
        log.info(
            "starting at %s: device %s, loading %s",
            base_url,
            self._settings.device.name,
            ", ".join(name for name, model in self._settings.models.items() if model.load) or "no model yet",
        )
        self._device = Child(
            "the device process",
            Command(module="batchd_server.device.process", arguments=self._bootstrap(directory, "device")),
            on_exit=self._on_device_exit,
        )
        self._fronts = [self._front(index, listener, directory) for index in range(self._settings.server.fronts)]
        runs = [asyncio.create_task(child.run()) for child in (self._device, *self._fronts)]
        for run in runs:
            run.add_done_callback(self._on_run_done)
        watch = asyncio.create_task(self._watch_readiness(base_url))
        await self._ended.wait()
        watch.cancel()
        # from here on connections are refused: no front will accept those that would wait in the queue
        listener.close()
        await self._stop()
        await asyncio.gather(*runs, return_exceptions=True)
        return self._exit_code

    async def _stop(self) -> None:
        grace_s = self._settings.server.drain_timeout_s + STOP_GRACE_S
        await asyncio.gather(*(front.stop(grace_s) for front in self._fronts))
        if self._device is not None:
            await self._device.stop(STOP_GRACE_S)

    def _front(self, index: int, listener: socket.socket, directory: Path) -> Child:
        arguments = self._bootstrap(directory, f"front-{index}", front_index=index, listen_fd=listener.fileno())
        # fronts run no model: one thread each, and no context on the GPU
        environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = Command(
            module="batchd_server.front.process",
            arguments=arguments,
            pass_fds=(listener.fileno(),),
            environment=environment,
        )
        return Child(f"front process {index}", command, on_exit=self._on_front_exit)

    def _bootstrap(
        self, directory: Path, name: str, *, front_index: int | None = None, listen_fd: int | None = None
    ) -> tuple[str, str]:
        path = directory / f"{name}.json"
        Bootstrap(
            settings=self._settings,
            link_address=f"ipc://{directory}/link",
            front_index=front_index,
            listen_fd=listen_fd,
            config_source=self._config_source,
        ).write(path)
        return "--bootstrap", str(path)

    async def _watch_readiness(self, base_url: str) -> None:
        while True:
            await readiness.ready(base_url)
            for child in self._children():
                child.worked()
            if self._was_ready:
                log.info("ready again")
            else:
                self._was_ready = True
                await self._print_ready(base_url)
            await self._lost_device.wait()
            self._lost_device.clear()
            await asyncio.sleep(FRONTS_NOTICE_S)

    async def _print_ready(self, base_url: str) -> None:
        device = await readiness.device_name(base_url) or self._settings.device.name
        models = ", ".join(self._settings.models)
        # the one line that scripts wait for
        sys.stdout.write(f"batchd {version('batchd')} ready at {base_url} (device {device}, models: {models})\n")
        sys.stdout.flush()

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
        self._ended.set()

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
        return (*self._fronts, *(() if self._device is None else (self._device,)))

    def _end(self, code: int) -> None:
        self._exit_code = code
        self._ended.set()
