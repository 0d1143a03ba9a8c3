"""Padded shapes: the rungs that items are padded up to, so that compiled graphs and measurements are reused."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

from batchd.item import Shape


class Ladder(Protocol):
    """Maps an item's shape to the padded shape of its bucket."""

    def padded(self, shape: Shape) -> Shape:
        """Return the smallest rung that holds `shape`. Idempotent, and monotone in every dimension."""
        ...


@dataclass(frozen=True, slots=True)
class Multiples:
    """Every dimension is rounded up to a multiple of `step`."""

    step: int = 8

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"step must be at least 1, got {self.step}")

    def padded(self, shape: Shape) -> Shape:
        """Round every dimension up to a multiple of `step`; a dimension of 0 becomes one step."""
        return tuple(max(1, -(-size // self.step)) * self.step for size in shape)


@dataclass(frozen=True, slots=True)
class Proportional:
    """Every dimension is rounded up by less than one part in `parts` of itself: fine rungs for small sizes.

    Rungs between two powers of two are equally far apart, `parts` of them.
    """

    parts: int = 8

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise ValueError(f"parts must be at least 1, got {self.parts}")

    def padded(self, shape: Shape) -> Shape:
        """Round every dimension up to its next rung; a dimension of 0 becomes 1."""
        return tuple(self.rung(max(1, size)) for size in shape)

    def rung(self, size: int) -> int:
        """Return the rung that holds `size`, which is at least 1."""
        step = max(1, (1 << (size.bit_length() - 1)) // self.parts)
        return -(-size // step) * step


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Every dimension is rounded up to the next of `edges`; beyond the last, to a multiple of the last."""

    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.edges or self.edges[0] < 1 or any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges must be positive and strictly increasing, got {list(self.edges)}")

    def padded(self, shape: Shape) -> Shape:
        """Round every dimension up to the next edge."""
        return tuple(self._rung(size) for size in shape)

    def _rung(self, size: int) -> int:
        index = bisect_left(self.edges, size)
        if index < len(self.edges):
            return self.edges[index]
        last = self.edges[-1]
        return -(-size // last) * last


@dataclass(frozen=True, slots=True)
class Learned:
    """Asks for rungs that are learned from the traffic: `num_rungs` of them, or as many as pay, multiples of `step`.

    This is the wish; `batchd.learned_ladder.LearnedLadder` learns. Until it has, and beyond its last edge, rungs are
    proportional: eight between two powers of two, in steps.
    """

    num_rungs: int | None = None
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1 or (self.num_rungs is not None and self.num_rungs < 1):
            raise ValueError(f"num_rungs and step must be at least 1, got {self.num_rungs} and {self.step}")

    def padded(self, shape: Shape) -> Shape:
        """Round every dimension up to the rung that it has before anything is learned."""
        return tuple(self.first_rung(self.steps(size)) * self.step for size in shape)

    def steps(self, size: int) -> int:
        """Return how many steps hold `size`, at least 1."""
        return max(1, -(-size // self.step))

    @staticmethod
    def first_rung(steps: int) -> int:
        """Return the rung that holds so many steps before anything is learned."""
        return _FIRST.rung(steps)


_FIRST = Proportional()
