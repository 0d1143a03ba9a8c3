"""Looks at the device a few times a second, off the hot path, and hands every look on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from batchd_server.device.memory.telemetry import Telemetry, TelemetrySource

log = logging.getLogger(__name__)

INTERVAL_S = 0.25


class TelemetrySampler:
    """A daemon thread between `start` and `stop`."""

    def __init__(
        self,
        source: TelemetrySource,
        *,
        resident: Callable[[], int | None],
        deliver: Callable[[Telemetry], None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._source = source
        self._resident = resident
        self._deliver = deliver
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        """Begin looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for the look that is under way."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        failing = False
        while True:
            try:
                telemetry = self._source.read(self._resident())
            except (OSError, RuntimeError):  # a poisoned CUDA context: the executor finds out and ends the process
                if not failing:
                    log.exception("the device's memory cannot be read")
                failing = True
            else:
                failing = False
                self._deliver(telemetry)
            if self._stopping.wait(self._interval_s):
                return
