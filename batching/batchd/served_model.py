"""All that the controller keeps of one model: its policy, its cost models and who waits for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batchd import ragged_memory
from batchd.decision import RefusalReason, Refused, ReleaseReason
from batchd.formation import UNBOUNDED, CostLaw, Formed, Worth, form_batch
from batchd.item import Item, Shape, num_elements
from batchd.ladder import Ladder, Learned
from batchd.latency_model import LatencyModel, Weights
from batchd.learned_ladder import LearnedLadder
from batchd.leasing.arrival_rate import ArrivalRate
from batchd.load import Load
from batchd.memory_model import MemoryModel
from batchd.policy import Layout, ModelPolicy, PadTo
from batchd.ragged_formation import RaggedLimits, form_ragged
from batchd.waiting_room import Waiting, WaitingRoom

UNKNOWN_LAW = CostLaw(fixed=1e-3, per_item=0.0, per_element=1e-6, per_square=0.0, per_volume_square=0.0, upper=1.0)
"""Stands in until the first measurement: some fixed cost, and padding is not free."""

URGENCY_BINS_PER_SLO = 32
MAX_PADDING_FACTOR = 4.0
PRICE_MARGIN = 1.05
"""What can be reached over what has been: batches formed from short queues are in the mean, and lower it.

Simulated near the capacity (log-normal lengths, 2 ms + 0.24 ms per token) 1.0 and 1.05 differ by less than seeds do.
"""
LARGE_FADES = 0.99
"""What is left, after each item that comes, of the memory of how much a large one costs."""
SMOOTHING = 0.05
"""Share of a new batch in the running efficiency."""
END_TO_END: Shape = ()
"""The one group of items that are not padded: whatever their sizes, they share batches."""
CANDIDATES = 2
"""Items that are looked at for a ragged batch, over its largest size: some are passed over."""


@dataclass(slots=True)
class ServedModel:
    """One model under the controller."""

    name: str
    policy: ModelPolicy
    latency: LatencyModel = field(default_factory=LatencyModel)
    memory: MemoryModel = field(default_factory=MemoryModel)
    room: WaitingRoom = field(init=False)
    learned_ladder: LearnedLadder | None = field(init=False)
    """Where the policy asks for one; else its own ladder holds."""
    law: CostLaw = UNKNOWN_LAW
    efficiency: float = 0.5
    """Smoothed share of the device's time that was useful work: items' own costs and shares of the fixed cost."""
    batch_size: float = 1.0
    """Smoothed size of the batches."""
    _num_priced: int = 0
    padding_factor: float = 1.0
    """Smoothed: seconds that batches took beyond their fixed cost, over the own costs of their items."""
    backlog_batch_size: float = field(init=False)
    """Smoothed size of the batches that left others waiting."""
    arrivals: ArrivalRate = field(default_factory=ArrivalRate)
    """Seconds of work that are admitted per second."""
    asked: ArrivalRate = field(default_factory=ArrivalRate)
    """Seconds of the device's time that are asked for per second, admitted or not."""
    large_cost: float = 0.0
    """Own cost in seconds of a large item, as of late."""

    def __post_init__(self) -> None:
        wanted = self.policy.ladder
        self.learned_ladder = LearnedLadder(wanted) if isinstance(wanted, Learned) else None
        self.room = WaitingRoom(self.policy.slo_s / URGENCY_BINS_PER_SLO)
        self.backlog_batch_size = float(self.policy.max_batch_size)

    @property
    def worth(self) -> Worth:
        """What a second of the device and an item's service are worth."""
        price = min(PRICE_MARGIN * self.efficiency, (1.0 + self.efficiency) / 2)
        return Worth(price, self.law.fixed / self.batch_size)

    @property
    def ladder(self) -> Ladder:
        """What groups the items that come now."""
        return self.learned_ladder or self.policy.ladder

    def ask(self, waiting: Waiting, now: float) -> None:
        """Note that an item came that could be served."""
        self.asked.add(waiting.own_cost * self.padding_factor + self.law.fixed / self.backlog_batch_size, now)

    def admit(self, waiting: Waiting, now: float) -> None:
        """Let an item in, and learn its size."""
        self.room.add(waiting)
        self.arrivals.add(waiting.own_cost, now)
        self.large_cost = max(waiting.own_cost, LARGE_FADES * self.large_cost)
        if self.learned_ladder is not None:
            self.learned_ladder.observe(waiting.item.shape, now)

    @property
    def ragged(self) -> bool:
        """Whether items lie end to end."""
        return self.policy.layout is Layout.RAGGED

    def form(self, anchor: Waiting, headroom: int | None, now: float) -> Formed:
        """Return the batch that `anchor` would run in now."""
        if anchor.item.alone:
            return self._alone(anchor)
        if self.ragged:
            urgent = self.room.take(self.room.group_of(anchor), CANDIDATES * self.policy.max_batch_size)
            limits = RaggedLimits(self.policy.max_batch_size, self._max_elements(headroom))
            return form_ragged(anchor, urgent, self.law, self.worth, now, limits)
        return form_batch(
            self.room,
            anchor,
            self.law,
            self.worth,
            now,
            lambda elements: self.memory.max_batch_size(elements, headroom, self._limit(elements)),
            self._padded,
        )

    def _alone(self, waiting: Waiting) -> Formed:
        if self.ragged:
            return Formed((waiting,), ReleaseReason.ALONE, None, Load.ragged([waiting.elements]))
        shape = self._padded((waiting,))
        return Formed((waiting,), ReleaseReason.ALONE, shape, Load.padded(1, num_elements(shape)))

    def _padded(self, members: Sequence[Waiting]) -> Shape:
        """What a batch is padded to. Items keep the rungs that they came in by, whatever was learned since."""
        if self.policy.pad_to is PadTo.RUNG:
            return tuple(map(max, zip(*[waiting.padded_shape for waiting in members], strict=True)))
        return self.policy.padded(tuple(map(max, zip(*[waiting.item.shape for waiting in members], strict=True))))

    def _in_room(self, shape: Shape) -> tuple[Shape, int]:
        """The group that an item of `shape` waits in, and what it adds to a batch of its like."""
        if self.ragged:
            return END_TO_END, max(1, num_elements(shape))
        padded = self.ladder.padded(shape)
        return padded, num_elements(padded)

    def waiting(self, item: Item) -> Waiting:
        """Return `item` as it would stand in the room: its padded shape, costs and urgency."""
        padded, elements = self._in_room(item.shape)
        own_cost = self.law.item_cost(elements)
        latest_start = item.deadline - self.law.fixed - own_cost
        level = item.priority or self.policy.default_priority
        shift = (level - self.policy.default_priority) * self.policy.slo_s
        promised = min(item.deadline, item.arrived + self.policy.slo_s)
        return Waiting(item, padded, latest_start, item.deadline + shift, own_cost, elements, promised)

    def refuse_outright(self, waiting: Waiting, headroom: int | None) -> Refused | None:
        """Refuse what could never be served, or does not fit in the queue."""
        item, elements = waiting.item, waiting.elements
        limit = self.policy.max_item_elements
        if limit is not None and num_elements(item.shape) > limit:
            detail = f"the item has {num_elements(item.shape)} elements; {self.name} takes at most {limit}"
            return Refused(RefusalReason.TOO_LARGE, detail, None)
        known_bad = self.memory.largest_single(headroom)
        if known_bad is not None and elements >= known_bad:
            fits = self.memory.largest_fit(headroom)
            known_good = "" if fits is None else f"; {fits} are thought to fit"
            detail = (
                f"an item of {known_bad} padded elements ran out of memory alone; this one has {elements}{known_good}"
            )
            return Refused(RefusalReason.MEMORY, detail, None)
        if len(self.room) >= self.policy.max_queue_size and not item.accepted:
            detail = f"{len(self.room)} items wait for {self.name}, its limit is {self.policy.max_queue_size}"
            return Refused(RefusalReason.QUEUE_FULL, detail, self.drain_seconds(*self.room.backlog.ahead_of(math.inf)))
        return None

    def drain_seconds(self, own_costs: float, num_items: int) -> float:
        """Return the device time that waiting items are worth: own costs, padding, and the batches' fixed cost."""
        num_batches = math.ceil(num_items / self.backlog_batch_size)
        return own_costs * self.padding_factor + num_batches * self.law.fixed

    def joins_last_batch(self, num_items: int) -> bool:
        """Return whether one more item needs no batch beyond those for the `num_items` before it."""
        return math.ceil((num_items + 1) / self.backlog_batch_size) == math.ceil(num_items / self.backlog_batch_size)

    def memory_binds(self, formed: Formed, headroom: int | None) -> bool:
        """Return whether a full batch could be larger if it were not for the memory."""
        batch_size = len(formed.members)
        if self.ragged:
            limit = self.policy.max_batch_elements or UNBOUNDED
            return batch_size < self.policy.max_batch_size and self._max_elements(headroom) < limit
        elements = max(waiting.elements for waiting in formed.members)
        limit = self._limit(elements)
        return self.memory.max_batch_size(elements, headroom, limit) <= batch_size < limit

    def upper_bytes(self, formed: Formed) -> int | None:
        """Return bytes that a batch does not exceed; None before any measurement."""
        if self.ragged:
            return ragged_memory.upper_bytes(self.memory, formed.load.elements)
        return self.memory.upper_bytes(*_cell(formed))

    def remember(self, formed: Formed, peak_bytes: int | None) -> None:
        """Learn that a batch ran, and with what peak."""
        if self.ragged:
            ragged_memory.observe(self.memory, _sizes(formed), peak_bytes)
        else:
            self.memory.observe(*_cell(formed), peak_bytes)

    def remember_tight(self, formed: Formed, headroom: int | None) -> None:
        """Learn that a batch only just fitted."""
        if self.ragged:
            ragged_memory.observe_tight(self.memory, _sizes(formed), headroom)
        else:
            self.memory.observe_tight(*_cell(formed), headroom)

    def remember_out_of_memory(self, formed: Formed, headroom: int | None) -> None:
        """Learn that a batch did not fit."""
        if self.ragged:
            ragged_memory.observe_out_of_memory(self.memory, _sizes(formed), headroom)
        else:
            self.memory.observe_out_of_memory(*_cell(formed), headroom)

    def _max_elements(self, headroom: int | None) -> int:
        """The largest sum of elements of several items, as limits and memory allow."""
        limit = self.policy.max_batch_elements or UNBOUNDED
        return ragged_memory.max_elements(self.memory, headroom, limit)

    def _limit(self, elements: int) -> int:
        limit = self.policy.max_batch_size
        if self.policy.max_batch_elements is not None:
            limit = max(1, min(limit, self.policy.max_batch_elements // max(1, elements)))
        return limit

    def learn(self, formed: Formed, seconds: float, left_waiting: int) -> None:
        """Correct the latency model after a batch that paid no one-off costs."""
        members = formed.members
        self._observe(formed.load, seconds)
        if seconds <= 0:  # a clock that stood still says nothing
            return
        own_costs = sum(self.law.item_cost(num_elements(waiting.item.shape)) for waiting in members)
        if own_costs > 0:
            self._num_priced += 1
            rate = max(SMOOTHING, 1.0 / (1 + self._num_priced))  # close to a plain mean at first
            self.batch_size += rate * (len(members) - self.batch_size)
            useful = own_costs + len(members) * self.law.fixed / self.batch_size
            self.efficiency += rate * (min(1.0, useful / seconds) - self.efficiency)
            factor = min(MAX_PADDING_FACTOR, max(1.0, (seconds - self.law.fixed) / own_costs))
            self.padding_factor += 0.1 * (factor - self.padding_factor)
        if left_waiting:
            self.backlog_batch_size += 0.1 * (len(members) - self.backlog_batch_size)

    def calibrate(self, batch_size: int, elements: int, seconds: float) -> None:
        """Take a measurement made outside traffic."""
        if self.ragged:
            ragged_memory.observe(self.memory, (elements,) * batch_size, None)
        else:
            self.memory.observe(batch_size, elements, None)
        self._observe(Load.padded(batch_size, elements), seconds)

    def foresee(self, batch_size: int, elements: int, peak_bytes: int) -> None:
        """Take a prediction of what a batch will take in memory."""
        if not self.ragged:  # padded batches are predicted
            self.memory.foresee(batch_size, elements, peak_bytes)

    def _observe(self, load: Load, seconds: float) -> None:
        self.latency.observe(load, seconds)
        weights = self.latency.coefficients
        if weights is not None:
            self.law = _law(weights, self.latency.upper_factor(), self.latency.reach)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been learned, as JSON-able values."""
        ladder = {} if self.learned_ladder is None else {"ladder": self.learned_ladder.state_dict()}
        return ladder | {
            "layout": self.policy.layout.value,
            "latency": self.latency.state_dict(),
            "memory": self.memory.state_dict(),
            "efficiency": self.efficiency,
            "padding_factor": self.padding_factor,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: where the state is not of that form.
        """
        if not isinstance(state.get("latency"), dict) or not isinstance(state.get("memory"), dict):
            raise ValueError("not a served model's state: needs the tables latency and memory")
        if state.get("layout") != self.policy.layout.value:
            learned = state.get("layout")
            raise ValueError(f"learned of {learned} batches, which says nothing of {self.policy.layout} ones")
        efficiency, padding_factor = (state.get(name, getattr(self, name)) for name in ("efficiency", "padding_factor"))
        if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in (efficiency, padding_factor)):
            raise ValueError("not a served model's state: efficiency and padding_factor must be numbers from 0 on")
        latency = LatencyModel(self.latency.config)
        memory = MemoryModel(self.memory.config, self.memory.prior.unjudged())
        latency.load_state_dict(state["latency"])
        memory.load_state_dict(state["memory"])
        if self.learned_ladder is not None and "ladder" in state:
            self.learned_ladder.load_state_dict(state["ladder"])  # or nothing at all is taken over
        self.latency, self.memory = latency, memory
        self.efficiency = min(1.0, float(efficiency))
        self.padding_factor = min(MAX_PADDING_FACTOR, max(1.0, float(padding_factor)))
        weights = self.latency.coefficients
        if weights is not None:
            self.law = _law(weights, self.latency.upper_factor(), self.latency.reach)


def _cell(formed: Formed) -> tuple[int, int]:
    """(items, padded elements of each) of a padded batch."""
    return formed.load.batch_size, formed.load.elements // formed.load.batch_size


def _sizes(formed: Formed) -> tuple[int, ...]:
    return tuple(waiting.elements for waiting in formed.members)


def _law(weights: Weights, upper: float, reach: int) -> CostLaw:
    fixed, per_item, per_element, per_square, per_volume_square = weights
    return CostLaw(
        fixed=fixed,
        per_item=per_item,
        per_element=per_element,
        per_square=per_square,
        per_volume_square=per_volume_square,
        upper=upper,
        reach=reach,
    )
