"""One training job on the device: a machine that runs one leased quantum at a time and says what it would run next.

Runs on the executor's thread. A step's examples are drawn once; microbatches add their gradients whole or not at all;
the optimizer's step stands outside of every retry. How the device was shared changes nothing but rounding, and with
`deterministic` not even that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from batchd.leasing.demand import Demand, Quantum
from batchd_server.device.training.accumulation import Accumulator
from batchd_server.device.training.checkpoint_pace import CheckpointPace
from batchd_server.device.training.course import Course
from batchd_server.device.training.data_split import DataSplit
from batchd_server.device.training.forward_pass import ForwardPass, LossSums
from batchd_server.device.training.network_state import NetworkBuffers, deterministic_algorithms, on_host
from batchd_server.device.training.optimizers import changed_rate, make_optimizer, state_tensors
from batchd_server.device.training.random_state import seeded
from batchd_server.device.training.step_plan import Cut, StepPlan
from batchd_server.device.training.step_times import StepTimes
from batchd_server.device.training.train_report import Snapshot, StepBroken, TrainingFailed, TrainReport
from batchd_server.models.ghost_batch_norm import microbatch_multiple
from batchd_server.models.trainable import ExampleSet, Losses, Trainable
from batchd_server.training.job_spec import JobSpec
from batchd_server.training.records import StepMetrics

SLICE_EXAMPLES = 8
"""Examples that run together in a deterministic job, until that turns out to be too many for the device."""


class Trainer:
    """Construct, `restore` if there is a checkpoint, `start`; then `run` what `report` asks for."""

    def __init__(
        self,
        spec: JobSpec,
        trainable: Trainable,
        network: torch.nn.Module,
        examples: ExampleSet,
        device: torch.device,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Put the network on the device, and allocate all that lasts.

        Raises:
            ValueError: the job, its data and its schedule do not go together.
            torch.OutOfMemoryError: weights, gradients and optimizer state do not fit.
        """
        self._spec, self._trainable, self._examples = spec, trainable, examples
        self._device, self._clock = device, clock
        sizes = np.asarray(examples.sizes, dtype=np.int64)
        self._sizes = sizes.reshape(len(sizes), -1)
        self._terms = np.asarray(examples.terms, dtype=np.float64)
        self._split = DataSplit.of(len(sizes), examples.validation, spec.validation.fraction, spec.seed)
        self._course = Course(spec, trainable.task, self._sizes, self._split.training)
        self._network = network.to(device).train()
        self._buffers = NetworkBuffers(self._network)
        self._gradients = Accumulator(self._network.parameters())
        self._optimizer = make_optimizer(spec.optimizer, self._gradients.parameters)
        self._group = microbatch_multiple(self._network, fixed_cut=spec.deterministic)
        self._slice_size = math.ceil(SLICE_EXAMPLES / self._group) * self._group if spec.deterministic else None
        self._largest_run = 0  # elements of the largest single example that has been learned from
        self._times = StepTimes()
        self._plan: StepPlan | None = None
        self._forward: ForwardPass | None = None
        self._scores: list[int] | None = None  # batches per candidate, while candidates are scored
        self._checkpoint_due = False
        self._pace = CheckpointPace()
        self._step_examples = 0
        self._step_terms = 0.0
        self._part_terms: list[float] = []
        self._sums = LossSums()
        self._largest_microbatch = 0
        self._norm2: float | None = None
        self._validated: tuple[int, LossSums] | None = None
        self._latest: StepMetrics | None = None
        self._saved_step = -1
        self._report = TrainReport()
        self._started = self._ended_at = clock()

    # ---- for the thread that builds ----------------------------------------------------------------------------------

    def resident(self) -> Iterator[torch.Tensor]:
        """Yield what lies on the device for as long as the job runs."""
        yield from self._network.parameters()
        yield from self._network.buffers()
        yield from self._gradients.tensors()
        yield from state_tensors(self._optimizer)

    @property
    def resident_bytes(self) -> int:
        """How many bytes that is."""
        return sum(tensor.nbytes for tensor in self.resident())

    def restore(
        self, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any], state: Mapping[str, Any]
    ) -> None:
        """Go on from a snapshot.

        Raises:
            ValueError: it is another job's.
        """
        try:
            self._network.load_state_dict(weights)
            self._optimizer.load_state_dict(dict(optimizer))
            self._slice_size, self._largest_run = state["slice_size"], int(state["largest_run"])
            self._times.load_state_dict(state["times"])
            validation = state["validation"]
            self._course.load_state_dict(state["course"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"not a checkpoint of this job: {error}") from None
        if validation is not None:
            self._validated = (int(validation[0]), LossSums(*validation[1:]))
        self._saved_step = self._course.step

    def start(self, *, interrupted: bool = False) -> None:
        """Begin the first step, or the next after a snapshot."""
        if self._saved_step < 0:
            self._report.commits += self._course.start()
        self._ended_at = self._clock()
        self._pace.begin(self._ended_at, interrupted=interrupted)
        self._proceed()

    # ---- for the executor --------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._course.step

    @property
    def saved(self) -> bool:
        """Whether everything up to the last step is in a snapshot."""
        return self._saved_step == self._course.step

    def report(self) -> TrainReport:
        """Return what has happened and what comes next, and begin a new report."""
        report, self._report = self._report, TrainReport()
        report.demand = self._demand()
        report.forward_only = self._forward is not None
        return report

    def run(self, quantum: Quantum, units: int, memory_used: float | None = None) -> None:
        """Run one quantum, of `units` where it can be divided.

        Raises:
            TrainingFailed: the job cannot go on.
            StepBroken: a checkpoint is needed.
            torch.OutOfMemoryError: nothing of what did not fit remains; tell `out_of_memory`, and run again.
        """
        self._started = self._clock()
        self._pace.runs(self._started)
        learning = quantum is Quantum.MICROBATCH and self._forward is None
        try:
            with torch.enable_grad(), deterministic_algorithms(self._spec.deterministic):
                match quantum:
                    case Quantum.MICROBATCH if self._forward is not None:
                        self._run_forward(self._forward, units)
                    case Quantum.MICROBATCH:
                        self._accumulate(units)
                    case Quantum.STEP:
                        self._step(memory_used)
                    case Quantum.CHECKPOINT:
                        self._take_snapshot()
                    case Quantum.EXTERNAL:
                        raise AssertionError("a job runs nothing outside")
        finally:
            self._times.ran(self._clock() - self._started, learning=learning)

    def out_of_memory(self, quantum: Quantum, units: int, headroom: int | None) -> None:
        """Hear that a quantum did not fit, once its memory has been given back.

        Raises:
            TrainingFailed: a single example did not fit that never has.
        """
        plan = self._open_plan()
        if quantum is not Quantum.MICROBATCH or plan is None or plan.finished or plan.part_complete:
            return
        cut = plan.next_cuts(units)[0]
        if self._slice_size is not None and len(cut.ids) > self._group:
            self._slice_size = max(1, len(cut.ids) // (2 * self._group)) * self._group
            plan.cut_finer(self._slice_size)
        elif len(cut.ids) <= self._group and cut.elements > self._largest_run * len(cut.ids):
            free = "the memory that is free" if headroom is None else f"the {headroom} bytes that are free"
            state = f"{self.resident_bytes} bytes of weights, gradients and optimizer state"
            raise TrainingFailed(f"{cut} needs more than {free}, beside {state}")
        self._report.events.append(("out_of_memory", {"microbatch": len(cut.ids), "elements": cut.elements}))

    # ---- quanta ------------------------------------------------------------------------------------------------------

    def _accumulate(self, units: int) -> None:
        plan = self._plan
        assert plan is not None, "a microbatch was granted between two steps"
        for cut in plan.next_cuts(units):
            with self._buffers.kept_on_failure(), self._random(cut):
                losses = self._losses(cut)
                total = float(losses.total.detach())
                if not math.isfinite(total):
                    raise TrainingFailed(f"the loss is {total} at step {self._course.step + 1}")
                self._gradients.add(losses.total / self._step_terms)
            plan.done(cut)
            self._sums.add(total, losses)
            self._largest_microbatch = max(self._largest_microbatch, len(cut.ids))
            self._largest_run = max(self._largest_run, cut.elements // len(cut.ids))
        if plan.part_complete:
            self._close_part(plan)

    def _close_part(self, plan: StepPlan) -> None:
        terms = self._part_terms[len(self._part_terms) - plan.parts_left]
        self._gradients.close_part(terms / self._step_terms)
        plan.close_part()

    def _step(self, memory_used: float | None) -> None:
        plan = self._plan
        assert plan is not None, "a step was granted before it was begun"
        if plan.part_complete:  # there was no memory for it when its last microbatch had run
            self._close_part(plan)
        if not plan.finished:
            return
        if self._norm2 is None:
            norm2 = self._gradients.norm2()
            if not math.isfinite(norm2):
                raise TrainingFailed(f"the gradient's squared norm is {norm2} at step {self._course.step + 1}")
            population = len(self._split.training)
            self._course.gradient(self._gradients.sample(self._step_examples, norm2, population))
            self._norm2 = norm2
        change = self._course.rate()
        self._gradients.install()
        before = self._gradients.versions()
        try:
            with changed_rate(self._optimizer, change):
                self._optimizer.step()
        except BaseException as error:
            if self._gradients.versions() != before:
                raise StepBroken(f"the optimizer failed half-way: {error}") from error
            raise
        finally:
            self._gradients.uninstall()
        self._end_step(change.lr, memory_used)

    def _end_step(self, factor: float, memory_used: float | None) -> None:
        course, sums = self._course, self._sums
        drawn = self._step_examples
        now = self._clock()
        seconds = self._times.end_step(now - self._started, drawn)
        wall = now - self._ended_at
        self._started = self._ended_at = now
        alpha, beta = self._times.fit
        self._report.commits += course.end_step(sums, alpha=alpha, beta=beta, memory_used=memory_used)
        self._latest = StepMetrics(
            step=course.step,
            examples=course.examples,
            epoch=course.epoch,
            loss=sums.mean,
            accuracy=sums.accuracy,
            validation_loss=None if self._validated is None else self._validated[1].mean,
            validation_accuracy=None if self._validated is None else self._validated[1].accuracy,
            batch_size=drawn,
            learning_rate=self._spec.optimizer.lr * factor,
            noise_scale=course.noise.noise_scale,
            microbatch=self._largest_microbatch,
            device_share=min(1.0, seconds / wall) if wall > 0 else None,
            seconds=seconds,
        )
        self._report.steps.append(self._latest)
        self._plan = None
        self._proceed()

    def _run_forward(self, forward: ForwardPass, units: int) -> None:
        for cut in forward.plan.next_cuts(units):
            with self._buffers.kept(), self._random(cut), torch.no_grad():
                losses = self._losses(cut)
                total = float(losses.total)
            forward.add(cut, total, losses)
        if forward.finished:
            self._forward = None
            if self._scores is None:
                self._end_validation(forward.sums)
            else:
                self._end_scoring(forward.sums, self._scores)
            self._proceed()

    def _end_validation(self, sums: Sequence[LossSums]) -> None:
        self._network.train()
        (all_of_them,) = sums
        self._validated = (self._course.step, all_of_them)
        loss = all_of_them.mean if math.isfinite(all_of_them.mean) else None
        found = {"step": self._course.step, "loss": loss, "accuracy": all_of_them.accuracy}
        self._report.events.append(("validation", found))
        if self._latest is not None:
            accuracy = all_of_them.accuracy
            self._latest = replace(self._latest, validation_loss=all_of_them.mean, validation_accuracy=accuracy)
            self._report.steps.append(self._latest)

    def _end_scoring(self, sums: Sequence[LossSums], batches: Sequence[int]) -> None:
        self._scores = None
        averages: list[float] = []
        begin = 0
        for count in batches:
            averages.append(sum(each.mean for each in sums[begin : begin + count]) / count)
            begin += count
        self._report.commits += self._course.scored(averages)

    def _take_snapshot(self) -> None:
        validated = self._validated if self._validated and self._validated[0] == self._course.step else None
        self._report.snapshot = Snapshot(
            step=self._course.step,
            weights=self._buffers.weights_then(),
            optimizer=on_host(self._optimizer.state_dict()),
            state={
                "course": self._course.state_dict(),
                "slice_size": self._slice_size,
                "largest_run": self._largest_run,
                "times": self._times.state_dict(),
                "validation": None if self._validated is None else [self._validated[0], *self._validated[1].values()],
            },
            validation_accuracy=None if validated is None else validated[1].accuracy,
            validation_loss=None if validated is None else validated[1].mean,
            final=self._course.over,
        )
        self._saved_step = self._course.step
        self._checkpoint_due = False
        self._pace.saved(self._clock())
        if self._plan is None and self._forward is None:
            self._proceed()

    # ---- what comes next ---------------------------------------------------------------------------------------------

    def _proceed(self) -> None:
        """Between two steps: validate, save, score or begin the next step, whatever is due first."""
        course, spec = self._course, self._spec
        if self._plan is not None or self._forward is not None:
            return
        self._buffers.mark()
        step = course.step
        begun = step > 0 and self._saved_step != step
        save = begun and (step % spec.checkpoint.every_steps == 0 or course.over)
        validate = begun and (save or step % spec.validation.every_steps == 0) and len(self._split.validation) > 0
        if validate and (self._validated is None or self._validated[0] != step):
            self._network.eval()
            self._forward = self._pass([self._split.validation.tolist()])
        elif save or (begun and self._pace.due(self._clock())):
            self._checkpoint_due = True
        elif not course.over:
            self._begin()

    def _begin(self) -> None:
        candidates = self._course.pool_to_score()
        if candidates is not None:
            self._scores = [len(batches) for batches in candidates]
            self._forward = self._pass([batch for batches in candidates for batch in batches])
            return
        drawn = self._course.begin_step()
        parts = self._course.parts()
        self._plan = StepPlan(parts, self._sizes, slice_size=self._slice_size, group=self._group)
        self._step_examples = len(drawn)
        self._step_terms = float(self._terms[drawn].sum())
        self._part_terms = [float(self._terms[part].sum()) for part in parts]
        self._sums = LossSums()
        self._largest_microbatch = 0
        self._norm2 = None
        if self._step_terms <= 0:
            raise TrainingFailed(f"the examples of step {self._course.step + 1} have no loss terms")
        self._gradients.begin(apart=len(parts) > 1)

    def _pass(self, parts: Sequence[Sequence[int]]) -> ForwardPass:
        return ForwardPass(parts, self._sizes, slice_size=self._slice_size, group=self._group)

    def _open_plan(self) -> StepPlan | None:
        return self._plan if self._forward is None else self._forward.plan

    def _demand(self) -> Demand | None:
        plan = self._open_plan()
        if plan is None:
            return Demand(quantum=Quantum.CHECKPOINT) if self._checkpoint_due else None
        if plan.finished or plan.part_complete:
            return Demand(quantum=Quantum.STEP)
        return Demand(items=plan.units, elements=plan.elements)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _losses(self, cut: Cut) -> Losses:
        batch = self._examples.batch(cut.ids, cut.padded_shape, self._device)
        return self._trainable.losses(self._network, batch)

    def _random(self, cut: Cut) -> AbstractContextManager[None]:
        """Random numbers of a cut: by seed, step and examples alone."""
        return seeded((self._spec.seed, self._course.step, *cut.ids), self._device)
