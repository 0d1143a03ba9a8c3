"""The examples of one optimizer step that still have to run, and how they are cut.

A step's examples fall into parts, whose gradients are kept apart until a part is complete: what gradient noise is
measured from must not depend on what the device had free. Within a part the largest examples come first, so that like
sizes run together and what does not fit is found out at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchd.item import Shape, num_elements
from batchd.sampler import plan_microbatches

Sizes = npt.NDArray[np.int64]
"""Variable sizes of every example of a dataset: (N, dimensions)."""

FULLNESS = 0.5
"""Least share of a microbatch's elements that carry data: smaller examples wait for the next."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Examples that run together."""

    ids: tuple[int, ...]
    padded_shape: Shape

    @property
    def elements(self) -> int:
        """Padded elements, of all examples."""
        return len(self.ids) * num_elements(self.padded_shape)

    def __str__(self) -> str:
        what = "one example" if len(self.ids) == 1 else f"a group of {len(self.ids)} examples"
        return f"{what} of {self.elements} elements"


class StepPlan:
    """Hands out cuts of the open part; `done` takes them off, so that what failed comes again.

    Without `slice_size` a cut has as many examples as the device was lent for. With it every step is cut in the same
    way, into slices of so many, and a lease runs one or more of them: that makes a run repeatable to the bit. A `group`
    of so many examples, which the network wants to see together, is never parted.
    """

    def __init__(self, parts: Sequence[Sequence[int]], sizes: Sizes, *, slice_size: int | None, group: int = 1) -> None:
        self._sizes = sizes
        self._slice_size = slice_size
        self._parts: deque[deque[Cut]] = deque(self._cuts(part, slice_size or group) for part in parts if part)

    @property
    def finished(self) -> bool:
        """Whether every example has run."""
        return not self._parts

    @property
    def part_complete(self) -> bool:
        """Whether the open part has run, so that it can be closed."""
        return bool(self._parts) and not self._parts[0]

    @property
    def parts_left(self) -> int:
        """Parts that are not closed, the open one among them."""
        return len(self._parts)

    @property
    def units(self) -> int:
        """How many units, examples or slices, may run at once: those from the largest on that pad each other little."""
        if not self._parts:
            return 0
        part = self._parts[0]
        if self._slice_size is not None:
            return len(part)
        own = 0
        for count, cut in enumerate(part):
            own += cut.elements
            if own < FULLNESS * (count + 1) * part[0].elements:
                return count
        return len(part)

    @property
    def elements(self) -> int:
        """Padded elements of the next unit; none that follows in its part has more."""
        return self._parts[0][0].elements

    def next_cuts(self, units: int) -> list[Cut]:
        """Return what to run when the device is lent for so many units: one cut, or a slice after another."""
        chosen = list(self._parts[0])[:units]
        if self._slice_size is not None:
            return chosen
        merged = self._merged(chosen)
        while len(chosen) > 1 and merged.elements > units * self.elements:  # a wide one and a high one
            chosen = chosen[: len(chosen) // 2]
            merged = self._merged(chosen)
        return [merged]

    def done(self, cut: Cut) -> None:
        """Take off what ran."""
        left = len(cut.ids)
        while left > 0:
            left -= len(self._parts[0].popleft().ids)

    def close_part(self) -> None:
        """Go on to the next part."""
        assert self.part_complete, "a part was closed that still has examples to run"
        self._parts.popleft()

    def cut_finer(self, slice_size: int) -> None:
        """Cut what is left into smaller slices."""
        self._slice_size = slice_size
        self._parts = deque(self._cuts([i for cut in part for i in cut.ids], slice_size) for part in self._parts)

    def _merged(self, cuts: Sequence[Cut]) -> Cut:
        ids = tuple(example for cut in cuts for example in cut.ids)
        return Cut(ids, tuple(int(size) for size in self._sizes[np.asarray(ids)].max(axis=0)))

    def _cuts(self, ids: Sequence[int], largest: int) -> deque[Cut]:
        if not ids:
            return deque()
        plan = plan_microbatches(self._sizes[np.asarray(ids)], lambda _: largest)
        return deque(Cut(tuple(ids[index] for index in cut.indices), cut.padded_shape) for cut in plan)


def random_parts(ids: Sequence[int], count: int, seed: int, step: int) -> list[list[int]]:
    """Deal a step's examples into `count` parts of nearly the same size, at random but by the arguments alone."""
    order = np.random.default_rng([seed, step, len(ids)]).permutation(len(ids))
    return [[ids[index] for index in part.tolist()] for part in np.array_split(order, min(count, len(ids)))]
