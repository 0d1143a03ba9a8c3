"""Decides what the device runs next: the one owner of everything that waits.

Pure: time, outcomes and memory readings come in as arguments, decisions go out as records. It must not know what drives
it (the device process, a simulator, a test), nor what an item holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from batchd.admission import Forecast, admit
from batchd.budget import BudgetPolicy, MemoryReading, budget_bytes, headroom_bytes
from batchd.decision import (
    Admission,
    Decision,
    Expire,
    RefusalReason,
    Refused,
    ReleaseReason,
    RunBatch,
    RunMicrobatch,
    Wait,
)
from batchd.forecasting import forecast
from batchd.formation import Formed
from batchd.item import BatchId, Item, ItemId, Shape, num_elements
from batchd.leasing.broker import Denied
from batchd.leasing.demand import TrainingPolicy
from batchd.leasing.leases import Leases
from batchd.lifecycle import Event, State, advance
from batchd.outcome import Completed, Failed, Outcome, OutOfMemory, Settled
from batchd.policy import ModelPolicy
from batchd.served_model import ServedModel
from batchd.snapshot import ControllerSnapshot, model_snapshot
from batchd.waiting_room import Waiting
from batchd.window import release_at

PROBE_AFTER = 8
"""Refusals in a row, with nothing run in between, after which the cost model is put to the test.

What is refused teaches nothing, so a law that has become too slow would otherwise refuse the same requests for ever.
"""

UNPRESSED_S = 3600.0
"""So long ago no deadline pressed: the batch that an item would get if it had time, for planning."""


@dataclass(frozen=True, slots=True)
class _Running:
    """The batch that holds the device."""

    batch_id: BatchId
    model: ServedModel
    formed: Formed
    started: float
    expected_s: float

    @property
    def members(self) -> tuple[Waiting, ...]:
        """Who is aboard."""
        return self.formed.members


class Controller:
    """One device, one decision maker. Not thread-safe: one thread owns it."""

    def __init__(
        self, budget_policy: BudgetPolicy | None = None, training_policy: TrainingPolicy | None = None
    ) -> None:
        self.leases = Leases(training_policy)
        """Who would train on the device, and what they would run next."""
        self._budget_policy = budget_policy or BudgetPolicy()
        self._models: dict[str, ServedModel] = {}
        self._states: dict[ItemId, State] = {}
        self._model_of: dict[ItemId, ServedModel] = {}
        self._reading = MemoryReading()
        self._running: _Running | None = None
        self._cancelled_aboard: set[ItemId] = set()
        self._next_batch = 0
        self._draining = False
        self._refused_idle = 0

    # ---- models ------------------------------------------------------------------------------------------------------

    def add_model(self, name: str, policy: ModelPolicy) -> None:
        """Begin to serve a model.

        Raises:
            ValueError: it is served already.
        """
        if name in self._models:
            raise ValueError(f"model {name!r} is served already")
        self._models[name] = ServedModel(name, policy)

    def remove_model(self, name: str) -> tuple[ItemId, ...]:
        """Stop serving a model and return its waiting items, which are dropped. A batch that runs is not recalled.

        Raises:
            KeyError: it is not served.
        """
        model = self._models.pop(name)
        dropped = tuple(waiting.item.id for waiting in model.room)
        for item_id in dropped:
            self._leave(item_id, Event.UNLOAD)
        return dropped

    def calibrate(self, name: str, batch_size: int, shape: Shape, seconds: float) -> None:
        """Learn from a batch of `batch_size` equal items that was run for measuring alone, before any traffic.

        Raises:
            KeyError: the model is not served.
        """
        self._models[name].calibrate(batch_size, num_elements(shape), seconds)

    def foresee(self, name: str, batch_size: int, shape: Shape, peak_bytes: int) -> None:
        """Hear what a batch of `batch_size` items padded to `shape` is thought to take over what is resident.

        Raises:
            KeyError: the model is not served.
        """
        self._models[name].foresee(batch_size, num_elements(shape), peak_bytes)

    def state_dict(self, name: str) -> dict[str, Any]:
        """Return what has been learned about a model, as JSON-able values."""
        return self._models[name].state_dict()

    def load_state_dict(self, name: str, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: where the state is not of that form.
        """
        self._models[name].load_state_dict(state)

    # ---- items -------------------------------------------------------------------------------------------------------

    def offer(self, item: Item, now: float) -> Admission:
        """Admit `item`, or refuse it with the reason.

        Raises:
            ValueError: an item of that id is known already.
        """
        if item.id in self._states:
            raise ValueError(f"item {item.id} was offered before")
        model = self._models.get(item.model)
        if model is None:
            return Refused(RefusalReason.UNKNOWN_MODEL, f"model {item.model!r} is not loaded", None)
        if self._draining:
            return Refused(RefusalReason.DRAINING, "the server is shutting down", 1.0)
        waiting = model.waiting(item)
        refused = model.refuse_outright(waiting, self.headroom())
        if refused is not None:
            return refused
        model.ask(waiting, now)
        admission = admit(self._forecast(waiting, model, now), item.deadline, accepted=item.accepted)
        if isinstance(admission, Refused):
            self._refused_idle += self._running is None and item.deadline > now
        else:
            self._states[item.id] = advance(State.OFFERED, Event.ADMIT)
            self._model_of[item.id] = model
            model.admit(waiting, now)
        return admission

    def cancel(self, item_id: ItemId) -> bool:
        """Forget an item. Returns whether it still waited; one that runs is finished and its answer is not wanted."""
        state = self._states.get(item_id)
        if state is None:
            return False
        if state is State.WAITING:
            self._model_of[item_id].room.remove(item_id)
            self._leave(item_id, Event.CANCEL)
            return True
        self._states[item_id] = advance(state, Event.CANCEL)
        self._cancelled_aboard.add(item_id)
        return False

    # ---- decisions ---------------------------------------------------------------------------------------------------

    def next(self, now: float) -> Decision:
        """Decide what the free device does now.

        While a batch or a lease runs the answer is to wait for its report. Otherwise the device is lent to training
        where it can be spared, and else runs the most urgent items.
        """
        if self._running is not None or self.leases.running is not None:
            return Wait(math.inf)
        expired = self._expire(now)
        if expired:
            return Expire(tuple(expired))
        earliest = math.inf
        if self.leases.wanted:
            lease = self._lease(now)
            if not isinstance(lease, Denied):
                return lease
            earliest = lease.until
        for model, anchor in self._by_urgency():
            # held back by the most urgent item's window, neither the oldest nor the next to expire may be forgotten
            for candidate in (anchor, model.room.oldest(), model.room.first_hopeless()):
                assert candidate is not None, "the room of an anchor is not empty"
                formed = self._form(model, candidate, now)
                release, reason = self._release(model, formed, now)
                if release <= now:
                    return self._launch(model, formed, reason, now)
                earliest = min(earliest, release)
        return Wait(earliest)

    def report(self, outcome: Outcome) -> Settled:
        """Learn from the batch that ran, and settle its items.

        Raises:
            ValueError: that batch is not the one that runs.
        """
        lease, running = self.leases.running, self._running
        lent = lease is not None and lease.batch_id == outcome.batch_id
        if not lent and (running is None or running.batch_id != outcome.batch_id):
            raise ValueError(f"batch {outcome.batch_id} is not running")
        if isinstance(outcome, OutOfMemory) and outcome.reading is not None:
            self.observe(outcome.reading)
        if lent:
            self.leases.report(outcome, self.headroom())
            return Settled()
        assert running is not None, "what runs is a lease or a batch"
        self._running = None
        match outcome:
            case Completed():
                return self._completed(running, outcome)
            case OutOfMemory():
                return self._out_of_memory(running)
            case Failed():
                return Settled(finished=self._finish(running))

    def observe(self, reading: MemoryReading) -> None:
        """Take over what the memory probes saw."""
        self._reading = reading

    def drain(self) -> None:
        """Refuse what comes from now on, and run what waits without waiting for more."""
        self._draining = True

    # ---- views -------------------------------------------------------------------------------------------------------

    def headroom(self) -> int | None:
        """Return the bytes that one batch may take now; None where nothing tells."""
        return headroom_bytes(self._reading, self._budget_policy)

    def max_queue_size(self, name: str) -> int | None:
        """Return how many items of a model may wait; None where it is not served."""
        model = self._models.get(name)
        return None if model is None else model.policy.max_queue_size

    def num_waiting(self) -> int:
        """Return how many items wait, over all models."""
        return sum(len(model.room) for model in self._models.values())

    def snapshot(self, now: float) -> ControllerSnapshot:
        """Return how everything stands."""
        return ControllerSnapshot(
            models=tuple(model_snapshot(model, now) for model in self._models.values()),
            budget_bytes=budget_bytes(self._reading, self._budget_policy),
            headroom_bytes=self.headroom(),
            running=None if self._running is None else self._running.batch_id,
            draining=self._draining,
            leases=self.leases.snapshot(now),
        )

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _forecast(self, waiting: Waiting, model: ServedModel, now: float) -> Forecast:
        lent_until = now if self.leases.running is None else max(now, self.leases.running.expected_end)
        running_until = now if self._running is None else self._running.started + self._running.expected_s
        idle = self._running is None and (self.num_waiting() == 0 or self._refused_idle >= PROBE_AFTER)
        return forecast(
            waiting, model, self._models.values(), now, lent_until=lent_until, running_until=running_until, idle=idle
        )

    def _expire(self, now: float) -> list[ItemId]:
        """Take out what is past its deadline, and what cannot make it while others could use the time."""
        expired: list[ItemId] = []
        for model in self._models.values():
            while (first := model.room.first_hopeless()) is not None and first.latest_start <= now:
                if first.item.deadline > now and self.num_waiting() == 1:
                    break
                model.room.remove(first.item.id)
                self._leave(first.item.id, Event.EXPIRE)
                self.leases.settled([(first.item.arrived, first.promised)], first.would_finish(now))
                expired.append(first.item.id)
        return expired

    def _by_urgency(self) -> list[tuple[ServedModel, Waiting]]:
        """The most urgent item of every model that has any, most urgent first."""
        anchors = [
            (model, anchor) for model in self._models.values() if (anchor := model.room.most_urgent()) is not None
        ]
        return sorted(anchors, key=lambda pair: (pair[1].urgency, pair[1].item.id))

    def _lease(self, now: float) -> RunMicrobatch | Denied:
        batch_id = BatchId(self._next_batch)
        lease = self.leases.grant(
            tuple(self._models.values()),
            lambda model, anchor: self._form(model, anchor, now - UNPRESSED_S),
            self.headroom(),
            batch_id,
            now,
            draining=self._draining,
        )
        if isinstance(lease, RunMicrobatch):
            self._next_batch += 1
        return lease

    def _form(self, model: ServedModel, anchor: Waiting, now: float) -> Formed:
        return model.form(anchor, self.headroom(), now)

    def _release(self, model: ServedModel, formed: Formed, now: float) -> tuple[float, ReleaseReason]:
        if self._draining:
            return now, ReleaseReason.DRAIN
        release, reason = release_at(model.policy, formed, model.law.upper * model.law.cost(formed.load), now)
        if reason is ReleaseReason.FULL and model.memory_binds(formed, self.headroom()):
            reason = ReleaseReason.MEMORY
        return release, reason

    def _launch(self, model: ServedModel, formed: Formed, reason: ReleaseReason, now: float) -> RunBatch:
        items = tuple([waiting.item.id for waiting in formed.members])
        model.room.remove_all(formed.members)
        self._states.update(dict.fromkeys(items, advance(State.WAITING, Event.LAUNCH)))
        load = formed.load
        batch_id = BatchId(self._next_batch)
        self._next_batch += 1
        self._refused_idle = 0
        self._running = _Running(batch_id, model, formed, now, model.law.cost(load))
        carried = sum([num_elements(waiting.item.shape) for waiting in formed.members])
        return RunBatch(
            batch_id=batch_id,
            model=model.name,
            items=items,
            padded_shape=formed.padded_shape,
            elements=load.elements,
            predicted_s=model.latency.predict(load),
            predicted_upper_s=model.latency.predict_upper(load),
            predicted_bytes=model.upper_bytes(formed),
            padding_ratio=0.0 if formed.padded_shape is None else 1.0 - carried / load.elements,
            reason=reason,
            queued_after=self.num_waiting(),
        )

    def _completed(self, running: _Running, outcome: Completed) -> Settled:
        model = running.model
        spans = [(waiting.item.arrived, waiting.promised) for waiting in running.members]
        self.leases.settled(spans, running.started + outcome.seconds)
        model.remember(running.formed, outcome.peak_bytes)
        if outcome.tight:
            model.remember_tight(running.formed, self.headroom())
        if not outcome.first_of_shape:
            model.learn(running.formed, outcome.seconds, len(model.room))
        return Settled(finished=self._finish(running))

    def _out_of_memory(self, running: _Running) -> Settled:
        model, members = running.model, running.members
        model.remember_out_of_memory(running.formed, self.headroom())
        if len(members) == 1:
            item_id = members[0].item.id
            self._cancelled_aboard.discard(item_id)
            self._leave(item_id, Event.OUT_OF_MEMORY_ALONE)
            return Settled(impossible=(item_id,), largest_fit=model.memory.largest_fit(self.headroom()))
        if model.name not in self._models or self._models[model.name] is not model:
            return Settled(finished=self._finish(running))
        requeued: list[ItemId] = []
        for waiting in members:
            item_id = waiting.item.id
            if item_id in self._cancelled_aboard:
                self._cancelled_aboard.discard(item_id)
                self._leave(item_id, Event.FINISH)
                continue
            self._states[item_id] = advance(self._states[item_id], Event.OUT_OF_MEMORY)
            model.room.add(waiting)
            requeued.append(item_id)
        return Settled(requeued=tuple(requeued))

    def _finish(self, running: _Running) -> tuple[ItemId, ...]:
        finished = tuple(waiting.item.id for waiting in running.members)
        for item_id in finished:
            self._cancelled_aboard.discard(item_id)
            self._leave(item_id, Event.FINISH)
        return finished

    def _leave(self, item_id: ItemId, event: Event) -> None:
        """The item reaches the end of its life and is forgotten."""
        advance(self._states.pop(item_id), event)
        del self._model_of[item_id]
