"""The statistical side of a job: what each step averages over and at what rate. It never hears of the device's memory.

No torch, no clock. The same seed and the same figures give the same course, whatever the device was lent for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from batchd.governor import Commit, Governor
from batchd.gradient_noise import GradientNoise, GradientReading, GradientSample
from batchd.lr_rules import LRChange, make_lr_rule
from batchd.sampler import BucketBatchSampler
from batchd.schedules import Bounds, CandidateLoss, StepStats, Task, make_schedule
from batchd.schedules.curriculum import Curriculum
from batchd.schedules.online_selection import OnlineSelection
from batchd_server.device.training.data_split import Indices
from batchd_server.device.training.forward_pass import LossSums
from batchd_server.device.training.step_plan import Sizes, random_parts
from batchd_server.training.job_spec import JobSpec, NamedSpec

RUN_EXAMPLES = 8
"""Most examples of a step that come from one bucket in a row: small runs make a step a fair sample of the data."""
NOISE_PARTS = 4
"""Gradients that a step is taken apart into where noise is measured."""
MEASURE_EVERY = 10
"""Steps between two such, unless the schedule or the learning-rate rule lives by it: then every step is."""


class Course:
    """Draws steps, follows what they showed, and moves the batch size and the learning rate along."""

    def __init__(self, spec: JobSpec, task: Task, sizes: Sizes, training: Indices) -> None:
        """Begin at the first step.

        Raises:
            ValueError: schedule, rule, governor and examples do not go together.
        """
        self._spec = spec
        batching = spec.batching
        count = len(training)
        if batching.initial > count:
            raise ValueError(f"batching.initial must be at most the {count} training examples, got {batching.initial}")
        self._task = replace(task, train_size=count)
        bounds = Bounds(batching.min, min(batching.max, count))
        named = batching.schedule
        self.schedule = make_schedule(named.name, named.parameters, bounds, self._task)
        self._selection = self.schedule if isinstance(self.schedule, OnlineSelection) else None
        if self._selection is not None and self._selection.score != "average":
            raise ValueError("online_selection in a job scores by average; lookahead is for loops of one's own")
        self.governor = Governor.of(self.schedule, bounds, batching.initial, **batching.governor)
        rule = batching.lr_rule if isinstance(batching.lr_rule, NamedSpec) else NamedSpec(name=batching.lr_rule)
        self._rule = make_lr_rule(rule.name, rule.parameters)
        self._noise = GradientNoise(base_size=batching.initial)
        self._training = training
        own_sizes = sizes[training]
        graded = isinstance(self.schedule, Curriculum)
        self._sampler = BucketBatchSampler(
            own_sizes,
            RUN_EXAMPLES,
            seed=spec.seed,
            difficulty=np.prod(own_sizes, axis=1) if graded else None,
        )
        self.step = 0
        self.examples = 0
        self._epoch_sums = LossSums()
        self._pool: list[int] = []
        """What online selection has drawn and not yet trained on."""
        self._scored = False
        self._drawn: list[int] = []
        self._note_position()

    # ---- steps -------------------------------------------------------------------------------------------------------

    def start(self) -> list[Commit]:
        """Ask a schedule that needs no statistics for the size of the very first step."""
        if self.schedule.unit != "step" or self.schedule.needs:
            return []
        return [self._commit(self._stats())]

    @property
    def over(self) -> bool:
        """Whether the job has had all its steps or epochs."""
        spec = self._spec
        if spec.max_steps is not None and self.step >= spec.max_steps:
            return True
        return spec.epochs is not None and self._sampler.epoch >= spec.epochs and not self._pool

    @property
    def epoch(self) -> float:
        """Passes over the training examples, with fractions."""
        return self.examples / len(self._training)

    def pool_to_score(self) -> list[list[list[int]]] | None:
        """Return, for each candidate size, the batches of the next pool; None where nothing is to be scored now."""
        if self._selection is None or self._scored:
            return None
        if not self._pool:
            self._pool = self._draw(max(self._selection.sizes))
            if len(self._pool) < max(self._selection.sizes):  # means of unequal batches are not to be compared
                self._scored = True
                return None
        return [[self._pool[i : i + size] for i in range(0, len(self._pool), size)] for size in self._selection.sizes]

    def scored(self, averages: list[float]) -> list[Commit]:
        """Choose the size for the pool, by the mean loss of every candidate."""
        assert self._selection is not None, "only online selection scores candidates"
        self._scored = True
        candidates = tuple(
            CandidateLoss(size, loss) for size, loss in zip(self._selection.sizes, averages, strict=True)
        )
        return [self._commit(replace(self._stats(), candidates=candidates))]

    def begin_step(self) -> list[int]:
        """Return the examples of the next step."""
        if self._selection is not None:
            self._drawn = self._pool[: self.governor.size]
            return self._drawn
        self._drawn = self._draw(self.governor.size)
        return self._drawn

    def parts(self) -> list[list[int]]:
        """Return the step's examples in the parts whose gradients are told apart; one where noise is not measured."""
        every_step = "gradient" in self.schedule.needs | self._rule.needs
        if not every_step and self.step % MEASURE_EVERY:
            return [self._drawn]
        return random_parts(self._drawn, NOISE_PARTS, self._spec.seed, self.step)

    def gradient(self, sample: GradientSample | None) -> None:
        """Hear what the step's parts told of the noise."""
        if sample is not None:
            self._noise.observe(sample)

    @property
    def noise(self) -> GradientReading:
        """The noise so far."""
        return self._noise.read()

    def rate(self) -> LRChange:
        """Return what the rule makes of the learning rate for the step that was begun."""
        return self._rule.factor(len(self._drawn), self._spec.batching.initial, self._stats())

    def end_step(
        self, sums: LossSums, *, alpha: float | None, beta: float | None, memory_used: float | None
    ) -> list[Commit]:
        """Count the step, and decide the size of the next.

        `alpha` and `beta` are a step's measured seconds, fixed and per example; `memory_used` the share of what may be.
        """
        self.step += 1
        self.examples += len(self._drawn)
        self._epoch_sums.total += sums.total
        self._epoch_sums.terms += sums.terms
        ended = self._finish_drawn()
        loss = self._epoch_sums.mean if self.schedule.unit == "epoch" else sums.mean
        stats = replace(
            self._stats(), loss=loss, entropy=self._nats(sums), alpha=alpha, beta=beta, memory_used=memory_used
        )
        asked = ended if self.schedule.unit == "epoch" else self._selection is None
        commits = [self._commit(stats)] if asked else []
        if ended:
            self._epoch_sums = LossSums()
            self._sampler.set_epoch(self._sampler.epoch + 1)
        self._note_position()
        return commits

    # ---- stopping and resuming ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return how everything stood at the end of the last step, as JSON."""
        return {
            "step": self.step,
            "examples": self.examples,
            "schedule": self.schedule.state_dict(),
            "governor": self.governor.state_dict(),
            "noise": self._noise_then,
            "sampler": self._sampler.state_dict(self._consumed_then),
            "pool": self._pool_then,
            "epoch_loss": [self._epoch_sums.total, self._epoch_sums.terms],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: it is the state of something else.
        """
        try:
            self.step, self.examples = int(state["step"]), int(state["examples"])
            self.schedule.load_state_dict(state["schedule"])
            self.governor.load_state_dict(state["governor"])
            self._noise.load_state_dict(state["noise"])
            self._sampler.load_state_dict(state["sampler"])
            self._pool = [int(index) for index in state["pool"]]
            total, terms = state["epoch_loss"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a course's state: {error!r}") from None
        self._scored = bool(self._pool)
        self._epoch_sums = LossSums(float(total), float(terms))
        self._note_position()

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _note_position(self) -> None:
        """Remember what the next step will change before it has ended."""
        self._consumed_then = self._sampler.consumed
        self._pool_then = list(self._pool)
        self._noise_then = self._noise.state_dict()

    def _draw(self, count: int) -> list[int]:
        return [int(self._training[index]) for index in self._sampler.draw(count)]

    def _finish_drawn(self) -> bool:
        """Let go of the step's examples; return whether they were the epoch's last."""
        if self._selection is not None:
            self._pool = self._pool[len(self._drawn) :]
            self._scored = bool(self._pool)
        self._drawn = []
        return self._sampler.remaining == 0 and not self._pool

    def _commit(self, stats: StepStats) -> Commit:
        proposal = self.schedule.propose(stats)
        if isinstance(self.schedule, Curriculum):
            self._sampler.allowed_fraction = proposal.data_fraction
        return self.governor.commit(proposal, step=self.step, schedule=self.schedule.name)

    def _stats(self) -> StepStats:
        noise = self._noise.read()
        return StepStats(
            step=self.step,
            examples=self.examples,
            epoch=self.epoch,
            train_size=len(self._training),
            batch_size=self.governor.size,
            learning_rate=self._spec.optimizer.lr,
            S=noise.S,
            g2=noise.g2,
            seed_noise=noise.seed_noise,
            num_microbatches=max(1, noise.num_microbatches),
        )

    def _nats(self, sums: LossSums) -> float | None:
        classes = self._task.num_classes
        if sums.entropy is None or classes is None or not sums.terms:
            return None
        return sums.entropy / sums.terms * math.log(classes)
