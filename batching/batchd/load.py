"""What a batch asks of the device: all that its predicted time depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PARTS = 4
"""Rungs between two powers of two in which unequal loads count as alike."""


@dataclass(frozen=True, slots=True)
class Load:
    """The sums over a batch that the cost law is linear in."""

    batch_size: int
    elements: int
    """Of all items together, padding included."""
    squares: int
    """Sum over the items of their elements squared."""

    @classmethod
    def padded(cls, batch_size: int, elements: int) -> Load:
        """Return the load of items padded to `elements` each."""
        volume = batch_size * elements
        return cls(batch_size, volume, volume * elements)

    @classmethod
    def ragged(cls, sizes: Iterable[int]) -> Load:
        """Return the load of items of these elements, laid end to end."""
        each = tuple(sizes)
        return cls(len(each), sum(each), sum(size * size for size in each))

    def plus(self, elements: int) -> Load:
        """Return the load with one more item of `elements` laid to its end."""
        return Load(self.batch_size + 1, self.elements + elements, self.squares + elements * elements)

    def within(self, reach: int) -> Load:
        """Return the load as if no item had more than `reach` elements, as far as the sums tell."""
        most = reach * self.batch_size
        if self.elements <= most and self.squares <= reach * most:
            return self
        return Load(self.batch_size, min(self.elements, most), min(self.squares, reach * most))

    def cell(self) -> Load:
        """Return what stands for all loads like this one: equal items for themselves, others by coarse rungs.

        Equal items are those that meet the Cauchy-Schwarz bound `elements^2 <= batch_size * squares`. Unequal ones
        hardly ever recur exactly, and would each be a kind of its own.
        """
        if self.elements * self.elements == self.batch_size * self.squares:
            return self
        return Load(rung_below(self.batch_size, PARTS), rung_below(self.elements, PARTS), rung_below(self.squares, 1))


def rung_below(size: int, parts: int) -> int:
    """Round `size` down to one of `parts` rungs between two powers of two; 0 stays 0."""
    step = max(1, (1 << (size.bit_length() - 1)) // parts) if size else 1
    return size // step * step
