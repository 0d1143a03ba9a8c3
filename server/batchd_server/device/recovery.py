"""What is done once something has failed on the device: is it still there, and what memory has come back?"""

from __future__ import annotations

import gc
import logging

import torch

from batchd.budget import MemoryReading
from batchd_server.device.failures import Failure, FailureKind
from batchd_server.device.memory.telemetry import PeakMeter, TelemetrySource

log = logging.getLogger(__name__)


class Recovery:
    """For the thread that runs models."""

    def __init__(self, device: torch.device, peaks: PeakMeter, telemetry: TelemetrySource | None) -> None:
        self._device = device
        self._peaks = peaks
        self._telemetry = telemetry

    def synchronise(self) -> None:
        """Wait for the kernels, so that the time is the device's and an error belongs to what ran."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def lost(self, failure: Failure) -> bool:
        """Whether the device is poisoned: some errors say so, others show it by the next call failing too."""
        if failure.kind is FailureKind.DEVICE_LOST:
            return True
        if failure.kind is FailureKind.OUT_OF_MEMORY or self._device.type != "cuda":
            return False
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:
            return True
        return False

    def release(self) -> None:
        """Give back what the failed batch held. Called where no exception refers to it any more."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def fresh_reading(self) -> MemoryReading | None:
        """Look at the device now that the failed batch is gone; the sampler may have looked before it was in need."""
        if self._telemetry is None:
            return None
        try:
            return self._telemetry.read(self._peaks.resident()).memory
        except (OSError, RuntimeError) as error:
            log.warning("the device's memory cannot be read: %s", error)
            return None
