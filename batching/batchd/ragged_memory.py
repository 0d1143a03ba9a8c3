"""Bounds the peak memory of items that lie end to end, by the laws for padded ones.

A batch of T elements is to the memory model T items of one element, so that between two measured sums the chord
bounds, and beyond the largest the proportional. Sums are rounded down to a rung: the peak of a batch bounds that of
any smaller one, and there are few of them. This holds where what grows faster than an item's length is small beside the
rest, as with fused attention, which keeps no matrix of scores.

What single items teach is kept by their own size, as for padded ones: the largest that ran, and the smallest that did
not fit alone.
"""

from __future__ import annotations

from batchd.load import rung_below
from batchd.memory_model import MemoryModel

PARTS = 8
"""Rungs between two powers of two."""


def observe(memory: MemoryModel, sizes: tuple[int, ...], peak_bytes: int | None) -> None:
    """Learn that items of these elements ran together, and with what peak if that was measured."""
    memory.observe(rung_below(sum(sizes), PARTS), 1, peak_bytes)
    memory.observe(1, max(sizes), None)


def observe_tight(memory: MemoryModel, sizes: tuple[int, ...], headroom: int | None) -> None:
    """Learn that they only just fitted while `headroom` bytes were thought to be free."""
    memory.observe_tight(sum(sizes), 1, headroom)


def observe_out_of_memory(memory: MemoryModel, sizes: tuple[int, ...], headroom: int | None) -> None:
    """Learn that they did not fit. What ran out of memory alone bounds larger items, and batches as large as it."""
    if len(sizes) == 1:
        first_of_size = not memory.has_run(sizes[0])
        memory.observe_out_of_memory(1, sizes[0], headroom)
        if not first_of_size:
            return  # the item fails for a reason of its own
    memory.observe_out_of_memory(max(2, sum(sizes)), 1, headroom)


def upper_bytes(memory: MemoryModel, elements: int) -> int | None:
    """Return bytes that a batch of `elements` in all does not exceed; None before any measurement."""
    return memory.upper_bytes(elements, 1)


def max_elements(memory: MemoryModel, headroom: int | None, at_most: int) -> int:
    """Return the largest sum of elements that may be tried with several items. One item may always be tried."""
    return memory.max_batch_size(1, headroom, at_most)
