"""Rungs that follow the traffic: the edges that pad the recent items least, solved anew as the sizes change.

Every dimension is solved on its own, over counts of its sizes alone. For one dimension that is exact; for two it
ignores how they go together, which would take padded areas, and a search over both, to weigh.

An edge, once learned, is where compiled graphs and measurements are kept, so edges move only for a gain, and seldom.
Items that wait keep the rung that they came in by.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from batchd.boundaries import Buckets, best_buckets, enough_buckets
from batchd.item import Shape
from batchd.ladder import Learned
from batchd.size_sketch import SizeSketch

FIRST_AFTER = 256
"""Items from which the first edges are learned: earlier ones would be those of a few."""
SOLVE_INTERVAL_S = 60.0
GAIN = 0.02
"""Share of all elements, padding included, by which the padding must fall for edges to move."""
WORTH_OF_A_RUNG = 0.005
"""Share of the data that one more rung must save in padding, where their number is not given."""
MAX_RUNGS = 32

NOT_A_STATE = "not a learned ladder's state"


@dataclass(slots=True)
class _Axis:
    """One dimension: its recent sizes and its edges, all in multiples of the ladder's step."""

    sizes: SizeSketch = field(default_factory=SizeSketch)
    edges: tuple[int, ...] = ()

    def rung(self, size: int) -> int:
        """Return the edge that holds `size`; beyond the last, and before anything is learned, a rung as it began."""
        index = bisect_left(self.edges, size)
        return self.edges[index] if index < len(self.edges) else Learned.first_rung(size)

    def solve(self, num_rungs: int | None) -> None:
        """Take the edges that pad the recent sizes least, if there are none yet or they gain enough."""
        counts = self.sizes.counts()
        data = sum(size * count for size, count in counts.items())
        if num_rungs is None:
            solved = enough_buckets(counts, WORTH_OF_A_RUNG * data, at_most=MAX_RUNGS)
        else:
            solved = best_buckets(counts, num_rungs)
        padding = sum(count * (self.rung(size) - size) for size, count in counts.items())
        current = Buckets(self.edges, padding, data)
        if not self.edges or current.padding_ratio - solved.padding_ratio > GAIN:
            self.edges = solved.edges


class LearnedLadder:
    """A ladder that hears of every item. Give times in order; nothing happens in between."""

    def __init__(self, wanted: Learned) -> None:
        self._wanted = wanted
        self._axes: list[_Axis] = []
        self._num_items = 0
        self._solved = -math.inf

    @property
    def edges(self) -> tuple[tuple[int, ...], ...]:
        """The edges of every dimension; empty where none have been learned."""
        return tuple(tuple(edge * self._wanted.step for edge in axis.edges) for axis in self._axes)

    def padded(self, shape: Shape) -> Shape:
        """Round every dimension up to its next rung; a dimension of 0 becomes the first."""
        self._know(len(shape))
        step = self._wanted.step
        return tuple(axis.rung(self._wanted.steps(size)) * step for axis, size in zip(self._axes, shape, strict=False))

    def observe(self, shape: Shape, now: float) -> None:
        """Count an item, and solve anew if it is time. A solution takes some 10 ms."""
        self._know(len(shape))
        for axis, size in zip(self._axes, shape, strict=False):
            axis.sizes.observe(self._wanted.steps(size))
        self._num_items += 1
        if self._num_items >= FIRST_AFTER and now - self._solved >= SOLVE_INTERVAL_S:
            self._solved = now
            for axis in self._axes:
                axis.solve(self._wanted.num_rungs)

    def state_dict(self) -> dict[str, Any]:
        """Return edges and sizes as JSON-able values."""
        return {
            "step": self._wanted.step,
            "num_rungs": self._wanted.num_rungs,
            "num_items": self._num_items,
            "axes": [{"edges": list(axis.edges), "sizes": axis.sizes.state_dict()} for axis in self._axes],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; under another step or number of rungs it is void, and learned anew.

        Raises:
            ValueError: where the state is not of that form.
        """
        try:
            same = (state["step"], state["num_rungs"]) == (self._wanted.step, self._wanted.num_rungs)
            num_items = int(state["num_items"])
            axes = [_loaded_axis(axis) for axis in state["axes"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{NOT_A_STATE}: {error}") from None
        if same:
            self._axes, self._num_items, self._solved = axes, max(0, num_items), -math.inf

    def _know(self, num_dimensions: int) -> None:
        while len(self._axes) < num_dimensions:
            self._axes.append(_Axis())


def _loaded_axis(state: Mapping[str, Any]) -> _Axis:
    edges = tuple(int(edge) for edge in state["edges"])
    if any(edge < 1 for edge in edges) or any(a >= b for a, b in pairwise(edges)):
        raise ValueError(f"edges must be positive and strictly increasing, got {list(edges)}")
    axis = _Axis(edges=edges)
    axis.sizes.load_state_dict(state["sizes"])
    return axis
