"""Training on the executor's thread: runs quanta and puts weights in place, measured, and with failures told apart."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from batchd.leasing.demand import Quantum
from batchd.outcome import Completed, Failed, OutOfMemory
from batchd_server.device.failures import Failure, FailureKind, classify
from batchd_server.device.memory.telemetry import Cell, Measurement, PeakMeter
from batchd_server.device.recovery import Recovery
from batchd_server.device.training.promotion_work import Adopted, Promotion
from batchd_server.device.training.quantum_work import TrainDone, TrainWork
from batchd_server.device.training.train_report import StepBroken, TrainingFailed
from batchd_server.device.work import DeviceLost

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Setback:
    """Why a quantum did not run."""

    failure: Failure
    broken: bool = False


def run_quantum(work: TrainWork, peaks: PeakMeter, recovery: Recovery) -> TrainDone | DeviceLost:
    """Run what a job was lent the device for."""
    started = time.monotonic()
    measurement = Measurement()
    if work.quantum is Quantum.CHECKPOINT:  # it copies to the host
        setback = _attempt(work, recovery)
    else:
        with peaks.measure(_cell(work)) as measurement:
            setback = _attempt(work, recovery)
    seconds = time.monotonic() - started
    if setback is not None:
        return _set_back(work, setback, measurement, seconds, recovery)
    outcome = Completed(
        batch_id=work.batch_id,
        seconds=seconds,
        peak_bytes=measurement.peak_bytes,
        first_of_shape=measurement.disturbs_timing,
        tight=measurement.tight,
    )
    return TrainDone(work=work, outcome=outcome, report=work.trainer.report())


def adopt(work: Promotion, recovery: Recovery) -> Adopted | DeviceLost:
    """Put other weights into a model that is served."""
    try:
        work.model.adopt(work.weights)
        recovery.synchronise()
    except BaseException as error:  # user code: whatever it raises is the answer
        failure = classify(error)
        log.warning("%s does not take other weights", work.model_name, exc_info=error)
    else:
        return Adopted(work, None)
    return DeviceLost(failure.message) if recovery.lost(failure) else Adopted(work, failure.message)


def _attempt(work: TrainWork, recovery: Recovery) -> _Setback | None:
    # When this returns, nothing refers to the exception any more, nor to what its frames held.
    try:
        work.trainer.run(work.quantum, work.items, work.memory_used)
        recovery.synchronise()
    except TrainingFailed as error:
        return _Setback(Failure(FailureKind.MODEL, str(error)))
    except StepBroken as error:
        return _Setback(Failure(FailureKind.MODEL, str(error)), broken=True)
    except BaseException as error:  # user code: whatever it raises is an answer
        log.debug("a quantum of %s failed", work.job, exc_info=error)
        return _Setback(classify(error))
    return None


def _set_back(
    work: TrainWork, setback: _Setback, measurement: Measurement, seconds: float, recovery: Recovery
) -> TrainDone | DeviceLost:
    failure = setback.failure
    log.warning("%s: %s of %d: %s", work.job, work.quantum, work.items, failure.message)
    if recovery.lost(failure):
        return DeviceLost(failure.message)
    recovery.release()
    if failure.kind is not FailureKind.OUT_OF_MEMORY:
        failed = Failed(batch_id=work.batch_id, seconds=seconds)
        return TrainDone(work=work, outcome=failed, report=None, problem=failure.message, broken=setback.broken)
    outcome = OutOfMemory(
        batch_id=work.batch_id,
        peak_bytes=measurement.peak_bytes,
        reading=recovery.fresh_reading(),
        seconds=seconds,
    )
    try:
        work.trainer.out_of_memory(work.quantum, work.items, work.headroom)
    except TrainingFailed as error:
        return TrainDone(work=work, outcome=outcome, report=None, problem=str(error))
    return TrainDone(work=work, outcome=outcome, report=work.trainer.report())


def _cell(work: TrainWork) -> Cell:
    """Microbatches are measured as batches are, apart by job."""
    items, elements = (1 << (size - 1).bit_length() for size in (work.items, work.elements))
    return f"{work.tenant} {work.quantum}", items, (elements,)
