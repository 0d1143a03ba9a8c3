"""All that the controller keeps of one model: its policy, its cost models and who waits for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from batchd.decision import RefusalReason, Refused
from batchd.formation import CostLaw
from batchd.item import Item, Shape, num_elements
from batchd.latency_model import LatencyModel, Weights
from batchd.memory_model import MemoryModel
from batchd.policy import ModelPolicy
from batchd.waiting_room import Waiting, WaitingRoom

UNKNOWN_LAW = CostLaw(fixed=1e-3, per_item=0.0, per_element=1e-6, per_square=0.0, per_volume_square=0.0, upper=1.0)
"""Stands in until the first measurement: some fixed cost, and padding is not free."""

URGENCY_BINS_PER_SLO = 32
MAX_PADDING_FACTOR = 4.0
PRICE_MARGIN = 1.05
"""What can be reached over what has been: batches formed from short queues are in the mean, and lower it.

Simulated with 1.0, 1.05 and 1.2 near the capacity: 97.8, 98.0 and 98.0 of 100.5 in time, 4.9, 4.1 and 1.9 % padding,
and p50 90, 89 and 96 ms.
"""
SMOOTHING = 0.05
"""Share of a new batch in the running efficiency."""


@dataclass(slots=True)
class ServedModel:
    """One model under the controller."""

    name: str
    policy: ModelPolicy
    latency: LatencyModel = field(default_factory=LatencyModel)
    memory: MemoryModel = field(default_factory=MemoryModel)
    room: WaitingRoom = field(init=False)
    law: CostLaw = UNKNOWN_LAW
    efficiency: float = 0.5
    """Smoothed share of the device's time that batches' items would need at their own sizes."""
    _num_priced: int = 0
    padding_factor: float = 1.0
    """Smoothed: seconds that batches took beyond their fixed cost, over the own costs of their items."""
    backlog_batch_size: float = field(init=False)
    """Smoothed size of the batches that left others waiting."""

    def __post_init__(self) -> None:
        self.room = WaitingRoom(self.policy.slo_s / URGENCY_BINS_PER_SLO)
        self.backlog_batch_size = float(self.policy.max_batch_size)

    @property
    def price(self) -> float:
        """The useful work that a second of the device is worth; below 1, at which only equal sizes would share."""
        return min(PRICE_MARGIN * self.efficiency, (1.0 + self.efficiency) / 2)

    def waiting(self, item: Item) -> Waiting:
        """Return `item` as it would stand in the room: its padded shape, costs and urgency."""
        padded = self.policy.ladder.padded(item.shape)
        elements = num_elements(padded)
        own_cost = self.law.item_cost(elements)
        latest_start = item.deadline - self.law.fixed - own_cost
        level = item.priority or self.policy.default_priority
        shift = (level - self.policy.default_priority) * self.policy.slo_s
        return Waiting(item, padded, latest_start, item.deadline + shift, own_cost)

    def refuse_outright(self, item: Item, headroom: int | None) -> Refused | None:
        """Refuse what could never be served, or does not fit in the queue."""
        elements = num_elements(self.policy.ladder.padded(item.shape))
        limit = self.policy.max_item_elements
        if limit is not None and num_elements(item.shape) > limit:
            detail = f"the item has {num_elements(item.shape)} elements; {self.name} takes at most {limit}"
            return Refused(RefusalReason.TOO_LARGE, detail, None)
        known_bad = self.memory.largest_single(headroom)
        if known_bad is not None and elements >= known_bad:
            detail = f"an item of {known_bad} padded elements ran out of memory alone; this one has {elements}"
            return Refused(RefusalReason.MEMORY, detail, None)
        if len(self.room) >= self.policy.max_queue_size:
            detail = f"{len(self.room)} items wait for {self.name}, its limit is {self.policy.max_queue_size}"
            return Refused(RefusalReason.QUEUE_FULL, detail, self.drain_seconds(*self.room.backlog.ahead_of(math.inf)))
        return None

    def drain_seconds(self, own_costs: float, num_items: int) -> float:
        """Return the device time that waiting items are worth: own costs, padding, and the batches' fixed cost."""
        num_batches = math.ceil(num_items / self.backlog_batch_size)
        return own_costs * self.padding_factor + num_batches * self.law.fixed

    def joins_last_batch(self, urgency: float) -> bool:
        """Return whether one more item of `urgency` needs no batch beyond those for the items before it."""
        _, num_items = self.room.backlog.ahead_of(urgency)
        return math.ceil((num_items + 1) / self.backlog_batch_size) == math.ceil(num_items / self.backlog_batch_size)

    def max_batch(self, elements: int, headroom: int | None) -> int:
        """Return the largest batch of items of `elements` padded elements that the limits and the memory allow."""
        return self.memory.max_batch_size(elements, headroom, self._limit(elements))

    def memory_binds(self, batch_size: int, shape: Shape, headroom: int | None) -> bool:
        """Return whether a batch whose largest item has `shape` could be larger if it were not for the memory."""
        elements = num_elements(self.policy.ladder.padded(shape))
        limit = self._limit(elements)
        return self.memory.max_batch_size(elements, headroom, limit) <= batch_size < limit

    def _limit(self, elements: int) -> int:
        limit = self.policy.max_batch_size
        if self.policy.max_batch_elements is not None:
            limit = max(1, min(limit, self.policy.max_batch_elements // max(1, elements)))
        return limit

    def learn(self, members: tuple[Waiting, ...], elements: int, seconds: float, left_waiting: int) -> None:
        """Correct the cost models after a batch of items of `elements` padded elements that paid no one-off costs."""
        self._observe(len(members), elements, seconds)
        own_costs = sum(self.law.item_cost(num_elements(waiting.item.shape)) for waiting in members)
        if own_costs > 0:
            self._num_priced += 1
            rate = max(SMOOTHING, 1.0 / (1 + self._num_priced))  # close to a plain mean at first
            self.efficiency += rate * (min(1.0, own_costs / seconds) - self.efficiency)
            factor = min(MAX_PADDING_FACTOR, max(1.0, (seconds - self.law.fixed) / own_costs))
            self.padding_factor += 0.1 * (factor - self.padding_factor)
        if left_waiting:
            self.backlog_batch_size += 0.1 * (len(members) - self.backlog_batch_size)

    def calibrate(self, batch_size: int, elements: int, seconds: float) -> None:
        """Take a measurement made outside traffic."""
        self.memory.observe(batch_size, elements, None)
        self._observe(batch_size, elements, seconds)

    def _observe(self, batch_size: int, elements: int, seconds: float) -> None:
        self.latency.observe(batch_size, elements, seconds)
        weights = self.latency.coefficients
        if weights is not None:
            self.law = _law(weights, self.latency.upper_factor())

    def state_dict(self) -> dict[str, Any]:
        """Return what has been learned, as JSON-able values."""
        return {
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
        efficiency, padding_factor = (state.get(name, getattr(self, name)) for name in ("efficiency", "padding_factor"))
        if not all(isinstance(value, int | float) and 0 <= value < math.inf for value in (efficiency, padding_factor)):
            raise ValueError("not a served model's state: efficiency and padding_factor must be numbers from 0 on")
        latency, memory = LatencyModel(self.latency.config), MemoryModel(self.memory.config)
        latency.load_state_dict(state["latency"])
        memory.load_state_dict(state["memory"])
        self.latency, self.memory = latency, memory  # both or none
        self.efficiency = min(1.0, float(efficiency))
        self.padding_factor = min(MAX_PADDING_FACTOR, max(1.0, float(padding_factor)))
        weights = self.latency.coefficients
        if weights is not None:
            self.law = _law(weights, self.latency.upper_factor())


def _law(weights: Weights, upper: float) -> CostLaw:
    fixed, per_item, per_element, per_square, per_volume_square = weights
    return CostLaw(
        fixed=fixed,
        per_item=per_item,
        per_element=per_element,
        per_square=per_square,
        per_volume_square=per_volume_square,
        upper=upper,
    )
