"""A device of a chosen size on the CPU: real tensors, bytes counted op by op, and a neighbour that takes its share.

Every batch and every warm-up runs under a ledger that raises torch.OutOfMemoryError past what is left: the total, less
what the neighbour holds, less the weights that live. There is no caching allocator and no fragmentation.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from batchd.budget import MemoryReading
from batchd_server.device.memory.cpu import LedgerMeasurement, without_fused_encoder
from batchd_server.device.memory.host import HostProbe
from batchd_server.device.memory.ledger import AllocationLedger
from batchd_server.device.memory.telemetry import Cell, Measurement, Telemetry


class SimulatedMemory:
    """What the device holds. Weights are added on the loader's thread, and read on every other."""

    def __init__(self, total: int, neighbour: Path | None = None) -> None:
        self.total = total
        self._neighbour = neighbour
        self._weights: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}  # by storage, with its bytes

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors for as long as they live.

        Raises:
            torch.OutOfMemoryError: they do not fit. None of them is counted then.
        """
        storages = {
            storage._cdata: storage
            for tensor in tensors
            if tensor.layout is torch.strided and (storage := tensor.untyped_storage())._cdata not in self._weights
        }
        num_bytes = sum(storage.nbytes() for storage in storages.values())
        if num_bytes > self.free:
            raise torch.OutOfMemoryError(f"the tensors take {num_bytes} bytes, {self.free} are free")
        for key, storage in storages.items():

            def leave(_: weakref.ref[torch.UntypedStorage], key: int = key) -> None:
                self._weights.pop(key, None)

            self._weights[key] = (weakref.ref(storage, leave), storage.nbytes())

    @property
    def resident(self) -> int:
        """Bytes that are held while no batch runs."""
        return sum(num_bytes for _, num_bytes in tuple(self._weights.values()))

    @property
    def free(self) -> int:
        """Bytes that nobody holds while no batch runs; a neighbour that takes too much leaves nothing."""
        return max(0, self.total - self.neighbour() - self.resident)

    def neighbour(self) -> int:
        """Return the bytes in the neighbour's file; a missing file, or one that is no number just now, holds none."""
        if self._neighbour is None:
            return 0
        try:
            text = self._neighbour.read_text()
        except (OSError, UnicodeDecodeError):
            return 0
        return int(text) if text.strip().isdecimal() else 0


class SimulatedTelemetry:
    """Readings of the simulated device, and of the host that it runs on."""

    def __init__(self, memory: SimulatedMemory, host: HostProbe) -> None:
        self._memory = memory
        self._host = host

    def read(self, resident: int | None) -> Telemetry:
        """Look once. What a running batch holds is neither free nor the neighbour's: it counts as free."""
        held = self._memory.resident
        neighbour = self._memory.neighbour()
        host = self._host.read()
        return Telemetry(
            memory=MemoryReading(
                total=self._memory.total,
                device_free=max(0, self._memory.total - neighbour - held),
                reserved=held,
                allocated=held,
            ),
            device_used=min(self._memory.total, neighbour + held),
            host_used=host.used,
            host_limit=host.limit,
        )


class SimulatedPeaks:
    """Runs everything under the ledger, and therefore knows the peak of every batch exactly.

    The ledger's own time, about 10 us per op, is part of this device: it burdens every batch alike.
    """

    def __init__(self, memory: SimulatedMemory) -> None:
        self._memory = memory

    @contextmanager
    def measure(self, cell: Cell | None) -> Iterator[Measurement]:
        """Measure one batch, within what is free as it begins."""
        ledger = AllocationLedger(self._memory.free)
        measurement = LedgerMeasurement(ledger, disturbs_timing=False)
        try:
            with without_fused_encoder(), ledger:
                yield measurement
        finally:
            measurement.peak_bytes = ledger.peak

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count a model's weights as long as they live."""
        self._memory.hold(tensors)

    def forget(self, model: str) -> None:
        """Nothing is remembered: every batch is measured."""

    def resident(self) -> int | None:
        """Return the bytes of the weights."""
        return self._memory.resident
