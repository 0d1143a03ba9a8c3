"""Between a schedule's proposal and the global batch size: smooth, bounded, on a grid, and not too often.

A schedule may be noisy or wrong; whatever it proposes, the size stays within its bounds, changes by at most a ratio per
commit, rests between changes, and every commit leaves a record.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

from batchd.parameters import Count, NotNegative, Range, Share, check
from batchd.schedules import Bounds, Proposal, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorSettings:
    """How a size may change.

    Raises:
        ValueError: a field is out of its range, the grid has no point within the bounds, or a change that the grid or
            the dead band asks for is larger than `max_ratio`: the size could never move.
    """

    bounds: Bounds
    grid: Literal["multiples", "powers"] = "multiples"
    """Multiples of `multiple`; or the smallest size times powers of the square root of 2, and the largest."""
    multiple: Count = 1
    smoothing: Share = 0.3
    """Weight of a proposal in the moving average of log sizes; 1 is none."""
    max_ratio: Annotated[float, Range(above=1)] | None = 2.0
    """Most that one commit multiplies or divides the size by; None: no limit."""
    dead_band: NotNegative = 0.2
    """Changes below this share are not worth one."""
    cooldown_steps: Annotated[int, Range(at_least=0)] = 10
    """Steps between two changes; at least as many as the statistics average over."""
    monotone: bool = False
    """Never down."""
    sizes: Sequence[int] = field(init=False)
    """All sizes on the grid, ascending."""

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "sizes", self._grid())
        if not self.sizes:
            low, high = self.bounds.min_size, self.bounds.max_size
            raise ValueError(f"multiple must have a multiple in [{low}, {high}], got {self.multiple}")
        if self.max_ratio is None:
            return
        steps = self.sizes[:2] if self.grid == "multiples" else self.sizes  # of multiples, the first step is the widest
        widest = max((b / a for a, b in pairwise(steps)), default=1.0)
        if self.max_ratio < widest:
            raise ValueError(
                f"max_ratio must be at least {widest:.4g}, the widest step of the grid, got {self.max_ratio}"
            )
        if self.max_ratio < 1 + self.dead_band:
            raise ValueError(
                f"dead_band must be at most max_ratio - 1 = {self.max_ratio - 1:.4g}, got {self.dead_band}"
            )

    def _grid(self) -> Sequence[int]:
        low, high = self.bounds.min_size, self.bounds.max_size
        if self.grid == "multiples":
            return range(-(-low // self.multiple) * self.multiple, high + 1, self.multiple)
        steps = range(math.floor(2 * math.log2(high / low) + 1e-9) + 1)
        return tuple(sorted({*(min(high, math.floor(low * 2 ** (step / 2) + 0.5)) for step in steps), high}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One decision, as the journal keeps it."""

    step: int
    schedule: str
    raw: float | None
    """What was proposed; None where that was no finite number."""
    smoothed: float
    size: int
    """The global batch size from this step on."""
    reason: str
    changed: bool


class Governor:
    """Keeps one global batch size. The same proposals give the same sizes."""

    def __init__(self, settings: GovernorSettings, size: int | None = None) -> None:
        """Start from the grid's point next to `size`, or from the smallest."""
        self.settings = settings
        self._size = settings.sizes[0] if size is None else self._snapped(float(size), self._all())
        self._log_average = math.log(self._size)
        self._changed_at: int | None = None

    @classmethod
    def of(cls, schedule: Schedule, bounds: Bounds, size: int | None = None, **settings: Any) -> Governor:
        """Make one whose defaults suit the schedule; `settings` go before them.

        An immediate schedule is followed as it is. One that is asked once per epoch has averaged already.

        Raises:
            ValueError: see `GovernorSettings`.
        """
        defaults: dict[str, Any] = {}
        if schedule.immediate:
            defaults = {"smoothing": 1.0, "max_ratio": None, "dead_band": 0.0, "cooldown_steps": 0}
        elif schedule.unit == "epoch":
            defaults = {"smoothing": 1.0}
        return cls(GovernorSettings(bounds=bounds, **{**defaults, **settings}), size)

    @property
    def size(self) -> int:
        """The global batch size in force."""
        return self._size

    def commit(self, proposal: Proposal, *, step: int, schedule: str) -> Commit:
        """Decide the size of the steps from `step` on."""
        if not math.isfinite(proposal.target):
            return self._kept(step, schedule, None, "proposal is not finite")
        bounds, low, high = self.settings.bounds, *self._reach()
        weight = self.settings.smoothing
        proposed = math.log(bounds.clamp(proposal.target))
        self._log_average = (1 - weight) * self._log_average + weight * proposed
        # The average must not run away from a size that may only follow slowly (anti-windup).
        self._log_average = min(max(self._log_average, math.log(low)), math.log(high))
        target = bounds.clamp(proposal.target) if weight == 1 else math.exp(self._log_average)
        snapped = self._snapped(target, self._within(low, high))
        refusal = self._refusal(snapped, step)
        if refusal:
            return self._kept(step, schedule, proposal.target, refusal)
        self._size, self._changed_at = snapped, step
        return self._record(step, schedule, proposal.target, proposal.reason, changed=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the size and what it remembers, as JSON."""
        return {"size": self._size, "log_average": self._log_average, "changed_at": self._changed_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from another one's state; a size off this one's grid becomes the nearest on it.

        Raises:
            ValueError: the state is something else's.
        """
        if set(state) != {"size", "log_average", "changed_at"}:
            raise ValueError(f"the state of a governor has size, log_average and changed_at, got {sorted(state)}")
        self._size = self._snapped(float(state["size"]), self._all())
        self._log_average = float(state["log_average"])
        self._changed_at = state["changed_at"]

    def _refusal(self, snapped: int, step: int) -> str | None:
        settings = self.settings
        if snapped == self._size:
            return "as it is"
        if settings.monotone and snapped < self._size:
            return "monotone: never down"
        if abs(math.log(snapped / self._size)) < math.log1p(settings.dead_band):
            return "change within the dead band"
        if self._changed_at is not None and step - self._changed_at < settings.cooldown_steps:
            return "cooling down"
        return None

    def _reach(self) -> tuple[float, float]:
        """The sizes that one commit can lead to."""
        sizes, ratio = self.settings.sizes, self.settings.max_ratio
        if ratio is None:
            return float(sizes[0]), float(sizes[-1])
        ratio *= 1 + 1e-12  # a grid's step may be exactly the ratio
        return max(self._size / ratio, sizes[0]), min(self._size * ratio, sizes[-1])

    def _all(self) -> tuple[int, int]:
        return 0, len(self.settings.sizes)

    def _within(self, low: float, high: float) -> tuple[int, int]:
        """The slice of the grid within [low, high]; the size in force is always in it."""
        sizes = self.settings.sizes
        end = bisect_left(sizes, math.floor(high) + 1)
        return bisect_left(sizes, low), end

    def _snapped(self, target: float, part: tuple[int, int]) -> int:
        """The nearest point of a part of the grid; of two as near, the larger, as floor(x + 1/2) has it."""
        start, end = part
        sizes = self.settings.sizes
        place = bisect_left(sizes, target, start, end)
        below, above = sizes[max(start, place - 1)], sizes[min(end - 1, place)]
        return above if abs(above - target) <= abs(target - below) else below

    def _kept(self, step: int, schedule: str, raw: float | None, why: str) -> Commit:
        return self._record(step, schedule, raw, f"keep: {why}", changed=False)

    def _record(self, step: int, schedule: str, raw: float | None, reason: str, *, changed: bool) -> Commit:
        return Commit(
            step=step,
            schedule=schedule,
            raw=raw,
            smoothed=math.exp(self._log_average),
            size=self._size,
            reason=reason,
            changed=changed,
        )
