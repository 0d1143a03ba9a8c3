"""One epoch: every allowed example once, queued by bucket, in the epoch's random order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchd.sampler.example_sizes import IntArray
from batchd.sampler.random_order import draw


@dataclass(frozen=True, slots=True)
class Position:
    """How far an epoch has come. With the order and the buckets, it settles all that follows."""

    consumed: int  # examples taken, over all buckets
    entered: int  # examples that have come from the order into the queues
    taken: tuple[int, ...]  # examples taken, by bucket


class EpochQueues:
    """Queues by bucket that are filled from `order`, at most `window` examples ahead of what has been taken."""

    def __init__(self, order: IntArray, member: IntArray, num_buckets: int, window: int | None) -> None:
        """Take the examples in `order`, (allowed examples,), and the bucket of every example, (examples,)."""
        self._buckets_in_order = member[order]
        self._queued = order[np.argsort(self._buckets_in_order, kind="stable")]
        totals = np.bincount(self._buckets_in_order, minlength=num_buckets)
        self._starts = np.concatenate(([0], np.cumsum(totals)))
        self._window = window
        self.totals: IntArray = totals.astype(np.int64)
        self.restore(Position(0, 0, (0,) * num_buckets))

    @property
    def size(self) -> int:
        """Return the examples of the whole epoch."""
        return len(self._queued)

    @property
    def position(self) -> Position:
        """Return where the epoch stands."""
        return Position(self.consumed, self.entered, tuple(self._taken.tolist()))

    def restore(self, position: Position) -> None:
        """Go to a position that `position` gave.

        Raises:
            ValueError: it cannot be one of this epoch.
        """
        taken = np.array(position.taken, dtype=np.int64)
        if not (len(taken) == len(self.totals) and 0 <= position.consumed <= position.entered <= self.size):
            raise ValueError("the position is not one of this epoch")
        arrived = self._count(0, position.entered)
        if taken.sum() != position.consumed or (taken < 0).any() or (taken > arrived).any():
            raise ValueError("the position is not one of this epoch")
        self._taken = taken
        self._arrived = arrived
        self.consumed = position.consumed
        self.entered = position.entered

    def choose(self, capacities: IntArray, seed: int, epoch: int) -> int:
        """Return the bucket of the next batch, each with a chance in proportion to the batches that remain in it.

        So every order of the epoch's batches is equally likely, and the stream of sizes has no trend; were buckets
        chosen evenly, small ones would be used up early. While the order still has examples to give, only full batches
        count, and more examples than `window` enter where they make none.
        """
        self._enter(self.size if self._window is None else self.consumed + self._window)
        waiting = self._arrived - self._taken
        batches = waiting // capacities
        while self.entered < self.size and not batches.any():
            self._enter(self.entered + int(capacities.max()))
            waiting = self._arrived - self._taken
            batches = waiting // capacities
        if self.entered == self.size:
            batches = -(-waiting // capacities)
        cumulated = np.cumsum(batches)
        chance = draw(int(cumulated[-1]), seed, epoch, self.consumed)
        return int(np.searchsorted(cumulated, chance, side="right"))

    def take(self, bucket: int, at_most: int) -> list[int]:
        """Take the next examples of a bucket, in the epoch's order; fewer where no more have entered."""
        begin = int(self._starts[bucket] + self._taken[bucket])
        count = min(at_most, int(self._arrived[bucket] - self._taken[bucket]))
        self._taken[bucket] += count
        self.consumed += count
        found: list[int] = self._queued[begin : begin + count].tolist()
        return found

    def _enter(self, until: int) -> None:
        until = min(until, self.size)
        if until > self.entered:
            self._arrived = self._arrived + self._count(self.entered, until)
            self.entered = until

    def _count(self, begin: int, end: int) -> IntArray:
        counts = np.bincount(self._buckets_in_order[begin:end], minlength=len(self.totals))
        return counts.astype(np.int64)
