"""One training tenant: what its work costs, how much of the device it has had, and how much of its demand to run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from batchd.latency_model import LatencyModel, Weights
from batchd.leasing.demand import Demand, Quantum
from batchd.load import Load
from batchd.memory_model import MemoryModel

EFFICIENT = 0.95
"""Share of a microbatch's time that its items need: more items would gain little and block the device for longer."""
WASTEFUL = 0.5
"""Below this a microbatch that was made small to fit is not worth its fixed cost, and inference goes first; unless it
is at least this share of what would fit an empty device."""
GROWTH = 2
"""A microbatch may be this many times the largest that was timed: its time is not known yet."""

FIRST_REST_S = 1.0
"""How long a tenant is lent nothing after a lease that came to nothing and could not have been smaller."""
LONGEST_REST_S = 60.0
"""It doubles with every further one, up to this."""
FREE_GROWTH = 1.2
"""Headroom that has grown by this factor since ends a rest for want of memory."""
PATIENCE_S = 5.0
"""What is refused for want of slack has half as much caution shown to it every so many seconds. It would otherwise
never run under steady traffic, and what never runs teaches nothing."""
PROBE_S = 60.0
"""How long work that seems too long for even an empty device waits until it is put to the test: one slow run must not
bar it for ever. Doubles with every test in a row."""
MOST_PROBES = 6


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
    seconds: float = 0.0
    """Device time that it has had."""
    refused_since: float | None = None
    """When slack was first too short for what it wants; None where that was not so."""
    rests_until: float = -math.inf
    _probes: int = 0  # in a row
    _setbacks: int = 0  # in a row
    _short_of: int | None = None  # headroom when it last ran out of memory
    _latencies: dict[Quantum, LatencyModel] = field(default_factory=dict)
    _timed: dict[int, int] = field(default_factory=dict)  # elements -> largest microbatch that was timed

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"weight must be positive, got {self.weight}")

    def plan(
        self, demand: Demand, slack_s: float, headroom: int | None, *, empty_s: float = math.inf, caution: float = 1.0
    ) -> Plan | None:
        """Return the quantum to run within `slack_s`; None where none fits.

        The smallest microbatch that is efficient, of those that memory allows, even shares of what is left of the
        global batch. One that must be smaller than that to fit is refused when its fixed cost would be most of it, and
        an empty device, which can be spared for `empty_s`, would take one twice as large. `caution` is how much of the
        margin over expected times is kept.
        """
        if demand.quantum is not Quantum.MICROBATCH:
            expected, upper = self._times(demand, 1, caution)
            return Plan(1, expected, upper, None) if upper is None or upper <= slack_s else None
        largest = min(demand.items, self.memory.max_batch_size(demand.elements, headroom, demand.items))
        wanted = min(largest, self._efficient_size(demand.elements))
        wanted = math.ceil(demand.items / math.ceil(demand.items / wanted))
        expected, upper = self._times(demand, wanted, caution)
        if upper is not None and upper > slack_s:
            fits = self._largest_within(demand, wanted, slack_s, caution)
            expected, upper = self._times(demand, fits, caution)
            if fits == 0 or expected is None:
                return None
            fixed = expected if self._weights is None else self._weights[0]
            if fits < WASTEFUL * self._largest_within(demand, wanted, empty_s, caution) and (
                expected - fixed < WASTEFUL * expected
            ):
                return None
            wanted = fits
        return Plan(wanted, expected, upper, self.memory.upper_bytes(wanted, demand.elements))

    def caution(self, now: float) -> float:
        """Return how much of the margins is kept: less the longer it has been refused for want of slack."""
        if self.refused_since is None:
            return 1.0
        return math.exp2(-max(0.0, now - self.refused_since) / PATIENCE_S)

    def refused(self, now: float) -> None:
        """Slack was too short for what it wants."""
        if self.refused_since is None:
            self.refused_since = now

    def granted(self, *, probe: bool = False) -> None:
        """It has the device; as a `probe` of work that seemed too long."""
        self.refused_since = None
        self._probes = min(self._probes + 1, MOST_PROBES) if probe else 0

    def may_probe(self, now: float) -> bool:
        """Return whether work that seems too long has waited long enough to be put to the test."""
        return self.refused_since is not None and now - self.refused_since >= PROBE_S * 2.0**self._probes

    def completed(
        self, demand: Demand, items: int, seconds: float, peak_bytes: int | None, *, one_off: bool = False
    ) -> None:
        """Learn from a quantum that ran; one that paid `one_off` costs says nothing about time."""
        self._setbacks = 0
        if demand.quantum is Quantum.MICROBATCH:
            self.memory.observe(items, demand.elements, peak_bytes)
        if one_off:
            return
        if demand.quantum is Quantum.MICROBATCH:
            self._timed[demand.elements] = max(items, self._timed.get(demand.elements, 0))
        self._latency(demand.quantum).observe(Load.padded(items, demand.elements), seconds)

    def ran_out_of_memory(self, demand: Demand, items: int, headroom: int | None, now: float) -> None:
        """Learn that a quantum did not fit into `headroom` bytes: it comes again smaller, or after a rest."""
        if demand.quantum is Quantum.MICROBATCH:
            self.memory.observe_out_of_memory(items, demand.elements, headroom)
        if items == 1:
            self.failed(now)
            self._short_of = headroom

    def failed(self, now: float) -> None:
        """Rest after a lease that came to nothing: whoever fails at once would else have the device all the time."""
        self.rests_until = now + min(LONGEST_REST_S, FIRST_REST_S * 2.0**self._setbacks)
        self._setbacks = min(self._setbacks + 1, 16)
        self._short_of = None

    def rests(self, headroom: int | None, now: float) -> bool:
        """Return whether it is lent nothing now."""
        if self._short_of is not None and headroom is not None and headroom > FREE_GROWTH * self._short_of:
            return False
        return now < self.rests_until

    def charge(self, seconds: float) -> None:
        """Count device time."""
        self.seconds += seconds
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
        if cap == 0 or self._weights is None:
            return 1
        fixed, per_item, per_element, per_square, _ = self._weights
        each = per_item + elements * (per_element + elements * per_square)
        if each <= 0:
            return cap
        return max(1, min(cap, math.ceil(fixed / each * EFFICIENT / (1 - EFFICIENT))))

    def _largest_within(self, demand: Demand, wanted: int, slack_s: float, caution: float) -> int:
        """The largest microbatch up to `wanted` whose upper time fits; 0 where none does."""
        low, high = 0, wanted
        while low < high:
            middle = (low + high + 1) // 2
            upper = self._times(demand, middle, caution)[1]
            low, high = (middle, high) if upper is not None and upper <= slack_s else (low, middle - 1)
        return low

    @property
    def _weights(self) -> Weights | None:
        return self._latency(Quantum.MICROBATCH).coefficients

    def _times(self, demand: Demand, items: int, caution: float) -> tuple[float | None, float | None]:
        """(expected seconds, upper seconds)."""
        latency = self._latency(demand.quantum)
        expected = latency.predict(Load.padded(items, demand.elements))
        if expected is None:
            expected = demand.expected_s
        return expected, None if expected is None else expected * (1 + caution * (latency.upper_factor() - 1))

    def _latency(self, quantum: Quantum) -> LatencyModel:
        return self._latencies.setdefault(quantum, LatencyModel())
