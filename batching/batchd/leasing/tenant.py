"""One training tenant: what its work costs, how much of the device it has had, and how much of its demand to run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from batchd.latency_model import LatencyModel
from batchd.leasing.demand import Demand, Quantum
from batchd.load import Load
from batchd.memory_model import MemoryModel

EFFICIENT = 0.95
"""Share of a microbatch's time that its items need: more items would gain little and block the device for longer."""
WASTEFUL = 0.5
"""Below this a microbatch that was made small to fit is not worth its fixed cost, and inference goes first."""
GROWTH = 2
"""A microbatch may be this many times the largest that was timed: its time is not known yet."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A quantum that could run now."""

    items: int
    expected_s: float | None
    upper_s: float | None
    peak_bytes: int | None


@dataclass(slots=True)
class Tenant:
    """A job, or a process of its own, that trains on the device."""

    name: str
    weight: float = 1.0
    demand: Demand | None = None
    memory: MemoryModel = field(default_factory=MemoryModel)
    used: float = 0.0
    """Seconds of the device over `weight`: who has least of it is next."""
    _latencies: dict[Quantum, LatencyModel] = field(default_factory=dict)
    _timed: dict[int, int] = field(default_factory=dict)  # elements -> largest microbatch that was timed

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"weight must be positive, got {self.weight}")

    def plan(self, demand: Demand, slack_s: float, headroom: int | None) -> Plan | None:
        """Return the quantum to run within `slack_s`; None where none fits.

        The smallest microbatch that is efficient, of those that memory allows, even shares of what is left of the
        global batch. One that must be smaller than that to fit is refused when its fixed cost would be most of it.
        """
        if demand.quantum is not Quantum.MICROBATCH:
            expected, upper = self._times(demand, 1)
            return Plan(1, expected, upper, None) if upper is None or upper <= slack_s else None
        largest = min(demand.items, self.memory.max_batch_size(demand.elements, headroom, demand.items))
        wanted = min(largest, self._efficient_size(demand.elements))
        wanted = math.ceil(demand.items / math.ceil(demand.items / wanted))
        expected, upper = self._times(demand, wanted)
        if upper is not None and upper > slack_s:
            wanted = self._largest_within(demand, wanted, slack_s)
            if wanted == 0:
                return None
            expected, upper = self._times(demand, wanted)
        return Plan(wanted, expected, upper, self.memory.upper_bytes(wanted, demand.elements))

    def observe(self, demand: Demand, items: int, seconds: float, peak_bytes: int | None) -> None:
        """Learn from a quantum that ran."""
        if demand.quantum is Quantum.MICROBATCH:
            self.memory.observe(items, demand.elements, peak_bytes)
            self._timed[demand.elements] = max(items, self._timed.get(demand.elements, 0))
        self._latency(demand.quantum).observe(Load.padded(items, demand.elements), seconds)

    def charge(self, seconds: float) -> None:
        """Count device time."""
        self.used += seconds / self.weight

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned, as JSON-able values."""
        return {
            "latency": {str(quantum): model.state_dict() for quantum, model in self._latencies.items()},
            "memory": self.memory.state_dict(),
            "timed": [list(pair) for pair in self._timed.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: where the state is not of that form.
        """
        try:
            latencies = {Quantum(name): LatencyModel() for name in state["latency"]}
            for quantum, model in latencies.items():
                model.load_state_dict(state["latency"][quantum])
            memory = MemoryModel(self.memory.config)
            memory.load_state_dict(state["memory"])
            timed = {int(elements): int(items) for elements, items in state["timed"]}
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a training tenant's state: {error}") from None
        self._latencies, self.memory, self._timed = latencies, memory, timed

    def _efficient_size(self, elements: int) -> int:
        """The smallest microbatch that is efficient, as far as growth allows."""
        cap = GROWTH * max((items for other, items in self._timed.items() if other >= elements), default=0)
        weights = self._latency(Quantum.MICROBATCH).coefficients
        if cap == 0 or weights is None:
            return 1
        fixed, per_item, per_element, per_square, _ = weights
        each = per_item + elements * (per_element + elements * per_square)
        if each <= 0:
            return cap
        return max(1, min(cap, math.ceil(fixed / each * EFFICIENT / (1 - EFFICIENT))))

    def _largest_within(self, demand: Demand, wanted: int, slack_s: float) -> int:
        """The largest microbatch below `wanted` whose upper time fits; 0 where it would be wasteful, or none fits."""
        low, high = 0, wanted - 1
        while low < high:
            middle = (low + high + 1) // 2
            upper = self._times(demand, middle)[1]
            low, high = (middle, high) if upper is not None and upper <= slack_s else (low, middle - 1)
        expected, _ = self._times(demand, low)
        weights = self._latency(demand.quantum).coefficients
        if low == 0 or expected is None or weights is None or expected - weights[0] < WASTEFUL * expected:
            return 0
        return low

    def _times(self, demand: Demand, items: int) -> tuple[float | None, float | None]:
        latency = self._latency(demand.quantum)
        expected = latency.predict(Load.padded(items, demand.elements))
        if expected is None:
            expected = demand.expected_s
        return expected, None if expected is None else expected * latency.upper_factor()

    def _latency(self, quantum: Quantum) -> LatencyModel:
        return self._latencies.setdefault(quantum, LatencyModel())
