"""The one thread that runs models: collate, run, split; measured, and with failures kept to the items that caused them.

It must not know what a client, a deadline or a batch policy is.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import assert_never, cast

import torch

from batchd.item import Shape, num_elements
from batchd.load import Load
from batchd.outcome import Completed, Failed, OutOfMemory
from batchd.policy import Layout
from batchd_server.device.black_box import BlackBox
from batchd_server.device.failures import Failure, FailureKind, WrongAnswers, classify
from batchd_server.device.hang_watch import RunAccount, Running
from batchd_server.device.memory.prediction import predict_peaks
from batchd_server.device.memory.telemetry import Cell, Measurement, PeakMeter, TelemetrySource
from batchd_server.device.pace import OwnPace, Pace
from batchd_server.device.recovery import Recovery
from batchd_server.device.torch_threads import use_torch_threads
from batchd_server.device.training.promotion_work import Promotion
from batchd_server.device.training.quantum_run import adopt, run_quantum
from batchd_server.device.training.quantum_work import TrainWork
from batchd_server.device.work import (
    BatchDone,
    BatchWork,
    CalibrationRun,
    DeviceLost,
    Done,
    Example,
    ProbeDone,
    ProbeWork,
    ReleaseDone,
    ReleaseWork,
    Stages,
    WarmUpDone,
    WarmUpWork,
    Work,
    describe_work,
)
from batchd_server.device.worker_thread import WorkerThread
from batchd_server.models.protocol import Model, SupportsRagged
from batchd_server.models.spec import Tensors
from batchd_server.observe.log_context import batch_fields

log = logging.getLogger(__name__)

RESIDENT_INTERVAL_S = 0.25
CALIBRATION_S = 2.0
CALIBRATION_BATCHES = (1, 4)
PREDICTION_S = 2.0
LAYOUT_TRIALS = 3


class Executor(WorkerThread[Work]):
    """Runs what it is given, one at a time, in order. `deliver` is called on the executor's thread."""

    def __init__(
        self,
        device: torch.device,
        peaks: PeakMeter,
        deliver: Callable[[Done], None],
        *,
        pace: Pace | None = None,
        telemetry: TelemetrySource | None = None,
        threads: int | None = None,
        black_box: BlackBox | None = None,
        name: str = "executor",
    ) -> None:
        super().__init__(name)
        self._black_box = black_box or BlackBox()
        self._device = device
        self._peaks = peaks
        self._deliver = deliver
        self._pace = pace or OwnPace()
        self._recovery = Recovery(device, peaks, telemetry)
        self._seen: set[Cell] = set()
        self._resident: int | None = None
        self._resident_at = -RESIDENT_INTERVAL_S
        self._threads = threads  # of torch; None: as many as whoever set them last
        self._account = RunAccount()

    def resident(self) -> int | None:
        """Return the bytes that this process held when last no batch ran."""
        return self._resident

    def running(self) -> Running | None:
        """Return what runs now; None while nothing does. Safe from any thread."""
        return self._account.current

    def _main(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        if self._threads is not None:
            use_torch_threads(self._threads)
        with torch.no_grad():  # not inference_mode: the ledger could not see into composite ops
            while (work := self._inbox.get()) is not None:
                self._account.begin(describe_work(work), self._upper_s(work))
                done = self._perform(work)
                self._account.end()
                self._note_resident(always=not isinstance(work, (BatchWork, TrainWork)))
                del work
                self._deliver(done)
                del done

    def _upper_s(self, work: Work) -> float | None:
        """Return the predicted upper time; None where it may be a first run that compiles."""
        compiles = _has_compiled()
        match work:
            case BatchWork() if _cell(work) in self._seen or not (compiles or self._device.type == "cuda"):
                return work.upper_s
            case TrainWork() if not compiles:
                return work.upper_s
            case _:
                return None

    def _perform(self, work: Work) -> Done:
        match work:
            case BatchWork():
                return self._batch(work)
            case WarmUpWork():
                return self._warm_up(work)
            case ProbeWork():
                shape = lies(work.layout, work.example)
                attempt, _ = self._measured(None, work.model, (work.example.item,), shape)
                if isinstance(attempt, Failure):
                    if self._recovery.lost(attempt):
                        return DeviceLost(attempt.message)
                    self._recovery.release()
                return ProbeDone(work=work, failure=attempt if isinstance(attempt, Failure) else None)
            case ReleaseWork():
                self._seen = {cell for cell in self._seen if cell[0] != work.name}
                self._peaks.forget(work.name)
                self._recovery.release()
                return ReleaseDone(name=work.name)
            case TrainWork():
                return run_quantum(work, self._peaks, self._recovery)
            case Promotion():
                return adopt(work, self._recovery)
            case _:
                assert_never(work)

    def _batch(self, work: BatchWork) -> BatchDone | DeviceLost:
        cell = _cell(work)
        started = time.monotonic()
        attempt, measurement = self._measured(cell, work.model, work.items, work.padded_shape)
        if isinstance(attempt, Failure):
            return self._failed(work, attempt, measurement, started)
        answers, stages = attempt
        first = cell not in self._seen
        self._seen.add(cell)
        return BatchDone(
            work=work,
            outcome=Completed(
                batch_id=work.batch_id,
                seconds=stages.total_s,
                peak_bytes=measurement.peak_bytes,
                first_of_shape=measurement.disturbs_timing or (first and self._device.type == "cuda"),
                tight=measurement.tight,
            ),
            started=started,
            finished=time.monotonic(),
            answers=tuple(answers),
            stages=stages,
        )

    def _failed(
        self, work: BatchWork, failure: Failure, measurement: Measurement, started: float
    ) -> BatchDone | DeviceLost:
        # what a client is told of its own item's failure is logged, as a warning, by the front that tells it
        level = logging.INFO if failure.kind is FailureKind.MODEL else logging.WARNING
        fields = {"model": work.name, "code": failure.kind.value, **batch_fields(work.requests)}
        size, place = len(work.items), f" ({failure.place})" if failure.place else ""
        log.log(level, "batch of %d, %d elements: %s%s", size, work.elements, failure.message, place, extra=fields)
        if self._recovery.lost(failure):
            return DeviceLost(failure.message)
        if failure.kind is FailureKind.OUT_OF_MEMORY:
            self._recovery.release()
            outcome = OutOfMemory(
                batch_id=work.batch_id, peak_bytes=measurement.peak_bytes, reading=self._recovery.fresh_reading()
            )
            return BatchDone(work=work, outcome=outcome, started=started, finished=time.monotonic())
        answers: list[Tensors | Failure] = [failure] if len(work.items) == 1 else []
        while len(answers) < len(work.items):
            self._black_box.rerun(len(answers))
            alone = self._alone(work.model, work.items[len(answers)], work.padded_shape)
            if isinstance(alone, Failure) and self._recovery.lost(alone):
                return DeviceLost(alone.message)
            answers.append(alone)
        return BatchDone(
            work=work,
            outcome=Failed(batch_id=work.batch_id),
            started=started,
            finished=time.monotonic(),
            answers=tuple(answers),
        )

    def _alone(self, model: Model, item: Tensors, padded_shape: Shape | None) -> Tensors | Failure:
        """Run one item of a batch that failed: only the culprit's failure is to be seen outside."""
        attempt, _ = self._measured(None, model, (item,), padded_shape)
        if isinstance(attempt, Failure):
            if attempt.kind is FailureKind.OUT_OF_MEMORY:
                self._recovery.release()
            return attempt
        return attempt[0][0]

    def _warm_up(self, work: WarmUpWork) -> WarmUpDone | DeviceLost:
        first, *_ = work.examples
        for count in (1, 2):
            # Measured, for what the first measurement costs once per process, but under a cell of its own.
            cell = (work.name, count, ())
            attempt, _ = self._measured(cell, work.model, (first.item,) * count, lies(work.layouts[0], first))
            if isinstance(attempt, Failure):
                if self._recovery.lost(attempt):
                    return DeviceLost(attempt.message)
                self._recovery.release()
                return WarmUpDone(work=work, failure=attempt)
        if work.known:
            return WarmUpDone(work=work, failure=None, layout=work.layouts[0])
        layout = self._fastest_layout(work) if len(work.layouts) > 1 else work.layouts[0]
        done = layout if isinstance(layout, DeviceLost) else self._calibrate(work, layout)
        if isinstance(done, DeviceLost) or layout is Layout.RAGGED:  # predictions are of padded batches
            return done
        return replace(done, predicted=predict_peaks(work.name, work.model, self._device, work.planned, PREDICTION_S))

    def _fastest_layout(self, work: WarmUpWork) -> Layout | DeviceLost:
        """Run all examples twice over in every layout, as the controller would, and return the one that took least.

        That is one batch per size where items are padded, for only equal sizes share one without waste, and one batch
        of all where they lie end to end. The first layout stays where another one fails.
        """
        best: dict[Layout, float] = {}
        for _ in range(LAYOUT_TRIALS):
            for layout in work.layouts:
                batches: list[tuple[tuple[Tensors, ...], Shape | None]]
                if layout is Layout.RAGGED:
                    batches = [(tuple(example.item for example in work.examples) * 2, None)]
                else:
                    batches = [((example.item,) * 2, example.padded_shape) for example in work.examples]
                seconds = 0.0
                for items, padded_shape in batches:
                    attempt, _ = self._measured(None, work.model, items, padded_shape)
                    if isinstance(attempt, Failure):
                        if self._recovery.lost(attempt):
                            return DeviceLost(attempt.message)
                        self._recovery.release()
                        log.info("%s: no %s batches: %s", work.name, layout, attempt.message)
                        return work.layouts[0]
                    seconds += attempt[1].total_s
                best[layout] = min(seconds, best.get(layout, math.inf))
        return min(best, key=lambda layout: best[layout])

    def _calibrate(self, work: WarmUpWork, layout: Layout) -> WarmUpDone | DeviceLost:
        """Time small batches of every example, the second run of each, while that takes no longer than is polite."""
        runs: list[CalibrationRun] = []
        give_up = time.monotonic() + CALIBRATION_S
        for example, count in product(work.examples, CALIBRATION_BATCHES):
            for warm in (False, True):
                if time.monotonic() > give_up:
                    return WarmUpDone(work=work, failure=None, calibration=tuple(runs), layout=layout)
                attempt, _ = self._measured(None, work.model, (example.item,) * count, lies(layout, example))
                if isinstance(attempt, Failure):  # larger than the device or the model takes: traffic will tell
                    if self._recovery.lost(attempt):
                        return DeviceLost(attempt.message)
                    self._recovery.release()
                    return WarmUpDone(work=work, failure=None, calibration=tuple(runs), layout=layout)
                if warm:
                    seconds = attempt[1].total_s
                    runs.append(CalibrationRun(batch_size=count, shape=example.padded_shape, seconds=seconds))
        return WarmUpDone(work=work, failure=None, calibration=tuple(runs), layout=layout)

    def _measured(
        self, cell: Cell | None, model: Model, items: Sequence[Tensors], padded_shape: Shape | None
    ) -> tuple[tuple[Sequence[Tensors], Stages] | Failure, Measurement]:
        self._account.again()
        with self._peaks.measure(cell) as measurement:
            attempt = self._attempt(model, items, padded_shape, measurement)
        return attempt, measurement

    def _attempt(
        self, model: Model, items: Sequence[Tensors], padded_shape: Shape | None, measurement: Measurement
    ) -> tuple[Sequence[Tensors], Stages] | Failure:
        # The exception and with it the frames that hold the batch are gone when this returns: recovery comes after.
        try:
            return self._forward(model, items, padded_shape, measurement)
        except BaseException as error:  # user code: whatever it raises is an answer, sys.exit and Rust panics included
            failure = classify(error)
            log.debug("a batch failed", exc_info=error)
            return failure

    def _forward(
        self, model: Model, items: Sequence[Tensors], padded_shape: Shape | None, measurement: Measurement
    ) -> tuple[Sequence[Tensors], Stages]:
        start = time.monotonic()
        if padded_shape is None:
            batch = cast("SupportsRagged", model).collate_ragged(items)
        else:
            batch = model.collate(items, padded_shape)
        measurement.adopt(batch)
        self._recovery.synchronise()
        collated = time.monotonic()
        outputs = model.run(batch)
        self._recovery.synchronise()
        ran = time.monotonic()
        answers = model.split(outputs, items)
        if len(answers) != len(items):
            raise WrongAnswers(f"split returned {len(answers)} answers for {len(items)} items")
        for spec in model.outputs:
            if any(spec.name not in answer for answer in answers):
                raise WrongAnswers(f"split returned an answer without the output {spec.name!r}")
        split = time.monotonic()
        if padded_shape is None:
            load = Load.ragged(num_elements(model.shape(item)) for item in items)
        else:
            load = Load.padded(len(items), num_elements(padded_shape))
        self._pace.keep(start, load)
        waited = time.monotonic() - split
        return answers, Stages(collate_s=collated - start, run_s=ran - collated + waited, split_s=split - ran)

    def _note_resident(self, *, always: bool) -> None:
        now = time.monotonic()
        if always or now - self._resident_at >= RESIDENT_INTERVAL_S:
            self._resident = self._peaks.resident()
            self._resident_at = now


def lies(layout: Layout, example: Example) -> Shape | None:
    """Return what copies of `example` are padded to; None where they lie end to end."""
    return None if layout is Layout.RAGGED else example.padded_shape


def _has_compiled() -> bool:
    """Whether torch.compile has had anything to do in this process, as it has from a compiled model's warm-up on."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", None)
    return bool(counters and counters.get("frames"))


def _cell(work: BatchWork) -> Cell:
    """Batches that differ by less than a factor of two in every size are measured as one: there are few such cells."""
    lengths = (work.elements,) if work.padded_shape is None else work.padded_shape
    batch_size, *sizes = (1 << (size - 1).bit_length() for size in (len(work.items), *lengths))
    return work.name, batch_size, tuple(sizes)
