"""The CPU as a device: memory of the cgroup or machine, and per-batch peaks from the ledger."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from batchd.budget import MemoryReading
from batchd_server.device.memory.host import HostProbe
from batchd_server.device.memory.ledger import AllocationLedger
from batchd_server.device.memory.telemetry import Cell, Measurement, Telemetry

SAMPLE_EVERY = 512
"""Runs of one cell between two measured ones: peaks on the CPU depend on shapes alone, so this only guards."""


class CpuTelemetry:
    """Readings of the host, seen as a device."""

    def __init__(self, host: HostProbe) -> None:
        self._host = host

    def read(self, resident: int | None) -> Telemetry:
        """Look once."""
        held = self._host.resident()  # before the free memory: an allocation in between must not count twice
        host = self._host.read()
        return Telemetry(
            memory=MemoryReading(
                total=host.limit,
                device_free=host.free,
                reserved=held,
                allocated=held if resident is None else resident,
            ),
            device_used=host.used,
            host_used=host.used,
            host_limit=host.limit,
        )


class LedgerPeaks:
    """Measures the first run of every cell and one in `sample_every` after it."""

    def __init__(self, host: HostProbe, *, sample_every: int = SAMPLE_EVERY, limit_bytes: int | None = None) -> None:
        self._host = host
        self._sample_every = sample_every
        self._limit_bytes = limit_bytes
        self._runs: Counter[Cell] = Counter()

    @contextmanager
    def measure(self, cell: Cell | None) -> Iterator[Measurement]:
        """Measure one batch, if it is due."""
        if cell is None:
            yield Measurement()
            return
        due = self._runs[cell] % self._sample_every == 0
        self._runs[cell] += 1
        if not due:
            yield Measurement()
            return
        ledger = AllocationLedger(self._limit_bytes)
        measurement = LedgerMeasurement(ledger, disturbs_timing=True)
        try:
            with without_fused_encoder(), ledger:
                yield measurement
        finally:
            measurement.peak_bytes = ledger.peak

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """The resident set tells."""

    def forget(self, model: str) -> None:
        """Measure the next run of every cell of a model."""
        for cell in [cell for cell in self._runs if cell[0] == model]:
            del self._runs[cell]

    def resident(self) -> int | None:
        """Return the resident set."""
        return self._host.resident()


class _FusedEncoder:
    """torch's switch, which is one for all threads: off while anybody measures, then as it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measuring = 0
        self._before = True

    def leave_out(self) -> None:
        with self._lock:
            if self._measuring == 0:
                self._before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._measuring += 1

    def put_back(self) -> None:
        with self._lock:
            self._measuring -= 1
            if self._measuring == 0:
                torch.backends.mha.set_fastpath_enabled(self._before)


_FUSED_ENCODER = _FusedEncoder()


@contextmanager
def without_fused_encoder() -> Iterator[None]:
    """Run encoder layers op by op: the fused one would hide its temporaries from the ledger."""
    _FUSED_ENCODER.leave_out()
    try:
        yield
    finally:
        _FUSED_ENCODER.put_back()


class LedgerMeasurement(Measurement):
    """A measurement that hears of tensors born outside torch."""

    def __init__(self, ledger: AllocationLedger, *, disturbs_timing: bool) -> None:
        super().__init__(disturbs_timing=disturbs_timing)
        self._ledger = ledger

    def adopt(self, batch: Any) -> None:
        """Count the batch's tensors."""
        self._ledger.adopt(batch)
