"""The spatial split: training on CPU cores of its own, at the same time as inference instead of between its batches.

A controller that serves no models lends these cores, so no promise bounds a lease and only `share_max` counts. It
must not know what a job is.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from batchd.budget import MemoryReading
from batchd.controller import Controller
from batchd.decision import RunMicrobatch, Wait
from batchd.leasing.demand import Quantum
from batchd.leasing.lease_snapshot import LeaseSnapshot
from batchd.snapshot import ControllerSnapshot
from batchd_server.config.policies import training_controller
from batchd_server.config.settings import Settings
from batchd_server.device.executor import Executor
from batchd_server.device.hang_watch import Running
from batchd_server.device.memory.cpu import LedgerPeaks
from batchd_server.device.memory.host import HostProbe
from batchd_server.device.selection import SelectedDevice
from batchd_server.device.training.quantum_work import TrainWork
from batchd_server.device.work import Done

log = logging.getLogger(__name__)


class QuantumExecutor(Protocol):
    """The thread that quanta run on."""

    def start(self) -> None:
        """Begin to take work."""
        ...

    def stop(self, timeout_s: float) -> bool:
        """Finish what was submitted, then end; False where that takes longer."""
        ...

    def submit(self, work: TrainWork) -> None:
        """Queue `work`; returns at once."""
        ...

    def running(self) -> Running | None:
        """Return what runs now; None while nothing does."""
        ...


class SpatialSplit:
    """The cores that training has to itself. The engine's thread owns it."""

    def __init__(self, controller: Controller, executor: QuantumExecutor) -> None:
        self.controller = controller
        self._executor = executor

    @classmethod
    def of(cls, settings: Settings, device: SelectedDevice, deliver: Callable[[Done], None]) -> SpatialSplit | None:
        """Return the split that is configured; None where training and inference take turns."""
        training = settings.training
        if training.split == "time":
            return None
        log.info("training has %d threads of its own, inference %d", training.threads, device.info.threads)
        # the device's own meter is for one thread
        peaks = LedgerPeaks(HostProbe())
        executor = Executor(
            device.torch_device,
            peaks,
            deliver,
            telemetry=device.telemetry,
            threads=training.threads,
            name="training",
        )
        return cls(training_controller(settings.device, training), executor)

    def start(self) -> None:
        """Begin to take work."""
        self._executor.start()

    def running(self) -> Running | None:
        """Return the quantum that runs now; None while none does."""
        return self._executor.running()

    def stop(self, timeout_s: float) -> bool:
        """Finish what was submitted, then end; False where that takes longer."""
        return self._executor.stop(timeout_s)

    def submit(self, work: TrainWork) -> None:
        """Run a quantum; returns at once."""
        self._executor.submit(work)

    def observe(self, reading: MemoryReading) -> None:
        """Hear what the memory probes saw."""
        self.controller.observe(reading)

    def drain(self) -> None:
        """Begin nothing that can wait."""
        self.controller.drain()

    def decide(self, now: float, lend: Callable[[RunMicrobatch], None]) -> float:
        """Lend the cores if nothing runs on them and somebody wants them; return when to ask again."""
        match self.controller.next(now):
            case RunMicrobatch() as lease:
                lend(lease)
                return math.inf
            case Wait(until=until):
                return until
            case decision:
                raise AssertionError(f"without models there is nothing to {decision}")

    def beside(self, inference: ControllerSnapshot, now: float) -> ControllerSnapshot:
        """Return the snapshot of inference's controller, which lends to external processes, with the jobs' leases."""
        jobs, others = self.controller.leases.snapshot(now), inference.leases
        assert others is not None, "under a policy that lends nothing there is no split"
        return replace(inference, leases=both_leases(jobs, others))


def both_leases(jobs: LeaseSnapshot, others: LeaseSnapshot) -> LeaseSnapshot:
    """Put leases of two devices together. The slack is that of `others`, who alone need any.

    The share is the larger one: each is of its own device's time.
    """
    return replace(
        others,
        tenants=(*jobs.tenants, *others.tenants),
        running=jobs.running or others.running,
        granted=Counter(jobs.granted) + Counter(others.granted),
        seconds={quantum: jobs.seconds[quantum] + others.seconds[quantum] for quantum in Quantum},
        denials=Counter(jobs.denials) + Counter(others.denials),
        denied=jobs.denied or others.denied,
        share=max(jobs.share, others.share),
    )
