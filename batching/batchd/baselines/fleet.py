"""The classic rules in the daemon: one per model, and what a server owes its clients around them.

A rule chooses which items run together and when. The fleet does what no rule knows of: it lets the model go first whose
oldest item is oldest, refuses what the limits forbid, expires what is past its deadline, cuts batches that are over a
limit, and halves those that ran out of memory until they fit, so that no request is lost to the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from batchd.baselines.queue_and_device import largest_shape, plain_batch
from batchd.budget import BudgetPolicy, MemoryReading, budget_bytes, headroom_bytes
from batchd.decision import Admission, Decision, Expire, RefusalReason, Refused, ReleaseReason, RunBatch, Wait
from batchd.item import BatchId, Item, ItemId, Shape, num_elements
from batchd.lazy_heap import LazyHeap
from batchd.outcome import Completed, Failed, Outcome, OutOfMemory, Settled
from batchd.policy import Layout, ModelPolicy
from batchd.scheduler import MemoryObserver, Scheduler
from batchd.snapshot import ControllerSnapshot, ModelSnapshot

RETRY_AFTER_S = 1.0
"""What a refusal for a full queue says: the classic rules predict nothing."""

RuleMaker = Callable[[ModelPolicy], Scheduler]


@dataclass(slots=True)
class _Line:
    """One rule and the items that wait under it. Shapes of different numbers of dimensions never share one."""

    name: str
    policy: ModelPolicy
    rule: Scheduler
    waiting: dict[ItemId, Item] = field(default_factory=dict)  # in order of arrival; parts of a job are not here


@dataclass(slots=True)
class _Model:
    """A served model."""

    policy: ModelPolicy
    lines: dict[int, _Line] = field(default_factory=dict)  # by number of dimensions


@dataclass(slots=True)
class _Job:
    """A batch that a rule has chosen; it runs in parts where it is over a limit or ran out of memory."""

    line: _Line
    batch_id: BatchId  # the rule's own
    reason: ReleaseReason
    parts: list[list[Item]]
    seconds: float = 0.0
    peak_bytes: int | None = None
    failed: bool = False
    out_of_memory: bool = False

    def note(self, outcome: Outcome) -> None:
        """Add what a part came to."""
        if isinstance(outcome, Completed):
            self.seconds += outcome.seconds
            if outcome.peak_bytes is not None:
                self.peak_bytes = max(self.peak_bytes or 0, outcome.peak_bytes)
        self.failed |= isinstance(outcome, Failed)
        self.out_of_memory |= isinstance(outcome, OutOfMemory)

    def outcome(self) -> Outcome:
        """Return what the rule is told of the whole."""
        if self.out_of_memory:
            return OutOfMemory(batch_id=self.batch_id, peak_bytes=None)
        if self.failed:
            return Failed(batch_id=self.batch_id)
        return Completed(batch_id=self.batch_id, seconds=self.seconds, peak_bytes=self.peak_bytes)


@dataclass(slots=True)
class _Running:
    """The part that holds the device."""

    batch_id: BatchId
    members: list[Item]
    cancelled: set[ItemId] = field(default_factory=set)


class Fleet:
    """A classic rule per model behind the controller's interface. Not thread-safe: one thread owns it."""

    def __init__(self, make_rule: RuleMaker, budget_policy: BudgetPolicy | None = None) -> None:
        self._make_rule = make_rule
        self._budget_policy = budget_policy or BudgetPolicy()
        self._models: dict[str, _Model] = {}
        self._line_of: dict[ItemId, _Line] = {}  # of all that wait, in a line or in a part
        self._deadlines = LazyHeap(self._line_of)
        self._items: dict[ItemId, Item] = {}  # all that wait or run
        self._job: _Job | None = None
        self._running: _Running | None = None
        self._next_batch = 0
        self._reading = MemoryReading()
        self._draining = False

    # ---- models ------------------------------------------------------------------------------------------------------

    def add_model(self, name: str, policy: ModelPolicy) -> None:
        """Begin to serve a model.

        Raises:
            ValueError: it is served already.
        """
        if name in self._models:
            raise ValueError(f"model {name!r} is served already")
        self._models[name] = _Model(policy)

    def remove_model(self, name: str) -> tuple[ItemId, ...]:
        """Stop serving a model and return its waiting items, which are dropped. A batch that runs is not recalled.

        Raises:
            KeyError: it is not served.
        """
        model = self._models.pop(name)
        dropped = tuple(item.id for line in model.lines.values() for item in self._waiting(line))
        for item_id in dropped:
            self._withdraw(item_id)
        return dropped

    def calibrate(self, name: str, batch_size: int, shape: Shape, seconds: float) -> None:
        """Pass over it: the classic rules learn from traffic, or not at all."""

    def foresee(self, name: str, batch_size: int, shape: Shape, peak_bytes: int) -> None:
        """Pass over it: the classic rules ask for no memory."""

    def state_dict(self, name: str) -> dict[str, Any]:
        """Return nothing: nothing is kept across restarts."""
        return {}

    def load_state_dict(self, name: str, state: dict[str, Any]) -> None:
        """Pass over it."""

    # ---- items -------------------------------------------------------------------------------------------------------

    def offer(self, item: Item, now: float) -> Admission:
        """Admit `item`, unless a limit of its model forbids it.

        Raises:
            ValueError: an item of that id waits or runs.
        """
        if item.id in self._items:
            raise ValueError(f"item {item.id} was offered before")
        model = self._models.get(item.model)
        if model is None:
            return Refused(RefusalReason.UNKNOWN_MODEL, f"model {item.model!r} is not loaded", None)
        if self._draining:
            return Refused(RefusalReason.DRAINING, "the server is shutting down", RETRY_AFTER_S)
        limit = model.policy.max_item_elements
        if limit is not None and num_elements(item.shape) > limit:
            detail = f"the item has {num_elements(item.shape)} elements; {item.model} takes at most {limit}"
            return Refused(RefusalReason.TOO_LARGE, detail, None)
        queued = self._num_queued(model)
        if queued >= model.policy.max_queue_size and not item.accepted:
            detail = f"{queued} items wait for {item.model}, its limit is {model.policy.max_queue_size}"
            return Refused(RefusalReason.QUEUE_FULL, detail, RETRY_AFTER_S)
        line = self._line(item, model)
        admission = line.rule.offer(item, now)
        if not isinstance(admission, Refused):
            line.waiting[item.id] = item
            self._items[item.id] = item
            self._wait(item, line)
        return admission

    def cancel(self, item_id: ItemId) -> bool:
        """Forget an item. Returns whether it still waited; one that runs is finished and its answer is not wanted."""
        if item_id in self._line_of:
            self._withdraw(item_id)
            return True
        if item_id in self._items:
            assert self._running is not None, "what neither waits nor runs is not kept"
            self._running.cancelled.add(item_id)
        return False

    # ---- decisions ---------------------------------------------------------------------------------------------------

    def next(self, now: float) -> Decision:
        """Decide what the free device does now: the next part of a batch, or what a rule releases."""
        if self._running is not None:
            return Wait(math.inf)
        expired = self._expire(now)
        if expired:
            return Expire(tuple(expired))
        if self._job is not None:
            return self._launch(self._job)
        until = math.inf
        for line in self._by_age():
            # while draining every window is over
            decision = line.rule.next(math.inf if self._draining else now)
            if isinstance(decision, RunBatch):
                self._job = self._begin(line, decision)
                return self._launch(self._job)
            assert isinstance(decision, Wait), "a classic rule runs a batch or waits"
            until = min(until, decision.until)
        first = self._deadlines.top()
        return Wait(until if first is None else min(until, self._items[ItemId(first)].deadline))

    def report(self, outcome: Outcome) -> Settled:
        """Settle the items of the batch that ran.

        Raises:
            ValueError: that batch is not the one that runs.
        """
        running, job = self._running, self._job
        if running is None or running.batch_id != outcome.batch_id:
            raise ValueError(f"batch {outcome.batch_id} is not running")
        assert job is not None, "what runs is part of a job"
        self._running = None
        if isinstance(outcome, OutOfMemory) and outcome.reading is not None:
            self.observe(outcome.reading)
        job.note(outcome)
        if isinstance(outcome, OutOfMemory) and len(running.members) == 1:
            settled = Settled(impossible=self._leave(running.members))
        elif isinstance(outcome, OutOfMemory) and self._serves(job.line):
            settled = self._halve(job, running)
        else:
            settled = Settled(finished=self._leave(running.members))
        self._close(job)
        return settled

    def observe(self, reading: MemoryReading) -> None:
        """Take over what the memory probes saw, and tell the rules that look at it."""
        self._reading = reading
        for model in self._models.values():
            for line in model.lines.values():
                _tell(line.rule, reading)

    def drain(self) -> None:
        """Refuse what comes from now on, and run what waits without waiting for more."""
        self._draining = True

    # ---- views -------------------------------------------------------------------------------------------------------

    def headroom(self) -> int | None:
        """Return the bytes that one batch may take now; None where nothing tells. The rules do not ask."""
        return headroom_bytes(self._reading, self._budget_policy)

    def max_queue_size(self, name: str) -> int | None:
        """Return how many items of a model may wait; None where it is not served."""
        model = self._models.get(name)
        return None if model is None else model.policy.max_queue_size

    def num_waiting(self) -> int:
        """Return how many items wait, over all models."""
        return len(self._line_of)

    def snapshot(self, now: float) -> ControllerSnapshot:
        """Return how everything stands."""
        return ControllerSnapshot(
            models=tuple(self._model_snapshot(name, model, now) for name, model in self._models.items()),
            budget_bytes=budget_bytes(self._reading, self._budget_policy),
            headroom_bytes=self.headroom(),
            running=None if self._running is None else self._running.batch_id,
            draining=self._draining,
        )

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _serves(self, line: _Line) -> bool:
        """Whether the line's model has not been removed since, nor served anew."""
        model = self._models.get(line.name)
        return model is not None and any(line is other for other in model.lines.values())

    def _line(self, item: Item, model: _Model) -> _Line:
        num_dimensions = len(item.shape)
        line = model.lines.get(num_dimensions)
        if line is None:
            line = model.lines[num_dimensions] = _Line(item.model, model.policy, self._make_rule(model.policy))
            _tell(line.rule, self._reading)
        return line

    def _by_age(self) -> list[_Line]:
        lines = [line for model in self._models.values() for line in model.lines.values() if line.waiting]
        return sorted(lines, key=lambda line: next(iter(line.waiting.values())).arrived)

    def _wait(self, item: Item, line: _Line) -> None:
        self._line_of[item.id] = line
        self._deadlines.push(item.deadline, item.id)

    def _waiting(self, line: _Line) -> Iterator[Item]:
        yield from line.waiting.values()
        if self._job is not None and self._job.line is line:
            for part in self._job.parts:
                yield from part

    def _num_queued(self, model: _Model) -> int:
        lines = model.lines.values()
        job = self._job
        parts = job.parts if job is not None and any(job.line is line for line in lines) else []
        return sum(len(line.waiting) for line in lines) + sum(map(len, parts))

    def _expire(self, now: float) -> list[ItemId]:
        expired: list[ItemId] = []
        while (first := self._deadlines.top()) is not None and self._items[ItemId(first)].deadline <= now:
            self._withdraw(ItemId(first))
            expired.append(ItemId(first))
        return expired

    def _withdraw(self, item_id: ItemId) -> None:
        """Take out an item that waits, wherever it does."""
        line = self._line_of.pop(item_id)
        del self._items[item_id]
        if line.waiting.pop(item_id, None) is not None:
            line.rule.cancel(item_id)
            return
        job = self._job
        assert job is not None, "what waits outside its line is part of a job"
        job.parts = [left for part in job.parts if (left := [item for item in part if item.id != item_id])]
        if self._running is None:
            self._close(job)

    def _begin(self, line: _Line, decision: RunBatch) -> _Job:
        members = [line.waiting.pop(item_id) for item_id in decision.items]
        reason = ReleaseReason.DRAIN if self._draining else decision.reason
        return _Job(line, decision.batch_id, reason, _within_limits(members, line.policy))

    def _launch(self, job: _Job) -> RunBatch:
        members = job.parts.pop(0)
        for item in members:
            del self._line_of[item.id]
        batch_id = BatchId(self._next_batch)
        self._next_batch += 1
        self._running = _Running(batch_id, members)
        padded_shape = _padded(members, job.line.policy)
        return plain_batch(batch_id, members, padded_shape, job.reason, queued_after=self.num_waiting())

    def _halve(self, job: _Job, running: _Running) -> Settled:
        """Put the two halves of a batch that did not fit before everything else."""
        middle = len(running.members) // 2
        halves = (running.members[:middle], running.members[middle:])
        kept = [[item for item in half if item.id not in running.cancelled] for half in halves]
        self._leave([item for item in running.members if item.id in running.cancelled])
        job.parts[:0] = [half for half in kept if half]
        requeued = [item for half in kept for item in half]
        for item in requeued:
            self._wait(item, job.line)
        return Settled(requeued=tuple(item.id for item in requeued))

    def _leave(self, members: list[Item]) -> tuple[ItemId, ...]:
        for item in members:
            del self._items[item.id]
        return tuple(item.id for item in members)

    def _close(self, job: _Job) -> None:
        """Tell the rule how its batch went, once nothing of it is left."""
        if not job.parts:
            self._job = None
            job.line.rule.report(job.outcome())

    def _model_snapshot(self, name: str, model: _Model, now: float) -> ModelSnapshot:
        arrivals = [item.arrived for line in model.lines.values() for item in self._waiting(line)]
        return ModelSnapshot(
            name=name,
            queued=len(arrivals),
            oldest_age_s=now - min(arrivals) if arrivals else 0.0,
            fixed_s=None,
            upper_factor=1.0,
            num_samples=0,
        )


def _tell(rule: Scheduler, reading: MemoryReading) -> None:
    if isinstance(rule, MemoryObserver):
        rule.observe(reading)


def _padded(members: list[Item], policy: ModelPolicy) -> Shape | None:
    """What a batch is padded to; None for a model whose items lie end to end."""
    return None if policy.layout is Layout.RAGGED else policy.padded(largest_shape(members))


def _within_limits(members: list[Item], policy: ModelPolicy) -> list[list[Item]]:
    """Cut a batch, in its own order, into parts that keep the model's limits; who must run alone is a part."""
    parts: list[list[Item]] = [[]]
    for item in members:
        grown = [*parts[-1], item]
        padded = _padded(grown, policy)
        elements = (
            sum(num_elements(one.shape) for one in grown) if padded is None else len(grown) * num_elements(padded)
        )
        over = policy.max_batch_elements is not None and elements > policy.max_batch_elements
        apart = item.alone or (len(grown) > 1 and grown[-2].alone)
        if parts[-1] and (apart or over or len(grown) > policy.max_batch_size):
            parts.append([item])
        else:
            parts[-1] = grown
    return parts
